"""The command ``rehearse``, against sandboxes of many dialects, faults, and servers that differ elsewhere."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyreadstat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api.models import Action, Job, ServerConfig, Upload
from datatile_provider.api.options import Options
from datatile_provider.api.responses import Response
from datatile_provider.cli import rehearse
from datatile_provider.cli.commands import main
from datatile_provider.cli.rehearsal import learning, steps
from datatile_provider.cli.rehearsal.exchange import Exchange, Record, Step, reading
from datatile_provider.cli.rehearsal.findings import Verdict, findings
from datatile_provider.cli.rehearsal.report import Report, as_markdown, as_values, redactor
from datatile_provider.cli.rehearsal.survey import ROWS, survey
from datatile_provider.sandbox import Sandbox
from tests.support.faults import KINDS, Fault, FaultProxy
from tests.support.fixtures import connect, plain_environment
from tests.support.rawserver import TOKEN, Peer, RawServer
from tests.support.waiting import until

__all__ = ["connect", "plain_environment"]

GERMAN = {"QUEUED": "wartend", "RUNNING": "wird importiert", "SUCCEEDED": "erledigt", "FAILED": "kaputt"}
GERMAN_MAP = {word: state for state, word in GERMAN.items()}
CONTRACT = Path(__file__).parents[2] / "docs" / "contract.md"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Poll soon, and lose patience soon, as the sandboxes are quick."""
    monkeypatch.setattr(steps, "_FIRST_GAP", 0.05)
    monkeypatch.setattr(steps, "_LONGEST_GAP", 0.2)
    monkeypatch.setattr(steps, "_PATIENCE", 0.3)
    # Airflow's log is on stdout, and a sandbox has no process of its own here.
    monkeypatch.setattr(logging.getLogger("datatile_provider.sandbox"), "propagate", False)


class Result:
    """The result of a run: its exit code, the two outputs, and the rows by topic."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def row(self, topic: str) -> dict[str, Any]:
        return next(row for row in self.json["rows"] if row["topic"] == topic)

    def verdicts(self, verdict: Verdict) -> set[str]:
        return {row["topic"] for row in self.json["rows"] if row["verdict"] == verdict.value}


Run = Callable[..., Result]


@pytest.fixture
def run(connect, capsys) -> Run:
    """Rehearse on a server, with more arguments; a dictionary is the connection's extra."""

    def run(server: Any, folder: str, *arguments: str, **fields: Any) -> Result:
        # A sandbox's own connection knows its dialect.
        connect(server, **{"extra": None, **fields})
        capsys.readouterr()
        code = main(["rehearse", "--folder", folder, "--yes", "--timeout", "20", *arguments])
        return Result(code, *capsys.readouterr())

    return run


def test_the_survey_is_a_labelled_spss_file(tmp_path):
    file = tmp_path / "survey.sav"
    file.write_bytes(survey())
    frame, meta = pyreadstat.read_sav(file)
    assert frame.to_dict("list") == {"RESPID": [1, 2, 3], "VOTE": [1, 2, 1]}
    assert len(frame) == meta.number_rows == ROWS
    assert meta.column_names_to_labels == {"RESPID": "Respondent", "VOTE": "Did you vote?"}
    assert meta.variable_value_labels == {"VOTE": {1: "Yes", 2: "No"}}
    assert meta.file_encoding == "UTF-8"


@pytest.mark.parametrize("cut", [20, 100, 300])
def test_a_damaged_survey_is_one_that_a_library_rejects(tmp_path, cut):
    file = tmp_path / "survey.sav"
    file.write_bytes(survey()[:-cut])
    with pytest.raises(pyreadstat.ReadstatError):
        pyreadstat.read_sav(file)


