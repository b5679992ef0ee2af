"""Codebooks: the hook reads and writes them, a check compares with them, and the sandbox loads by them."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import requests
from airflow.providers.common.compat.sdk import AirflowException
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api import errors
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.wave_check import DatatileWaveCheckOperator
from datatile_provider.sandbox import Sandbox, codebook, reader
from datatile_provider.survey.check import check_wave
from datatile_provider.survey.read import CODEBOOK, read
from tests.support.fixtures import connect, plain_environment
from tests.support.rawserver import Peer, RawServer
from tests.support.task import Outcome, Task
from tests.survey.plant import DATA, FAULTS, waves

__all__ = ["connect", "plain_environment"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(processing_seconds=0.05) as sandbox:
        yield sandbox


@pytest.fixture
def hook(sandbox: Sandbox, connect: Any) -> DatatileHook:
    connect(sandbox)
    return DatatileHook()


def load(hook: DatatileHook, action: str, target: str, file: Path) -> str:
    """Load a file, and return the hash of its database."""
    job = hook.upload(action, target, str(file))
    return hook.wait_for_job(job.id, poll_interval=0.1, timeout=30).database


@pytest.fixture
def database(sandbox: Sandbox, hook: DatatileHook) -> str:
    return load(hook, "create", sandbox.folder, DATA / "wave1.zsav")


def exported(hook: DatatileHook, database: str) -> bytes:
    """Return a database's codebook."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codebook.dtcb.xlsx")
        hook.get_codebook(database, path)
        return path.read_bytes()


def declared(content: bytes) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    """Return the variables and properties of a codebook, as the sandbox reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codebook.dtcb.xlsx")
        path.write_bytes(content)
        return codebook.parsed(reader.read_codebook(path))


def of_file(name: str, kind: str, values: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a variable of a file, as the sandbox's reader does."""
    return codebook.variable(name, kind, "", values) | {"missing": [], "answers": None}


def imported(hook: DatatileHook, database: str, folder: Path, change: Any) -> None:
    """Change a database's codebook."""
    variables, properties = declared(exported(hook, database))
    by_name = {entry["name"]: entry for entry in variables}
    change(by_name, properties)
    path = folder / "tracker.dtcb.xlsx"
    path.write_bytes(codebook.workbook(list(by_name.values()), properties))
    hook.import_codebook(database, str(path))


def check(**options: Any) -> Outcome:
    return Task(lambda: DatatileWaveCheckOperator(task_id="check", **options)).run()


def test_a_codebook_is_read_and_written_unchanged(hook: DatatileHook, database: str, tmp_path: Path) -> None:
    before = exported(hook, database)
    (path := tmp_path / "tracker.dtcb.xlsx").write_bytes(before)
    hook.import_codebook(database, path)

    assert declared(exported(hook, database)) == declared(before)
    assert {entry["name"]: entry["type"] for entry in declared(before)[0]}["vote"] == "CAT"


def test_the_codebook_as_json(sandbox: Sandbox, hook: DatatileHook, database: str) -> None:
    url = f"{sandbox.url}/api/v2/projects/{database}/api/codebook/export-v2/json"
    found = requests.get(url, headers={"token": sandbox.token}, timeout=10).json()

    assert found["variables"] == declared(exported(hook, database))[0]
    assert requests.get(url, timeout=10).status_code == 401


def test_a_wave_is_compared_with_the_database(database: str, tmp_path: Path) -> None:
    good = check(dataset=str(DATA / "wave2.zsav"), database=database)
    wave = waves()[3]
    for rule in ("scale-reversed", "renamed-variable", "new-code", "missing-codes-changed"):
        FAULTS[rule][0](wave, wave)
    bad = check(dataset=str(wave.write(tmp_path / "wave.sav")), database=database)

    assert (good.state, good.result["findings"], good.result["notes"]) == ("success", [], [])
    assert good.result["references"] == [f"the codebook of {database}"]
    # A codebook does not say which codes are missing.
    assert "The wave has 2 errors\nscale-reversed: selfLR\nrenamed-variable: hh_income." in str(bad.error)


