"""What changed between waves, by descriptions of surveys."""

from __future__ import annotations

import collections
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.survey.compare import compare
from datatile_provider.survey.findings import Finding, Result, severities, sort
from datatile_provider.survey.inspect import inspect, is_mojibake
from datatile_provider.survey.model import Contents, Kind, Survey, Variable, fold
from datatile_provider.survey.rules import RULES, Severity

YES_NO: dict[float | str, str] = {1.0: "Yes", 2.0: "No"}


def survey(*variables: Variable, rows: int | None = 100, labelled: bool = True) -> Survey:
    return Survey("wave.sav", variables, rows, "UTF-8", labelled=labelled)


def changes(before: Survey, after: Survey, *earlier: Survey) -> list[Finding]:
    return list(compare(after, [*earlier, before], 2.0))


def rules(before: Survey, after: Survey, *earlier: Survey) -> list[str]:
    return [finding.rule for finding in changes(before, after, *earlier)]


def labelled(labels: dict[float | str, str], **fields: object) -> Variable:
    return Variable("q", "Do you agree?", labels=labels, **fields)  # type: ignore[arg-type]  # for tests


codes = st.integers(0, 9).map(float)
names = st.text("abcäß_1", min_size=1, max_size=6)
variables = st.builds(
    Variable,
    names,
    st.text("abc é\u00a0", max_size=12),
    st.sampled_from(["numeric", "text", "date"]),
    st.dictionaries(codes, st.text("abc xyz", min_size=1, max_size=8), max_size=5),
    st.lists(codes.map(lambda code: (code, code)), max_size=2).map(tuple),
)
surveys = st.lists(variables, min_size=1, max_size=8, unique_by=lambda v: fold(v.name)).map(lambda vs: survey(*vs))


@given(surveys)
def test_nothing_has_changed_in_the_same_survey(same: Survey) -> None:
    shouted = replace(same, variables=tuple(replace(v, name=v.name.upper()) for v in same.variables))

    assert changes(same, same) == []
    if all(fold(a.name) == fold(b.name) for a, b in zip(same.variables, shouted.variables, strict=True)):
        assert changes(same, shouted) == []


@pytest.mark.parametrize("kind", ["numeric", "text", "date"])
def test_a_variable_without_values_has_no_type_to_compare(kind: Kind) -> None:
    known, empty, other = (
        survey(Variable("q", kind=found), labelled=False)
        for found in (kind, "unknown", "date" if kind == "text" else "text")
    )

    assert rules(known, empty) == rules(empty, known) == []
    # The type of an earlier wave still counts.
    assert rules(empty, other, known) == ["type-changed"]


@given(surveys, surveys)
def test_each_finding_is_of_a_rule_and_about_something(before: Survey, after: Survey) -> None:
    for finding in changes(before, after):
        assert finding.rule in RULES
        assert finding.before or finding.after
        assert finding.before != finding.after


@given(surveys, st.data())
def test_another_label_is_found(before: Survey, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(before.variables) - 1))
    variable = before.variables[number]
    if not variable.is_categorical:
        return
    code = data.draw(st.sampled_from(sorted(variable.labels)))
    other = replace(variable, labels={**variable.labels, code: "(another answer)"})
    after = replace(before, variables=(*before.variables[:number], other, *before.variables[number + 1 :]))

    assert [(f.rule, f.variable, f.codes) for f in changes(before, after)] == [("other-label", variable.name, (code,))]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({1.0: "Yes", 2.0: "No"}, {1.0: " Yes\u00a0", 2.0: "No"}, []),
        ({1.0: "Caf\u00e9"}, {1.0: "Cafe\u0301"}, []),
        ({1.0: "Yes", 2.0: "No"}, {1.0: "yes", 2.0: "No"}, ["other-label"]),
        ({1.0: "Yes", 2.0: "No"}, {1.0: "No", 2.0: "Yes"}, ["scale-reversed"]),
        ({1.0: "Bad", 2.0: "So so", 3.0: "Good"}, {3.0: "Bad", 2.0: "So so", 1.0: "Good"}, ["scale-reversed"]),
        # The whole scale has moved.
        ({0.0: "Bad", 1.0: "So so", 2.0: "Good"}, {1.0: "Bad", 2.0: "So so", 3.0: "Good"}, ["scale-reversed"]),
        ({1.0: "Yes", 2.0: "No", 9.0: "None"}, {1.0: "Yes", 2.0: "No", 8.0: "None"}, ["scale-reversed"]),
        # A label of two codes does not say which of them has moved.
        ({1.0: "Other", 2.0: "Other"}, {2.0: "Other", 3.0: "Other"}, ["code-gone", "new-code"]),
        ({1.0: "Yes"}, {1.0: "Yes", 2.0: "No"}, ["new-code"]),
        ({1.0: "Yes", 2.0: "No"}, {1.0: "Yes"}, ["code-gone"]),
        ({"a": "Yes"}, {"a": "No"}, ["other-label"]),
        (YES_NO, {}, ["type-changed"]),
        ({}, YES_NO, ["type-changed"]),
    ],
)
def test_codes(before: dict[float | str, str], after: dict[float | str, str], expected: list[str]) -> None:
    assert rules(survey(labelled(before)), survey(labelled(after))) == expected