def test_the_usual_dialect_is_confirmed(run, tmp_path):
    report = tmp_path / "report.md"
    with Sandbox(processing_seconds=0.4) as sandbox:
        result = run(sandbox, sandbox.folder, "--json", "--report", str(report))
        assert result.code == 0, result.err
        assert "CONFIRMED: uploads and waits work with this connection" in result.err
        unseen = {"callback", "roles", "size", "rate", "processing log"}
        assert result.verdicts(Verdict.UNSEEN) == unseen
        assert result.verdicts(Verdict.DIFFERS) == set()
        assert result.json["extra"] == {}
        [database] = sandbox.databases()
        assert [database["hash"], database["folder"]] == [result.json["database"], sandbox.folder]
        assert database["hash"] in result.json["cleanup"]
        assert database["name"] in result.json["cleanup"]
        actions = [(upload["action"], upload["hash"]) for upload in sandbox.uploads()]
        same = database["hash"]
        assert actions == [("create", sandbox.folder), ("append", same), *[("reload", same)] * 3]
        token, host = sandbox.token, urlsplit(sandbox.url).netloc
    for text in (result.out, report.read_text("utf-8")):
        assert token not in text
        assert host not in text
    assert sandbox.folder not in report.read_text("utf-8")
    topics = {row["topic"] for row in result.json["rows"]}
    # A rehearsal tries no codebook.
    tables = CONTRACT.read_text("utf-8").split("### Codebooks")[0]
    assert topics >= set(re.findall(r"^\| ([a-z ]+?) \|", tables, re.MULTILINE)) - {"topic"}


def test_nothing_on_stdout_if_nothing_differs_and_hosts_only_if_wanted(run, tmp_path):
    report = tmp_path / "report.md"
    with Sandbox(processing_seconds=0.2) as sandbox:
        result = run(sandbox, sandbox.folder, "--hosts", "--report", str(report))
    assert (result.code, result.out) == (0, "")
    assert urlsplit(sandbox.url).netloc in report.read_text("utf-8")


DIALECTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "flat id": ({"job_id_field": "nr"}, []),
    "nested id": ({"job_id_field": "receipt.number"}, []),
    "job path": ({"job_path": "api/v2/status/{job_id}"}, []),
    "path and id": ({"job_path": "api/v2/job/{job_id}/status", "job_id_field": "ticket"}, []),
    "status": ({"status_field": "progress.phase"}, []),
    "words": ({"state_words": GERMAN}, ["--finished", "erledigt", "--failed", "kaputt"]),
    "words and status": (
        {"state_words": GERMAN, "status_field": "stand.wort"},
        ["--finished", "Erledigt", "--failed", "kaputt"],
    ),
    "numbers": (
        {"state_words": {"QUEUED": "0", "RUNNING": "1", "SUCCEEDED": "2", "FAILED": "9"}},
        ["--finished", "2", "--failed", "9"],
    ),
    "all but the callback": (
        {
            "job_path": "api/v2/task/{job_id}",
            "job_id_field": "task.key",
            "status_field": "stand.wort",
            "state_words": GERMAN,
        },
        ["--finished", "erledigt", "--failed", "kaputt"],
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_is_learned(run, name):
    dialect, arguments = DIALECTS[name]
    with Sandbox(processing_seconds=0.4, **dialect) as sandbox:
        result = run(sandbox, sandbox.folder, *arguments)
    assert result.code == 1, result.err
    assert "DIFFERS: set the options below" in result.err
    extra = result.json
    expected = {key: value for key, value in dialect.items() if key not in ("job_path", "state_words")}
    assert {key: value for key, value in extra.items() if key in expected} == expected
    if path := dialect.get("job_path"):
        assert extra["job_path"].replace("{api_path}", "api/v2") == path
    if words := dialect.get("state_words"):
        assert extra["status_map"] == {word: state for state, word in words.items()}


def test_what_was_learned_is_confirmed_by_the_next_run(run):
    dialect, arguments = DIALECTS["all but the callback"]
    with Sandbox(processing_seconds=0.4, **dialect) as sandbox:
        first = run(sandbox, sandbox.folder, *arguments)
        second = run(sandbox, sandbox.folder, "--extra", first.out)
    assert (second.code, second.out) == (0, ""), second.err


def test_the_extra_of_the_connection_is_kept_and_the_callback_is_sent(run):
    calls: list[str] = []

    def called(peer: Peer) -> None:
        calls.append(peer.request()[1].decode())
        peer.respond(200, b"{}", "Connection: close")

    with RawServer(called) as listener, Sandbox(processing_seconds=0.2, callback_field="notify") as sandbox:
        extra = {"timeout": 60, "callback_field": "notify", "status_map": {"x": "RUNNING"}}
        url = f"{listener.url}/secret-path"
        result = run(sandbox, sandbox.folder, "--json", "--callback-url", url, extra=extra)
        until(lambda: len(calls) >= 3, "the callbacks")
    assert result.code == 0, result.err
    assert result.json["extra"] == {"callback_field": "notify", "status_map": {"x": "RUNNING"}}
    assert "Look whether the URL was called" in result.row("callback")["seen"]
    assert "secret-path" not in result.out
    [sent] = [e for e in result.json["exchanges"] if e["parts"] == ["notify", "dataset"]]
    assert sent["status"] == 200


def test_without_a_confirmed_word_it_says_what_to_confirm(run):
    with Sandbox(processing_seconds=0.2, state_words=GERMAN) as sandbox:
        result = run(sandbox, sandbox.folder, "--json", "--timeout", "5")
    assert result.code == 1
    assert "--finished 'erledigt'" in result.row("states")["seen"]
    assert result.row("states")["verdict"] == Verdict.UNSEEN.value
    assert "SUCCEEDED" not in json.dumps(result.json["extra"])
    assert "NOT CONFIRMED: action, states" in result.err


def test_a_status_of_unknown_words_at_an_unknown_place_has_candidates(run):
    with Sandbox(processing_seconds=0.8, state_words=GERMAN, status_field="stand.wort") as sandbox:
        result = run(sandbox, sandbox.folder, "--json", "--timeout", "6")
    seen = result.row("status")["seen"]
    assert '{"status_field": "stand.wort"} (wartend → wird importiert → erledigt)' in seen
    assert "status_field" not in result.json["extra"]


def test_a_job_at_an_unknown_path(run):
    with Sandbox(processing_seconds=0.2, job_path="somewhere/else/{job_id}") as sandbox:
        result = run(sandbox, sandbox.folder, "--json", "--timeout", "2")
    assert result.code == 1
    assert "Set job_path" in result.row("polling")["seen"]


def test_a_server_that_never_finishes(run):
    with Sandbox(processing_seconds=60) as sandbox:
        result = run(sandbox, sandbox.folder, "--json", "--timeout", "1")
        assert [upload["action"] for upload in sandbox.uploads()] == ["create"]
    assert result.code == 1
    assert result.json["ended"] == "create: its job was not seen to finish within 1 s"
    assert result.row("response")["verdict"] == result.row("token")["verdict"] == Verdict.CONFIRMED.value
    assert "Look for a database rehearsal-" in result.json["cleanup"]


ON = {kind: ("any",) if kind == "refuse" else ("poll", "upload") for kind in KINDS}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("forward", "stall_in_body", "drip")])
def test_faults(run, kind):
    """The result is that of the server, or says what was not seen. A file is never appended twice."""
    # The first poll of the create, and the append.
    faults = [Fault("forward", "poll"), Fault("forward", "upload"), *(Fault(kind, on, seconds=0.1) for on in ON[kind])]
    with Sandbox(token=TOKEN, processing_seconds=0.1) as sandbox:
        with FaultProxy(sandbox.url, *faults) as proxy:
            result = run(proxy.url, sandbox.folder, "--json", "--timeout", "3", extra={"timeout": 1})
            assert [request.fault for request in proxy.log].count(kind) == len(ON[kind])
        assert result.code == 0 or result.json["ended"], result.err
        assert (result.code == 0) == (result.row("action")["verdict"] == Verdict.CONFIRMED.value)
        appended = [upload for upload in sandbox.uploads() if upload["action"] == "append"]
        assert len(appended) == 1 or (result.code == 1 and not appended)
    assert result.json["extra"] == {}
    assert TOKEN not in result.out + result.err


