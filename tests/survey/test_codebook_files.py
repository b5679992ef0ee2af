"""Codebooks as surveys: what their worksheets declare, round trips, and files that are damaged or made to do harm."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datatile_provider.api.errors import SurveyUnreadableError
from datatile_provider.survey import codebook
from datatile_provider.survey.check import check_wave
from datatile_provider.survey.codebook import CodebookError, survey_of
from datatile_provider.survey.model import Survey, Variable, fold
from datatile_provider.survey.read import read
from tests.survey.plant import DATA

WAVE = DATA / "wave1.zsav"
VARIABLES: list[list[Any]] = [
    ["name", "type", "label"],
    ["vote", "CAT", "Expected vote"],
    ["age", "NUM", None],
    ["place", "TXT", ""],
]
VALUES: list[list[Any]] = [
    ["variable", "value", "label"],
    ["VOTE", 0, "Clinton"],
    ["vote", "1", "Dole"],
    ["vote", 2.5, "Other"],
]


def contents(path: Path) -> Survey:
    return read(path, path.name, database=path.parent / "keys.sqlite").survey


def workbook(path: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def unreadable(path: Path) -> str:
    started = time.monotonic()
    with pytest.raises(SurveyUnreadableError) as raised:
        contents(path)
    assert time.monotonic() - started < 60
    text = str(raised.value)
    assert "Traceback" not in text
    assert max(map(len, text.splitlines())) <= 90
    return raised.value.what


def test_variables_types_and_labels() -> None:
    assert survey_of({"Variables": VARIABLES, "Values": VALUES}, "tracker") == Survey(
        "tracker",
        (
            Variable("vote", "Expected vote", labels={0.0: "Clinton", 1.0: "Dole", 2.5: "Other"}),
            Variable("age"),
            Variable("place", kind="text"),
        ),
    )


def test_the_names_of_older_codebooks() -> None:
    sheets: dict[str, list[list[Any]]] = {
        "VARIABLES": [["Datatile ID", "Type"], ["vote", "cat"]],
        "values ": [["datatile_id", "code", "digit", "title"], ["vote", 1, 7.5, "Dole"]],
    }
    assert survey_of(sheets, "old").variables == (Variable("vote", labels={1.0: "Dole"}),)


def test_what_is_not_compared_is_said() -> None:
    variables: list[list[Any]] = [
        ["name", "type"],
        *(["m", "MC"], ["d", "MD"], ["i", "IGN"], ["n", ""], ["q", "QUIZ"], [None, "NUM"]),
        *(["vote", "CAT"], ["Vote", "CAT"]),
    ]
    values: list[list[Any]] = [["variable", "value"], ["vote", None], ["vote", True], ["none", 1], [None, 2]]
    survey = survey_of({"variables": variables, "values": values}, "tracker")
    assert survey.variables == (Variable("Vote"),)
    assert survey.notes == (
        "tracker: rows of the worksheet variables without a name: 7.",
        "tracker: rows of the worksheet values that can't be read: 2, 3, 5.",
        "tracker: values of variables that the codebook does not declare: none.",
        "tracker: not compared, of the type MC, which can be several variables of a file: m.",
        "tracker: not compared, of the type MD, which can be several variables of a file: d.",
        "tracker: not compared, of the type IGN, which a load ignores: i.",
        "tracker: not compared, without a type: n.",
        "tracker: not compared, of an unknown type: q.",
        "tracker: declared twice, and the last declaration counts: Vote.",
    )


@pytest.mark.parametrize(
    ("sheets", "reason"),
    [
        ({}, "it has no worksheet named variables (it has )"),
        ({"Data": [["a"]]}, "it has no worksheet named variables (it has Data)"),
        ({"variables": []}, "its worksheet variables has no column named name (it has )"),
        ({"variables": [["id", "type"]]}, "its worksheet variables has no column named name (it has id, type)"),
        ({"variables": VARIABLES, "values": [["variable"]]}, "its worksheet values has no column named value"),
    ],
)
def test_worksheets_that_are_not_a_codebook(sheets: dict[str, Any], reason: str) -> None:
    with pytest.raises(CodebookError, match="^" + reason.replace("(", r"\(").replace(")", r"\)")):
        survey_of(sheets, "tracker")


texts = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cn", "Co", "Zl", "Zp", "Cc")), max_size=12)
stripped = texts.map(str.strip)
names = stripped.filter(bool)
numbers = st.floats(-1e9, 1e9).map(lambda number: round(number, 3) + 0.0)
unlabelled = st.builds(Variable, names, stripped, st.sampled_from(["numeric", "text", "date"]))
labelled = st.builds(
    Variable, names, stripped, st.just("numeric"), st.dictionaries(numbers, stripped, min_size=1, max_size=4)
)
surveys = st.lists(unlabelled | labelled, max_size=6, unique_by=lambda variable: fold(variable.name)).map(
    lambda variables: Survey("tracker", tuple(variables))
)


@given(surveys)
def test_round_trip(survey: Survey) -> None:
    assert survey_of(codebook.sheets_of(survey), "tracker") == survey


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(survey=surveys)
def test_round_trip_through_a_file(tmp_path: Path, survey: Survey) -> None:
    path = tmp_path / "tracker.dtcb.xlsx"
    codebook.write(path, survey)
    book = openpyxl.load_workbook(path, read_only=True)
    sheets = {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
    assert survey_of(sheets, "tracker") == survey


cells = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["vote", "CAT"])


@given(
    st.dictionaries(
        st.sampled_from(["variables", "values", "properties", "other"]),
        st.lists(st.lists(cells | st.sampled_from(["name", "type", "variable", "value"]), max_size=4), max_size=5),
    )
)
def test_any_worksheets_are_read_or_rejected(sheets: dict[str, Any]) -> None:
    reason = ""
    variables: tuple[Variable, ...] = ()
    try:
        variables = survey_of(sheets, "tracker").variables
    except CodebookError as e:
        reason = str(e)
    assert reason.startswith(("it has no worksheet", "its worksheet")) if reason else "variables" in sheets
    assert all(variable.name for variable in variables)


def test_a_wave_is_checked_against_a_codebook(tmp_path: Path) -> None:
    path = tmp_path / "tracker.dtcb.xlsx"
    survey = read(WAVE, WAVE.name, database=tmp_path / "keys.sqlite").survey
    codebook.write(path, survey, {"ignore_undeclared_vars": True})
    found = contents(path)
    assert [(v.name, v.label, v.labels) for v in found.variables] == [
        (v.name, v.label, v.labels) for v in survey.variables
    ]
    assert found.notes == ()
    assert check_wave(WAVE, [path]).findings == ()
    sheet = (book := openpyxl.load_workbook(path))["values"]
    sheet["C2"] = "Another answer"
    book.save(path)
    assert [finding.rule for _, finding in check_wave(WAVE, [path]).findings] == ["other-label"]


def test_a_formula_without_a_value_is_not_a_name(tmp_path: Path) -> None:
    sheets = {"variables": [["name", "type"], ["=1+1", "NUM"], ["age", "NUM"]], "values": [["variable", "value"]]}
    survey = contents(workbook(tmp_path / "a.dtcb.xlsx", sheets))
    assert survey.variables == (Variable("age"),)
    assert survey.notes == ("a.dtcb.xlsx: rows of the worksheet variables without a name: 2.",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"no workbook", "it is not an Excel workbook, or it is damaged"),
        (b"PK\3\4", "it is not an Excel workbook, or it is damaged"),
    ],
)
def test_files_that_are_not_workbooks(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.dtcb.xlsx"
    path.write_bytes(content)
    assert reason in unreadable(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_workbook_that_is_cut(tmp_path: Path, share: float) -> None:
    path = workbook(tmp_path / "a.dtcb.xlsx", {"variables": VARIABLES, "values": VALUES})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "it is not an Excel workbook, or it is damaged" in unreadable(path)


def test_a_survey_is_not_a_codebook(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.dtcb.xlsx", {"Sheet": [["respondent", "vote"], [1, 2]]})
    assert unreadable(path) == (
        "The survey can't be read: it is not a codebook: it has no worksheet named variables (it has Sheet)"
    )


def replaced(path: Path, part: str, content: bytes) -> None:
    """Replace a part of a workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert part in parts
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**parts, part: content}.items():
            archive.writestr(name, data)


