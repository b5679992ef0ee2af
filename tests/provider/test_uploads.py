"""Uploads to a server: the outcome is the same in every mode."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from datatile_provider.operators.datatile import DatatileUploadOperator
from tests.provider.modes import OPERATOR_MODES, OPERATOR_WAITS
from tests.support.rawserver import TOKEN
from tests.support.reading import one_line
from tests.support.scripted import ACCEPTED


@pytest.fixture
def upload(run_each, survey):
    """Upload in every mode; return the outcomes by mode."""

    def upload(**arguments):
        defaults = {"action": "append", "target_hash": "{mode}", "dataset": str(survey), "poll_interval": 0.05}
        outcomes = run_each(DatatileUploadOperator, OPERATOR_MODES, **{**defaults, **arguments})
        assert set(outcomes) == set(OPERATOR_MODES)
        return outcomes

    return upload


@pytest.mark.parametrize("options", OPERATOR_WAITS.values(), ids=OPERATOR_WAITS)
def test_each_action(run, sandbox, survey, options):
    for action, rows in (("create", 3), ("append", 6), ("reload", 3)):
        target = sandbox.folder if action == "create" else sandbox.databases()[0]["hash"]
        arguments = {"action": action, "target_hash": target, "dataset": str(survey), "poll_interval": 0.05}
        outcome = run(DatatileUploadOperator, **arguments, **options)
        assert (outcome.state, outcome.attempts) == ("success", 1)
        assert outcome.result == outcome.job_id == sandbox.jobs()[-1]["job_id"]
        assert [database["rows"] for database in sandbox.databases()] == [rows]


def test_without_waiting_the_task_ends_while_the_job_runs(run, start, survey):
    sandbox = start(processing_seconds=60)
    outcome = run(DatatileUploadOperator, action="create", target_hash=sandbox.folder, dataset=str(survey))
    (job,) = sandbox.jobs()
    assert (outcome.state, outcome.result, outcome.job_id) == ("success", job["job_id"], job["job_id"])
    assert job["state"] != "SUCCEEDED"
    assert (job["filename"], job["size"]) == ("wave 1.csv", survey.stat().st_size)


def test_a_rejected_token(upload, sandbox, connect):
    connect(sandbox, password=f"{TOKEN}-any-more")
    for outcome in upload(action="create", target_hash=sandbox.folder).values():
        outcome.assert_failed(AirflowFailException, "rejected the API token", "connection's password", "wave 1.csv")
    assert sandbox.jobs() == []


@pytest.mark.parametrize(
    ("action", "target", "texts"),
    [
        ("create", "root", ["root folder"]),
        ("create", "database", ["needs the hash of a folder"]),
        ("reload", "folder", ["needs the hash of a database"]),
        ("append", "f00d", ["No folder or database has the hash f00d", "404"]),
    ],
)
def test_a_target_that_does_not_fit(upload, sandbox, action, target, texts):
    targets = {"root": sandbox.root, "folder": sandbox.folder, "database": sandbox.add_database()}
    for outcome in upload(action=action, target_hash=targets.get(target, target)).values():
        outcome.assert_failed(AirflowFailException, action, *texts)
    assert sandbox.jobs() == []


@pytest.mark.parametrize("action", ["create", "append"])
def test_a_user_without_the_role(upload, start, action):
    sandbox = start(roles=())
    target = {"create": sandbox.folder, "append": sandbox.add_database()}[action]
    for outcome in upload(action=action, target_hash=target).values():
        outcome.assert_failed(AirflowFailException, "Database creator", "Data collector", "needs the role")


def test_a_target_that_the_user_may_not_edit(upload, sandbox):
    database = sandbox.add_database("Locked")
    sandbox.set_permission(database, False)
    for outcome in upload(target_hash=database).values():
        outcome.assert_failed(AirflowFailException, "You may not edit the database Locked", "edit permission")


def test_a_file_over_the_servers_limit(upload, start, survey):
    survey.write_text("respondent,vote\n" + "1,2\n" * 50_000)
    sandbox = start(max_upload_bytes=100_000)
    for outcome in upload(target_hash=sandbox.add_database()).values():
        outcome.assert_failed(AirflowFailException, "wave 1.csv", "over the server's size limit", "100000 bytes")


@pytest.mark.parametrize("busy", [(409, {"error": "in progress"}), (423, b""), (429, b"slow down")])
def test_a_server_that_is_busy_for_a_while(run, script, survey, busy):
    server = script(uploads=(busy, ACCEPTED))
    outcome = run(DatatileUploadOperator, action="create", target_hash="f00d", dataset=str(survey))
    assert (outcome.state, outcome.attempts, outcome.result) == ("success", 1, "job-f00d")
    assert len(server.uploads) == 2


def test_a_deferred_retry_takes_no_worker_slot(run, script, survey, monkeypatch, caplog):
    monkeypatch.setattr("datatile_provider.operators.attempt.MAX_BACKOFF_IN_WORKER", 0.1)
    server = script(uploads=((409, {"error": "in progress"}), (429, b""), ACCEPTED))
    upload = {"action": "create", "target_hash": "f00d", "dataset": str(survey), "poll_interval": 0.05}
    outcome = run(DatatileUploadOperator, **upload, **OPERATOR_WAITS["wait_deferred"])
    assert (outcome.state, outcome.attempts, outcome.result) == ("success", 1, "job-f00d")
    assert len(server.uploads) == 3
    # Twice for the backoff, and once for the job.
    assert caplog.messages.count("[DAG TEST] running trigger in line") == 3


def test_a_server_that_is_busy_for_too_long_is_retried_by_airflow(run, script, survey):
    script(uploads=((409, {"error": "in progress"}),))
    upload = {"action": "append", "target_hash": "f00d", "dataset": str(survey), "accept_timeout": 0.1}
    outcome = run(DatatileUploadOperator, retries=1, **upload)
    assert (outcome.state, outcome.attempts) == ("failed", 2)
    assert {type(error) for error in outcome.errors} == {AirflowException}
    assert all("in progress" in one_line(error) for error in outcome.errors)


@pytest.mark.parametrize(
    ("action", "response"),
    [
        ("create", (500, b"<h1>Oops</h1>")),
        ("append", (503, b"<html>")),
        ("append", (504, b"")),
        ("create", (200, b"<html>OK</html>")),
        ("append", (200, {})),
        ("create", None),
    ],
)
def test_an_upload_of_unknown_outcome_is_not_sent_again(upload, script, action, response):
    server = script(uploads=(response,))
    for outcome in upload(action=action).values():
        outcome.assert_failed(AirflowFailException, "OUTCOME UNKNOWN", "wave 1.csv", f"{server.url}/")
    assert len(server.uploads) == len(OPERATOR_MODES)


def test_dag_test_does_not_ask(run, script, survey):
    server = script(uploads=((504, b""),))
    outcome = run(DatatileUploadOperator, action="append", target_hash="f00d", dataset=str(survey), on_unknown="ask")
    outcome.assert_failed(AirflowFailException, "OUTCOME UNKNOWN")
    assert "The task fails instead of asking: " in outcome.log
    assert len(server.uploads) == 1


def test_a_reload_of_unknown_outcome_is_sent_again(run, script, survey):
    server = script(uploads=((502, b"<h1>Bad gateway</h1>"), ACCEPTED))
    outcome = run(DatatileUploadOperator, action="reload", target_hash="f00d", dataset=str(survey))
    assert (outcome.state, outcome.result) == ("success", "job-f00d")
    assert len(server.uploads) == 2


def test_a_success_with_an_error_inside_fails(upload, script):
    script(uploads=((200, {"success": False, "error": "Not a survey"}),))
    for outcome in upload().values():
        outcome.assert_failed(AirflowFailException, "Not a survey")