class Odd:
    """
    A DATATILE server whose jobs finish at once, with codes of its own.

    :param codes: the status codes, by what they mean.
    """

    def __init__(self, **codes: int) -> None:
        self.codes = {"busy": 409, "token": 401, "not_found": 404, "damaged": 200, "create": 200, **codes}
        self.running = False
        self.reloads = 0

    def __call__(self, peer: Peer) -> None:
        head, body = peer.request()
        method, path, _ = head.split(" ", 2)
        code, answer = self.response(method, path, TOKEN in head, body)
        peer.respond(code, json.dumps(answer).encode(), "Connection: close")

    def response(self, method: str, path: str, known: bool, body: bytes) -> tuple[int, dict[str, Any]]:
        name = path.rpartition("/")[2]
        if not known and self.codes["token"] != 200:
            return self.codes["token"], {"error": "no"}
        if "nowhere" in path and (method == "GET" or self.codes["not_found"] != 200):
            return self.codes["not_found"], {"error": "no such thing"}
        if method == "GET":
            status = "running" if name == "j4" and self.running else "done"
            self.running = False
            return 200, {"job_id": name, "status": status, "database": "db01", "rows": 3}
        if "/create/" in path:
            return self.codes["create"], {"job_id": "j1"}
        self.reloads += "/reload/" in path
        if self.reloads == 3 and self.codes["busy"] != 200:
            return self.codes["busy"], {"error": "wait"}
        if survey() not in body and self.codes["damaged"] != 200:
            return self.codes["damaged"], {"error": "damaged"}
        self.running = self.reloads == 2
        return 200, {"job_id": f"j{2 + self.reloads}"}


@pytest.mark.parametrize(
    ("codes", "topic", "option"),
    [
        ({"busy": 400}, "one at a time", {"400": "busy"}),
        ({"busy": 429}, "one at a time", {}),
        ({"busy": 423}, "one at a time", {}),
        ({"token": 403}, "token", {"403": "token"}),
        ({"token": 400}, "token", {"400": "token"}),
        ({"not_found": 422}, "target", {"422": "not_found"}),
        ({"not_found": 403}, "target", {}),
        ({"damaged": 422}, "damaged file", {}),
        ({"damaged": 409}, "damaged file", {}),
        ({"damaged": 413}, "damaged file", {"413": "rejected"}),
    ],
)
def test_codes_of_a_server(run, codes, topic, option):
    with RawServer(Odd(**codes)) as server:
        result = run(server.url, "f01", "--json", "--timeout", "3")
    assert result.code == 0, result.err
    assert result.row(topic)["option"] == ({"status_codes": option} if option else {})
    assert result.json["extra"] == ({"status_codes": option} if option else {})


def test_one_code_for_two_meanings_is_not_mapped(run):
    with RawServer(Odd(busy=400, damaged=400)) as server:
        result = run(server.url, "f01", "--json")
    assert result.json["extra"] == {}
    assert "The code also stands for: reload with a damaged file" in result.row("one at a time")["seen"]


def test_a_learned_code_is_confirmed_by_the_next_run(run):
    codes = {"busy": 400, "token": 403, "not_found": 422}
    with RawServer(Odd(**codes)) as server:
        first = run(server.url, "f01")
        assert first.json == {"status_codes": {"400": "busy", "403": "token", "422": "not_found"}}
    with RawServer(Odd(**codes)) as server:
        second = run(server.url, "f01", "--json", "--extra", first.out)
    assert {"one at a time", "token", "target"} <= second.verdicts(Verdict.CONFIRMED)
    assert second.json["extra"] == first.json


def test_a_server_that_takes_any_token_is_not_one_with_a_confirmed_header(run):
    with RawServer(Odd(token=200)) as server:
        result = run(server.url, "f01", "--json")
    assert result.row("header")["verdict"] == Verdict.UNSEEN.value
    assert "does not look at tokens" in result.row("header")["seen"]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 413, 429, 500, 503])
def test_a_create_that_is_not_accepted_ends_the_run(run, code):
    with RawServer(Odd(create=code)) as server:
        result = run(server.url, "f01", "--json", "--timeout", "0.5")
    assert result.code == 1
    assert str(code) in result.json["ended"]
    assert {"path", "response", "polling", "status", "states"} <= result.verdicts(Verdict.UNSEEN)


