"""The command ``check-wave`` as a process, as a researcher runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.survey.plant import DATA, KEY


def check(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "datatile_provider", "check-wave", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_good_wave() -> None:
    code, out, err = check(DATA / "wave2.zsav", "--reference", DATA / "wave1.zsav", "--key", KEY)

    assert (code, out) == (0, "")
    assert err == "Wave check of wave2.zsav: no errors, no warnings\nCompared with wave1.zsav\n"


def test_a_wave_with_errors(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    code, out, err = check(
        *(DATA / "whole.zsav", "--reference", DATA / "wave1.zsav", "--reference", DATA / "wave2.zsav"),
        *("--key", KEY, "--required", "weight", "--row-ratio", "1.5", "--report", report, "--json"),
    )

    assert code == 1
    assert err.splitlines() == [
        "Wave check of whole.zsav: 2 errors, 1 warning",
        "Compared with wave1.zsav, wave2.zsav",
        "ERROR known-interview: interviews that an earlier wave has",
        "  respondent: 944 keys: 1, 2, 3, 4, 5, …",
        "  What to do: Keep only the new interviews.",
        "ERROR required-missing: a required variable is missing",
        "  weight",
        "  What to do: Add it.",
        "WARNING row-count: the number of interviews is far from that of the earlier waves",
        "  472 interviews -> 944 interviews",
        "  What to do: Compare it with the fieldwork's count.",
    ]
    assert [f["rule"] for f in json.loads(out)["findings"]] == ["known-interview", "required-missing", "row-count"]
    assert "Wave check of whole.zsav" in report.read_text()


def test_a_severity() -> None:
    key = ("--key", KEY, "--severity", "known-interview=warning")

    assert check(DATA / "whole.zsav", "--reference", DATA / "wave1.zsav", *key)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.sav"], "No such file or directory"),
        ([DATA / "anes96.codebook.json"], "its suffix is not one of .sav, .zsav, .csv, .xlsx"),
        ([DATA / "wave1.zsav", "--severity", "row-count"], "--severity takes RULE=LEVEL, not 'row-count'"),
        ([DATA / "wave1.zsav", "--severity", "rows=error"], "There is no rule 'rows'"),
        ([DATA / "wave1.zsav", "--report", "/proc/no/report.html"], "can't be written"),
    ],
)
def test_what_can_not_be_used(arguments: list[object], text: str) -> None:
    code, out, err = check(*arguments)

    assert (code, out) == (2, "")
    assert text in " ".join(err.split())