def test_a_moved_scale_says_what_was_and_what_is() -> None:
    (finding,) = changes(survey(labelled({1.0: "Yes", 2.0: "No"})), survey(labelled({1.0: "No", 2.0: "Yes"})))

    assert finding.change == "1 = Yes, 2 = No -> 1 = No, 2 = Yes"


def test_labels_of_missing_codes_alone_make_no_categories() -> None:
    before = Variable("age", labels={99.0: "Refused"}, missing=((99.0, 99.0),))
    after = Variable("age", labels={98.0: "Refused"}, missing=((98.0, 98.0),))

    assert rules(survey(before), survey(after)) == ["missing-codes-changed", "scale-reversed"]
    assert rules(survey(before), survey(replace(before, labels={}))) == ["code-gone"]


def test_a_label_that_is_added_is_no_change() -> None:
    assert rules(survey(Variable("q")), survey(Variable("q", "How old are you?"))) == []
    assert rules(survey(Variable("q", "How old are you?")), survey(Variable("q"))) == ["label-changed"]


@pytest.mark.parametrize(
    ("gone", "new", "expected"),
    [
        (Variable("q1", "Your age"), Variable("age", "Your  age"), ["renamed-variable"]),
        (Variable("q1", "Your age"), Variable("age", "Your income"), ["variable-gone", "new-variable"]),
        (Variable("q1", labels=YES_NO), Variable("vote", labels=YES_NO), ["renamed-variable"]),
        # Two questions may have the same answers.
        (
            Variable("q1", "Rain?", labels=YES_NO),
            Variable("q2", "Sun?", labels=YES_NO),
            ["variable-gone", "new-variable"],
        ),
        (Variable("q1"), Variable("q2"), ["variable-gone", "new-variable"]),
        (
            Variable("q1", values=frozenset({"a", "b"})),
            Variable("q2", values=frozenset({"a", "b"})),
            ["renamed-variable"],
        ),
    ],
)
def test_names(gone: Variable, new: Variable, expected: list[str]) -> None:
    assert rules(survey(gone), survey(new)) == expected


def test_a_variable_that_is_like_two_others_is_not_said_to_be_renamed() -> None:
    after = survey(Variable("a", labels=YES_NO), Variable("b", labels=YES_NO))

    assert rules(survey(Variable("q", labels=YES_NO)), after) == ["variable-gone", "new-variable", "new-variable"]


def test_ten_thousand_variables_are_compared_soon() -> None:
    before = survey(*(Variable(f"q{n}", f"Question {n}", labels=YES_NO) for n in range(10_000)))
    after = survey(*(Variable(f"v{n}", f"Question {n}", labels=YES_NO) for n in range(10_000)))
    other = survey(*(Variable(f"v{n}", labels=YES_NO) for n in range(10_000)))

    assert collections.Counter(rules(before, after)) == {"renamed-variable": 10_000}
    assert collections.Counter(rules(before, other)) == {"variable-gone": 10_000, "new-variable": 10_000}


def test_very_many_findings_are_cut_as_data() -> None:
    findings = [(Severity.WARNING, Finding("new-variable", f"q{n}")) for n in range(1200)]
    data = Result("wave.sav", (), 1, tuple(findings)).as_dict()

    assert (data["warnings"], len(data["findings"])) == (1200, 1000)
    assert data["notes"] == ["200 more findings are in the report."]