def test_a_database_that_is_not_reported_must_be_given(run):
    class Silent(Odd):
        def response(self, method, path, known, body):
            code, answer = super().response(method, path, known, body)
            answer.pop("rows", None)
            found = {"target": answer.pop("database"), "read": {"interviews": 3}} if "database" in answer else {}
            return code, {**answer, **found}

    with RawServer(Silent()) as server:
        first = run(server.url, "f01", "--json")
    assert first.code == 1
    assert "give --database" in first.json["ended"]
    assert "NOT CONFIRMED: action" in first.err
    with RawServer(Silent()) as server:
        second = run(server.url, "f01", "--json", "--database", "db01")
    assert second.code == 0, second.err
    assert second.json["extra"] == {"database_field": "target", "rows_field": "read.interviews"}
    assert "(given)" in second.json["cleanup"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folder", "a b"], "is not a hash"),
        (["--folder", "f", "--extra", "{"], "--extra cannot be read as JSON"),
        (["--folder", "f", "--extra", "[]"], "--extra is not a JSON object"),
        (["--folder", "f", "--extra", '{"job_idfield": "x"}'], "Did you mean 'job_id_field'?"),
        (["--folder", "f", "--extra", "@/does/not/exist"], "No such file"),
        (["--folder", "f", "--timeout", "0"], "--timeout must be"),
        (["--folder", "f", "--callback-url", "nowhere"], "is not an http or https URL"),
        (["--folder", "f", "--report", "/does/not/exist.md"], "No such file"),
        (["--folder", "f", "--conn-id", "missing"], "isn't defined"),
    ],
)
def test_wrong_arguments_send_nothing(connect, capsys, arguments, message):
    with RawServer(Odd()) as server:
        connect(server.url)
        code = main(["rehearse", *arguments, "--yes"])
        assert server.connections == 0
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err


def test_without_a_terminal_it_needs_yes(connect, capsys):
    with RawServer(Odd()) as server:
        connect(server.url)
        assert main(["rehearse", "--folder", "f01"]) == 2
        assert server.connections == 0
    assert "Without a terminal, --yes is needed" in capsys.readouterr().err


def test_a_server_that_is_down_is_told_before_anything_is_sent(run):
    result = run("http://127.0.0.1:1", "f01", "--json")
    assert result.code == 1
    assert result.json["ended"].startswith("SERVER UNREACHABLE")
    assert result.json["cleanup"] == "Nothing to delete: no file was sent."


# A person at the terminal


@pytest.fixture
def person(monkeypatch) -> Callable[..., list[str]]:
    """Let a person answer each question whose text holds a word; return the questions."""

    def person(**answers: str) -> list[str]:
        asked: list[str] = []

        def ask(prompt: str) -> str:
            asked.append(prompt)
            return next(answer for word, answer in answers.items() if word in prompt)

        monkeypatch.setattr(rehearse, "can_ask", lambda: True)
        monkeypatch.setattr(rehearse, "ask", ask)
        monkeypatch.setattr(steps, "_ASK_AFTER", 0.3)
        return asked

    return person


@pytest.mark.parametrize("field", ["status", "stand.wort"])
def test_a_person_confirms_the_words(connect, capsys, person, field):
    asked = person(on="y", erledigt="y", kaputt="failed", wartend="n", importiert="n")
    with Sandbox(processing_seconds=0.4, state_words=GERMAN, status_field=field) as sandbox:
        connect(sandbox, extra=None)
        assert main(["rehearse", "--folder", sandbox.folder, "--timeout", "20"]) == 1
    extra = json.loads(capsys.readouterr().out)
    assert extra["status_map"]["erledigt"] == "SUCCEEDED"
    assert extra["status_map"]["kaputt"] == "FAILED"
    assert extra.get("status_field", "status") == field
    assert asked[0] == "Go on? [y/N] "
    assert sum("'erledigt'" in question for question in asked) == 1


def test_a_person_gives_the_hash_of_the_database_and_says_that_the_callback_came(connect, capsys, person):
    class Silent(Odd):
        def response(self, method, path, known, body):
            code, answer = super().response(method, path, known, body)
            answer.pop("database", None)
            return code, answer

    person(Go="y", Drive="db01", callback="n")
    with RawServer(Silent()) as server:
        connect(server.url)
        arguments = ["--callback-url", "http://127.0.0.1:1/", "--json"]
        assert main(["rehearse", "--folder", "f01", *arguments]) == 0
    result = Result(0, *capsys.readouterr())
    assert result.json["database"] == "db01"
    assert "the URL was not called" in result.row("callback")["seen"]


