"""The sandbox's codebooks: what a load drops by their properties, and the page of a database."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas
import pyreadstat
import pytest
import requests

from datatile_provider.sandbox import Sandbox, codebook, jobs

ANSWERS = {"vote": [1.0, 1.0, 2.0, 7.0, 9.0], "age": [30.0, 41.0, 52.0, 63.0, 74.0], "place": ["a", "b", "c", "d", "e"]}
CODES: dict[int | float, str] = {1: "Yes", 2: "No", 3: "Perhaps", 9: "Refused"}


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    """Five interviews: vote has a code without a label, one without an answer, and one that is declared as missing."""
    path = tmp_path / "wave.sav"
    pyreadstat.write_sav(
        pandas.DataFrame(ANSWERS),
        path,
        column_labels={"vote": "Vote <now>"},
        variable_value_labels={"vote": CODES},
        missing_ranges={"vote": [9]},
    )
    return path


@pytest.fixture
def declare(user, tmp_path) -> Callable[..., requests.Response]:
    """Import a codebook of rows of variables, rows of values, and properties."""

    def declare(database: str, variables: list[Any], values: list[Any] = (), **properties: Any) -> requests.Response:  # type: ignore[assignment]
        book = openpyxl.Workbook()
        book.remove(book.worksheets[0])
        sheets = {
            "variables": [["name", "type", "label"], *variables],
            "values": [["variable", "value", "label"], *values],
            "properties": [["property", "value"], *properties.items()],
        }
        for title, rows in sheets.items():
            sheet = book.create_sheet(title)
            for row in rows:
                sheet.append(row)
        path = tmp_path / "codebook.dtcb.xlsx"
        book.save(path)
        return send(user.sandbox, database, path.read_bytes())

    return declare


def send(sandbox: Sandbox, database: str, content: bytes) -> requests.Response:
    url = f"{sandbox.url}/api/v2/projects/{database}/api/codebook/import-v2/"
    return requests.post(url, headers={"token": sandbox.token}, files={"file": ("a.xlsx", content)}, timeout=90)


def exported(sandbox: Sandbox, database: str) -> dict[str, Any]:
    url = f"{sandbox.url}/api/v2/projects/{database}/api/codebook/export-v2/json"
    response = requests.get(url, headers={"token": sandbox.token}, timeout=10)
    assert response.status_code == 200, response.text
    return dict(response.json())


def contents(sandbox: Sandbox) -> list[dict[str, Any]]:
    (database,) = sandbox.databases()
    return list(database["contents"])


def test_without_a_codebook_all_is_loaded(user, wave):
    job = user.run("create", user.sandbox.folder, wave)
    assert contents(user.sandbox) == [
        {
            "name": "vote",
            "type": "CAT",
            "label": "Vote <now>",
            "values": {str(c): t for c, t in CODES.items()},
        },
        {"name": "age", "type": "NUM", "label": "", "values": {}},
        {"name": "place", "type": "TXT", "label": "", "values": {}},
    ]
    assert job["message"] == ("5 rows read; wave holds 5; 1 answers without a label were read as missing (vote: 7)")


@pytest.mark.parametrize(
    ("properties", "variables", "values"),
    [
        ({}, ["vote", "age", "place"], {"1": "Yes!", "2": "No", "3": "Perhaps", "9": "Refused"}),
        ({"ignore_undeclared_vars": "true"}, ["vote"], {"1": "Yes!", "2": "No", "3": "Perhaps", "9": "Refused"}),
        ({"ignore_undeclared_cats": True}, ["vote", "age", "place"], {"1": "Yes!"}),
        ({"ignore_string_vars": "TRUE"}, ["vote", "age"], {"1": "Yes!", "2": "No", "3": "Perhaps", "9": "Refused"}),
        ({"ignore_empty_cats": 1}, ["vote", "age", "place"], {"1": "Yes!", "2": "No"}),
        ({"ignore_missing_values": True}, ["vote", "age", "place"], {"1": "Yes!", "2": "No", "3": "Perhaps"}),
        ({"ignore_undeclared_vars": "false"}, ["vote", "age", "place"], None),
    ],
)
def test_what_a_load_keeps(user, wave, declare, properties, variables, values):
    database = user.sandbox.add_database("Tracker")
    declare(database, [["VOTE", None, None]], [["vote", 1, "Yes!"]], **properties).raise_for_status()
    job = user.run("append", database, wave)
    assert job["status"] == "succeeded"
    found = contents(user.sandbox)
    assert [variable["name"] for variable in found] == variables == user.sandbox.databases()[0]["variables"]
    assert values is None or found[0]["values"] == values
    dropped = [name for name in ANSWERS if name not in variables]
    assert (f"{len(dropped)} variables were dropped ({', '.join(dropped)})" in job["message"]) == bool(dropped)


def test_dropped_categories_are_read_as_missing(user, wave, declare):
    database = user.sandbox.add_database("Tracker")
    declare(database, [["vote", "CAT", "V"]], [["vote", 1, "Yes"]], ignore_undeclared_cats=True).raise_for_status()
    assert (
        "2 answers without a label were read as missing (vote: 2, 7)" in user.run("append", database, wave)["message"]
    )


def test_an_ignored_variable_and_nothing_to_load(user, wave, declare):
    database = user.sandbox.add_database("Tracker")
    declare(database, [["vote", "IGN", None]]).raise_for_status()
    assert "1 variables were dropped (vote)" in user.run("append", database, wave)["message"]
    declare(database, [["other", "NUM", None]], ignore_undeclared_vars=True).raise_for_status()
    job = user.run("reload", database, wave)
    assert (job["status"], job["message"]) == ("failed", "Tracker declares no variable of wave.sav")


def test_a_wave_is_matched_without_regard_to_case(user, survey):
    database = user.sandbox.add_database("Tracker", rows=2, variables=["VOTE"])
    assert user.run("append", database, survey("wave.csv"))["status"] == "succeeded"
    assert user.sandbox.databases()[0]["variables"] == ["VOTE", "respondent"]


def test_an_import_replaces_the_one_before_and_outlives_a_restart(user, declare, start):
    database = user.sandbox.add_database("Tracker")
    declare(database, [["a", "NUM", None]], ignore_string_vars=True).raise_for_status()
    declare(database, [["b", "CAT", "B"]], [["b", 2.0, "Two"]]).raise_for_status()
    expected = {
        "variables": [{"name": "b", "type": "CAT", "label": "B", "values": {"2": "Two"}}],
        "properties": {},
    }
    assert exported(user.sandbox, database) == expected
    user.sandbox.__exit__(None, None, None)
    assert exported(start().sandbox, database) == expected


@pytest.mark.parametrize(
    ("variables", "values", "reason"),
    [
        ([["vote", "QUIZ", ""]], [], "the variable 'vote' has the type 'QUIZ', which is not one of"),
        ([["", "NUM", "x"]], [], "the worksheet variables has a row without a name"),
        ([["vote", "CAT", ""]], [["age", 1, "x"]], "the worksheet values has an unknown variable, 'age'"),
    ],
)
def test_codebooks_that_are_rejected(user, declare, variables, values, reason):
    database = user.sandbox.add_database("Tracker")
    response = declare(database, variables, values)
    assert response.status_code == 422
    assert response.json()["error"].startswith(f"The codebook cannot be read: {reason}")
    assert exported(user.sandbox, database) == {"variables": [], "properties": {}}


def test_a_workbook_that_is_made_to_do_harm(user, declare, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "READ_SECONDS", 2.5)
    database = user.sandbox.add_database("Tracker")
    declare(database, [["vote", "NUM", None]]).raise_for_status()
    harmful = tmp_path / "harmful.xlsx"
    old = zipfile.ZipFile(tmp_path / "codebook.dtcb.xlsx")
    with zipfile.ZipFile(harmful, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            is_sheet = name.endswith("sheet1.xml")
            new.writestr(name, b"<worksheet>" + b"<a>" * 10_000_000 if is_sheet else old.read(name))
    response = send(user.sandbox, database, harmful.read_bytes())
    assert "reading it took" in response.json()["error"] or "damaged" in response.json()["error"]
    assert response.status_code == 422
    assert len(exported(user.sandbox, database)["variables"]) == 1
    assert not list((user.state_dir / "uploads").iterdir())


def test_the_page_of_a_database_escapes_everything(user, wave, declare):
    user.run("create", user.sandbox.folder, wave)
    (database,) = user.sandbox.databases()
    declare(database["hash"], [["<i>x</i>", "CAT", ""]], [["<i>x</i>", 1, "<script>"]], ignore_empty_cats=True)
    assert f"/databases/{database['hash']}" in requests.get(user.sandbox.url, timeout=5).text
    page = requests.get(f"{user.sandbox.url}/databases/{database['hash']}", timeout=5).text
    for shown in ("Vote &lt;now&gt;", "3 = Perhaps", "&lt;i&gt;x&lt;/i&gt;", "1 = &lt;script&gt;", "ignore_empty_cats"):
        assert shown in page
    assert "<script>" not in page
    assert requests.get(f"{user.sandbox.url}/databases/none", timeout=5).status_code == 404


def test_a_text_that_looks_like_a_formula_stays_text():
    content = codebook.workbook([codebook.variable("=1+1", "CAT", "\x01a", {"1": "=2"})], {})
    assert content.startswith(b"PK")