def test_what_a_load_has_dropped(hook: DatatileHook, database: str, tmp_path: Path) -> None:
    def change(variables: dict[str, Any], properties: dict[str, bool]) -> None:
        del variables["popul"]
        variables["PID"]["values"].pop("3")
        properties.update(ignore_undeclared_vars=True, ignore_undeclared_cats=True)

    other = load(hook, "reload", database, DATA / "wave1.zsav")
    imported(hook, other, tmp_path, change)
    load(hook, "reload", other, DATA / "wave2.zsav")
    outcome = check(dataset=str(DATA / "wave2.zsav"), database=other, loaded=True)

    assert "variable-not-loaded: popul\ncode-not-loaded: PID" in str(outcome.error)
    assert check(dataset=str(DATA / "wave2.zsav"), database=other, loaded=True, severity={}).state == "failed"


def test_what_a_load_has_kept(database: str) -> None:
    assert check(dataset=str(DATA / "wave1.zsav"), database=database, loaded=True).result["findings"] == []


@pytest.mark.parametrize(
    ("properties", "kept"),
    [
        ({}, ["a", "b", "c"]),
        ({"ignore_undeclared_vars": True}, ["a", "b"]),
        ({"ignore_string_vars": True}, ["a", "c"]),
        ({"ignore_undeclared_vars": True, "ignore_string_vars": True}, ["a"]),
    ],
)
def test_properties_of_the_sandbox(properties: dict[str, bool], kept: list[str]) -> None:
    of_codebook = [
        codebook.variable("A", "CAT", "", {"1": "Yes"}),
        codebook.variable("b", "TXT"),
        codebook.variable("d"),
    ]
    found = [of_file("a", "CAT", {"1": "yes", "2": "no"}), of_file("b", "TXT"), of_file("c", "NUM")]

    assert [entry["name"] for entry in codebook.load(of_codebook, properties, found).variables] == kept


def test_categories_of_the_sandbox() -> None:
    of_codebook, found = codebook.variable("a", "CAT", "", {"1": "Yes"}), of_file("a", "", {"1": "y", "2": "n"})

    def kept(entry: dict[str, Any], **properties: bool) -> list[dict[str, Any]]:
        return codebook.load([entry], properties, [found]).variables

    assert kept(of_codebook)[0]["values"] == {"1": "Yes", "2": "n"}
    assert kept(of_codebook, ignore_undeclared_cats=True)[0]["values"] == {"1": "Yes"}
    assert kept(codebook.variable("a", "IGN")) == []


texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=9)


@given(
    st.dictionaries(
        texts.filter(bool),
        st.tuples(st.sampled_from(codebook.TYPES), texts, st.dictionaries(texts.filter(bool), texts, max_size=4)),
        max_size=5,
    )
)
def test_a_codebook_survives_its_file(given_variables: dict[str, tuple[str, str, dict[str, str]]]) -> None:
    variables = {name.casefold(): codebook.variable(name, *rest) for name, rest in given_variables.items()}
    properties = dict.fromkeys(codebook.PROPERTIES, True)

    assert declared(codebook.workbook(list(variables.values()), properties)) == (list(variables.values()), properties)


def workbook(**sheets: list[list[Any]]) -> bytes:
    book = openpyxl.Workbook(write_only=True)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(content := io.BytesIO())
    return content.getvalue()


def test_what_of_a_codebook_can_not_be_compared_is_said(tmp_path: Path) -> None:
    content = workbook(
        Variables=[["datatile_id", "type"], ["vote", "CAT"], ["q", "MC"], ["x", "IGN"], ["age", "NUM"], ["", "NUM"]],
        Values=[["variable", "value", "label"], ["vote", 0, "Clinton"], ["vote", 1.0, "Dole"], ["vote", None, "?"]],
    )
    (path := tmp_path / f"c{CODEBOOK}").write_bytes(content)
    found = read(path, "the codebook", database=tmp_path / "keys").survey

    assert [(v.name, dict(v.labels)) for v in found.variables] == [("vote", {0.0: "Clinton", 1.0: "Dole"}), ("age", {})]
    assert found.undescribed == ("q", "(no name)")
    assert found.notes == (
        "the codebook: 1 rows of the worksheet values can't be read.",
        "the codebook has no type that a survey file has for these, so they were not compared: q, (no name).",
    )