def test_a_person_who_says_no_sends_nothing(start_on_terminal):
    with Sandbox() as sandbox:
        code, shown = start_on_terminal(sandbox, "n\n")
        assert sandbox.uploads() == []
    assert code == 2
    assert "It creates one database there, rehearsal-" in shown
    assert shown.rstrip().endswith("Nothing was sent.")


@pytest.fixture
def start_on_terminal() -> Callable[..., tuple[int, str]]:
    """Run the command in a process with a terminal, type something, and return the exit code and what is shown."""

    def start(sandbox: Sandbox, typed: str) -> tuple[int, str]:
        leader, follower = pty.openpty()
        command = [sys.executable, "-m", "datatile_provider", "rehearse", "--folder", sandbox.folder]
        environment = {**os.environ, "AIRFLOW_CONN_DATATILE_DEFAULT": json.dumps(sandbox.connection)}
        with subprocess.Popen(command, env=environment, stdin=follower, stdout=follower, stderr=follower) as process:
            os.close(follower)
            os.write(leader, typed.encode())
            shown = b""
            with contextlib.suppress(OSError):
                while block := os.read(leader, 1 << 16):
                    shown += block
            os.close(leader)
        return process.returncode, shown.decode()

    return start


# Real processes


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(sandbox: Sandbox, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "datatile_provider", "rehearse", "--folder", sandbox.folder, "--yes"]
        environment = {**os.environ, "AIRFLOW_CONN_DATATILE_DEFAULT": json.dumps(sandbox.connection)}
        process = subprocess.Popen(
            [*command, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_and_the_report_is_written(start, tmp_path, number, code):
    report = tmp_path / "report.md"
    with Sandbox(processing_seconds=60) as sandbox:
        process = start(sandbox, "--json", "--report", str(report))
        until(sandbox.uploads, "the upload", timeout=30)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=20)
        [upload] = sandbox.uploads()
    assert process.returncode == code
    name = upload["filename"].removesuffix(".sav")
    assert f"STOPPED by {number.name}" in err
    assert f"Look for a database {name} in the folder {sandbox.folder}" in err
    assert "Traceback" not in err
    assert json.loads(out)["passed"] is False
    assert f"STOPPED by {number.name}" in report.read_text("utf-8")
    assert sandbox.token not in out + err + report.read_text("utf-8")


def test_two_at_once_have_a_database_each(start):
    with Sandbox(processing_seconds=0.6) as sandbox:
        processes = [start(sandbox, "--json") for _ in range(2)]
        results = [process.communicate(timeout=50) for process in processes]
        databases = {database["hash"]: database for database in sandbox.databases()}
        appended = [upload["hash"] for upload in sandbox.uploads() if upload["action"] == "append"]
    assert [process.returncode for process in processes] == [0, 0], [err for _, err in results]
    found = [json.loads(out) for out, _ in results]
    assert {value["database"] for value in found} == set(databases) == set(appended)
    assert len(databases) == len(appended) == 2
    for value in found:
        [busy] = [row for row in value["rows"] if row["topic"] == "one at a time"]
        assert busy["verdict"] == Verdict.CONFIRMED.value


# The pure core

texts = st.text(max_size=12) | st.sampled_from(["queued", "running", "done", "failed", "erledigt", "4711", "a.b", " x"])
scalars = st.none() | st.booleans() | st.integers() | texts
names = st.sampled_from(["id", "job_id", "status", "state", "data", "rows", "database", "nr", "stand"]) | texts
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=10
)
responses = st.none() | st.builds(
    Response,
    st.sampled_from([200, 200, 200, 201, 302, 400, 401, 403, 404, 408, 409, 413, 422, 429, 499, 500, 503])
    | st.integers(100, 599),
    trees.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
    location=st.sampled_from(["", "/api/v2/queue/7", "https://elsewhere.example/7", "http://["]) | st.text(max_size=9),
)
SERVER = ServerConfig("https://datatile.example.com")


def exchanges_of(step: Step, upload: bool, response: Response | None) -> Exchange:
    if not upload:
        return Exchange(step, "GET", SERVER.job_url("7"), job_id="7", response=response)
    sent = Upload(Action.APPEND, "abc", "x.sav", 10)
    return Exchange(step, "POST", SERVER.upload_url(Action.APPEND, "abc"), ("dataset",), sent, response=response)


