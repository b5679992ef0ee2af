"""The check of twelve waves of a real survey: each planted fault is found, and nothing else."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pyreadstat
import pytest

from datatile_provider.survey.check import check_wave
from datatile_provider.survey.findings import Result
from datatile_provider.survey.rules import RULES
from datatile_provider.survey.table import lines_of
from tests.survey.plant import DATA, FAULTS, KEY, REQUIRED, waves

#: The suffixes of the waves, so that both kinds of SPSS files are compared.
SUFFIXES = (".sav", ".zsav")
#: Whether the writer writes no encoding, as the last one for Python 3.10.
NO_ENCODING = pyreadstat.__version__ == "1.3.6"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("waves")
    return [wave.write(folder / f"wave{n}{SUFFIXES[n % 2]}") for n, wave in enumerate(waves())]


def found(result):
    return [(finding.rule, finding.variable, finding.codes) for _, finding in result.findings]


@pytest.mark.parametrize("number", range(12))
def test_nothing_is_found_in_an_untouched_wave(files: list[Path], number: int) -> None:
    result = check_wave(files[number], files[max(0, number - 3) : number], key=KEY, required=REQUIRED)

    assert found(result) == []
    assert result.notes == ()


@pytest.fixture(scope="module")
def check(files, tmp_path_factory):
    """A function that returns what is found in a wave with the fault of a rule."""

    @functools.cache
    def checked(rule: str) -> Result:
        number = 2 + list(FAULTS).index(rule) % 10
        wave, earlier = waves()[number], waves()[number - 1]
        FAULTS[rule][0](wave, earlier)
        suffix = "sav" if rule == "encoding" else "zsav"
        path = wave.write(tmp_path_factory.mktemp(rule) / f"wave.{suffix}")
        return check_wave(path, files[number - 2 : number], key=KEY, required=REQUIRED)

    return checked


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_is_found(check: Callable[[str], Result], rule: str) -> None:
    if rule == "encoding" and NO_ENCODING:
        pytest.skip("this pyreadstat writes no encoding")
    result = check(rule)

    assert sorted(found(result)) == sorted(FAULTS[rule][1])
    severities = {finding.rule: severity for severity, finding in result.findings}
    assert severities == {name: RULES[name].severity for name in severities}


@pytest.mark.timeout(240)
@pytest.mark.skipif(NO_ENCODING, reason="this pyreadstat writes no encoding")
def test_the_page_says_what_is_found(check: Callable[[str], Result], request: pytest.FixtureRequest) -> None:
    def row(rule: str) -> str:
        says = [
            f"{severity.value} `{finding.rule}`: {'<br>'.join(lines_of(finding))}"
            for severity, finding in check(rule).findings
        ]
        return f"| {str(FAULTS[rule][0].__doc__).rstrip('.')} | {'<br>'.join(says)} |\n"

    page = DATA.parents[1] / "docs" / "wave-check.md"
    table = re.compile(r"^\| planted .*\n(\|.*\n)*", re.MULTILINE)
    text = page.read_text("utf-8")
    head = "| planted | what the check says |\n|---|---|\n"
    written = table.sub(lambda _: head + "".join(map(row, FAULTS)), text)
    if request.config.getoption("--write-tables"):
        page.write_text(written, "utf-8")
    assert page.read_text("utf-8") == written
    assert len(table.findall(text)) == 1


def test_each_rule_is_planted_or_tested_elsewhere() -> None:
    # No SPSS file has the first two, and the others are about a loaded wave.
    assert set(RULES) - set(FAULTS) == {"name-length", "label-length", "variable-not-loaded", "code-not-loaded"}