@pytest.mark.parametrize(
    "content", [workbook(), workbook(values=[["variable"]]), workbook(variables=[["name", "type"]]), b"PK", b"\0" * 99]
)
def test_a_codebook_that_can_not_be_read(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / f"c{CODEBOOK}").write_bytes(content)
    with pytest.raises(errors.SurveyUnreadableError):
        check_wave(DATA / "wave1.zsav", [path])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK no", "it is not an Excel workbook"),
        (workbook(), "no worksheet named variables"),
        (workbook(variables=[["name", "type"], ["a", "HUGE"]]), "has the type 'HUGE'"),
        (workbook(variables=[["name"], ["a"]], values=[["variable"], ["b"]]), "has an unknown variable, 'b'"),
    ],
)
def test_a_codebook_that_the_server_rejects(
    hook: DatatileHook, database: str, tmp_path: Path, content: bytes, reason: str
) -> None:
    (path := tmp_path / "c.xlsx").write_bytes(content)
    with pytest.raises(errors.PermanentError) as rejected:
        hook.import_codebook(database, path)

    assert reason in rejected.value.server_message


def test_tokens_hashes_and_permissions(sandbox: Sandbox, hook: DatatileHook, database: str, tmp_path: Path) -> None:
    (path := tmp_path / "c.xlsx").write_bytes(exported(hook, database))
    with pytest.raises(errors.InvalidInputError):
        exported(hook, "../../x")
    with pytest.raises(errors.NotFoundError):
        exported(hook, "0123456789abcdef")
    sandbox.set_permission(database, can_edit=False)
    with pytest.raises(errors.RoleMissingError):
        hook.import_codebook(database, path)
    sandbox.regenerate_token()
    with pytest.raises(errors.TokenRefusedError):
        exported(hook, database)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>proxy</html>", errors.UnexpectedResponseError),
        (200, b"", errors.UnexpectedResponseError),
        (200, b'{"error": "no"}', errors.UnexpectedResponseError),
        (200, b"PK\3\4" + bytes(2**26), errors.UnexpectedResponseError),
        (503, b"", errors.ServerBusyError),
        (302, b"", errors.RedirectedError),
    ],
)
def test_odd_responses(connect: Any, status: int, body: bytes, kind: type[Exception]) -> None:
    def respond(peer: Peer) -> None:
        peer.request()
        peer.respond(status, body)

    with RawServer(respond) as server:
        connect(server.url)
        with pytest.raises(kind):
            exported(DatatileHook(), "0f3a9c2b7d4e5f61")


def test_a_server_that_is_down_is_retried_by_airflow(connect: Any) -> None:
    with RawServer(lambda peer: None) as server:
        connect(server.url)
    outcome = check(dataset=str(DATA / "wave1.zsav"), database="0f3a9c2b7d4e5f61")

    assert type(outcome.error) is AirflowException


def test_loaded_needs_a_database() -> None:
    with pytest.raises(errors.InvalidInputError, match="loaded needs a database"):
        DatatileWaveCheckOperator(task_id="check", dataset="wave.sav", loaded=True)


def test_the_page_of_a_database(sandbox: Sandbox, hook: DatatileHook, database: str, tmp_path: Path) -> None:
    wave = waves()[0]
    wave.labels["age"] = "<script>alert(1)</script>"
    load(hook, "reload", database, wave.write(tmp_path / "wave.zsav"))
    page = requests.get(f"{sandbox.url}/databases/{database}", timeout=10).text

    assert "0 = Clinton" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert requests.get(f"{sandbox.url}/databases/none", timeout=10).status_code == 404
    assert json.loads(json.dumps(sandbox.databases()))


def test_a_codebook_in_a_file_is_a_reference(hook: DatatileHook, database: str, tmp_path: Path) -> None:
    path = tmp_path / "tracker.dtcb.xlsx"
    hook.get_codebook(database, path)
    assert check_wave(DATA / "wave1.zsav", [path]).findings == ()
    book = openpyxl.load_workbook(path)
    book["values"]["C2"] = "Another answer"
    book.save(path)
    assert [finding.rule for _, finding in check_wave(DATA / "wave1.zsav", [path]).findings] == ["other-label"]