def test_several_references() -> None:
    first = survey(labelled({1.0: "Yes", 2.0: "No", 3.0: "Maybe"}), Variable("dropped"))
    second = survey(labelled({1.0: "Yes", 2.0: "No"}))

    # What the latest wave does not have was dropped before.
    assert rules(second, second, first) == []
    # What an earlier wave has is not new.
    assert rules(second, first, first) == []
    # The label of an earlier wave still counts.
    assert rules(second, survey(labelled({1.0: "Yes", 2.0: "No", 3.0: "Never"})), first) == ["other-label"]


@pytest.mark.parametrize(
    ("earlier", "rows", "found"),
    [([100, 100], 200, 0), ([100, 100], 201, 1), ([100], 50, 0), ([100], 49, 1), ([90, 100, 5000], 120, 0), ([], 7, 0)],
)
def test_the_number_of_interviews(earlier: list[int], rows: int, found: int) -> None:
    references = [survey(Variable("q"), rows=number) for number in earlier]
    findings = list(compare(survey(Variable("q"), rows=rows), references, 2.0))

    assert [f.rule for f in findings] == ["row-count"] * found


def test_a_file_without_labels_is_compared_by_its_names_and_types() -> None:
    before = survey(labelled(YES_NO), Variable("age"), Variable("name", kind="text"))
    after = survey(Variable("Q"), Variable("age", kind="text"), Variable("name", kind="text"), labelled=False)

    assert [(f.rule, f.variable, f.change) for f in changes(before, after)] == [
        ("type-changed", "age", "numeric -> text")
    ]


@pytest.mark.parametrize(
    ("variable", "rule", "shown"),
    [
        (Variable("p" * 65), "name-length", "65 characters"),
        (Variable("2nd"), "name-characters", "begins with '2'"),
        (Variable("q 1-a"), "name-characters", "' ' '-'"),
        (Variable("Größe"), "name-characters", "'ß' 'ö'"),
        (Variable("AND"), "name-keyword", ""),
        (Variable("q", "x" * 1025), "label-length", f"{'x' * 60}… (1,025 characters)"),
        (Variable("q", labels={1.0: "y" * 1025}), "label-length", f"1 = {'y' * 60}… (1,025 characters)"),
        (Variable("q", "GrÃ¶ÃŸe"), "mojibake", "GrÃ¶ÃŸe"),
        (Variable("q", labels={1.0: "donâ€™t"}), "mojibake", "1 = donâ€™t"),
    ],
)
def test_a_variable_by_itself(variable: Variable, rule: str, shown: str) -> None:
    findings = list(inspect(Contents(survey(variable)), "", ()))

    assert [(f.rule, f.after) for f in findings] == [(rule, shown)]


@pytest.mark.parametrize("name", ["q1", "Q_1.a", "@q", "#q$1", "p" * 64])
def test_a_good_name(name: str) -> None:
    assert list(inspect(Contents(survey(Variable(name, "x" * 1024))), "", ())) == []


@given(st.text("äöüßéèêçñåøæÄÖÜÉ€łżşğ ", max_size=12))
def test_text_that_was_read_with_the_wrong_encoding_is_found(text: str) -> None:
    if text.isascii():
        return
    assert is_mojibake(text.encode("utf-8").decode("latin-1"))


@pytest.mark.parametrize(
    "text",
    ["Größe", "Ça va?", "Año", "l\u2019été", "“quoted”", "Złoty", "Ελλάδα", "Страна", "日本", "naïve façade", "€ 5"],
)
def test_text_in_other_letters_is_no_mojibake(text: str) -> None:
    assert not is_mojibake(text)


def test_severities() -> None:
    changed = severities({"new-variable": "ignore", "row-count": "error"})
    findings = [
        Finding("new-variable", "a"),
        Finding("other-label", "b"),
        Finding("row-count"),
        Finding("code-gone", "c"),
    ]

    assert [(s.value, f.rule) for s, f in sort(findings, changed)] == [
        ("error", "other-label"),
        ("error", "row-count"),
        ("warning", "code-gone"),
    ]
    assert changed["other-label"] is Severity.ERROR


@pytest.mark.parametrize(
    ("given_severity", "text"),
    [
        ({"new-varable": "ignore"}, "There is no rule 'new-varable'"),
        ({"row-count": "off"}, "There is no severity 'off'"),
    ],
)
def test_severities_that_do_not_exist(given_severity: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        severities(given_severity)