SHEET = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>%s</sheetData></worksheet>'


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(b'<row r="2000000000"><c r="A2000000000"><v>1</v></c></row>', id="a far row"),
        pytest.param(b"<row><c><v>1</v></c></row>" * 1_100_000, id="a zip bomb"),
        pytest.param(b"<a>" * 5_000_000, id="a deep part"),
    ],
)
def test_a_workbook_that_is_made_to_do_harm(tmp_path: Path, rows: bytes) -> None:
    path = workbook(tmp_path / "a.dtcb.xlsx", {"variables": VARIABLES, "values": VALUES})
    replaced(path, "xl/worksheets/sheet2.xml", SHEET % rows)
    unreadable(path)


def test_a_million_rows(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.dtcb.xlsx", {"variables": VARIABLES, "values": VALUES})
    text = '<c t="inlineStr"><is><t>%s</t></is></c>'
    row = "<row>" + text % "vote" + "<c><v>%d</v></c>" + text % "a label" + "</row>"
    header = "<row>" + "".join(text % name for name in VALUES[0]) + "</row>"
    replaced(path, "xl/worksheets/sheet2.xml", SHEET % (header + "".join(row % n for n in range(1_000_000))).encode())
    started = time.monotonic()
    (vote, _, _) = contents(path).variables
    assert len(vote.labels) == 1_000_000
    assert time.monotonic() - started < 120