any_exchanges = st.lists(st.builds(exchanges_of, st.sampled_from(Step), st.booleans(), responses), max_size=12)


@given(any_exchanges, st.sampled_from(["", "db01"]), st.booleans(), st.text(max_size=8))
def test_any_responses_become_a_report_and_a_valid_extra(exchanges, database, given_, word):
    record = Record(SERVER, {}, "f01", "x.sav", exchanges=exchanges, database=database, database_given=given_)
    record.finished, record.failed = (word, "erledigt"), ("kaputt",)
    for exchange in exchanges:
        learning.id_candidates(SERVER, exchange)
        for path in learning.job_paths(SERVER, exchange, "7"):
            Options.of("it", json.dumps({"job_path": path}))
            assert ServerConfig(SERVER.url, job_path=path).job_url("7").startswith(f"{SERVER.url}/")
    polls = record.polls("7")
    record.learned.update(learning.learn_status_field(SERVER, polls, record.finished))
    learning.learn_words(SERVER, polls, record.finished, record.failed)
    found = findings(record)
    Options.of("the extra", json.dumps(dict(found.extra)))
    report = Report(record, found, {})
    masked = redactor([TOKEN], [SERVER.url])
    json.dumps(as_values(report, masked))
    assert "datatile.example.com" not in as_markdown(report, masked)
    if found.passed:
        assert any(e.succeeded for e in exchanges if e.upload)


@given(any_exchanges)
def test_a_learned_status_field_reads_the_last_poll(exchanges):
    polls = Record(SERVER, {}, "f01", "x.sav", exchanges=exchanges).polls("7")
    learned = learning.learn_status_field(SERVER, polls, ())
    if learned:
        assert isinstance(reading(ServerConfig(SERVER.url, **learned), polls[-1]), Job)


def test_the_reading_of_a_rehearsal_is_pure():
    modules = ("exchange", "learning", "findings", "report", "survey")
    code = f"""
import sys
for name in {modules!r}:
    __import__(f"datatile_provider.cli.rehearsal.{{name}}")
print({{"requests", "aiohttp", "urllib3", "airflow", "rich"}} & sys.modules.keys() or "pure")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pure"


@pytest.mark.parametrize("text", ["a secret-token-1 b", "at DATA.example.com:8443/x", "http://proxy.example.com:1/"])
def test_secrets_and_hosts_are_masked(text):
    masked = redactor(["secret-token-1"], ["https://data.example.com:8443/base", "http://u:p@proxy.example.com:1"])
    assert masked(text) in ("a *** b", "at <server>/x", "http://<server>/")
    assert masked("a notdata.example.com b") == "a notdata.example.com b"


def test_a_bug_does_not_hide_what_to_delete(connect, capsys, monkeypatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(steps.Rehearsal, "_second_upload", broken)
    with RawServer(Odd()) as server:
        connect(server.url)
        with pytest.raises(RuntimeError, match="a bug"):
            main(["rehearse", "--folder", "f01", "--yes"])
    assert "Delete the database rehearsal-" in capsys.readouterr().err


def test_two_equal_candidates_are_not_chosen_from():
    bodies = [{"a": "queued", "b": "queued"}, {"a": "done", "b": "done"}]
    polls = [exchanges_of(Step.CREATE, False, Response(200, json.dumps({"x": body}).encode())) for body in bodies]
    assert learning.learn_status_field(SERVER, polls, ()) == {}
    assert learning.status_fields(SERVER, polls, ())[0] == ["x.a", "x.b"]


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/api/v2/queue/7", "api/v2/queue/{job_id}"),
        ("https://datatile.example.com/q?job=7", "q?job={job_id}"),
        ("https://elsewhere.example/api/v2/queue/7", None),
        ("https://datatile.example.com.evil.example/7", None),
        ("/api/v2/../../7", None),
    ],
)
def test_only_addresses_of_the_same_server_are_tried(location, path):
    exchange = exchanges_of(Step.CREATE, True, Response(202, b"{}", location=location))
    first = learning.job_paths(SERVER, exchange, "7")[0]
    assert first == (path or "{api_path}/job/{job_id}")
