"""The XCom that the page DATATILE reads: what it says, and that it never changes what a task does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from datatile_provider.api import errors
from datatile_provider.api.models import Job
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from datatile_provider.sensors.datatile import DatatileJobSensor
from datatile_provider.summary import KEY, Summary
from tests.provider.modes import SENSOR_MODES
from tests.support.task import Instance, Task

TIMES = ("sent_at", "accepted_at", "ended_at", "send_seconds", "process_seconds")


def upload(survey, target, **arguments):
    arguments = {"action": "create", "poll_interval": 0.05, **arguments, "target_hash": target, "dataset": str(survey)}
    return Task(lambda: DatatileUploadOperator(task_id="upload", **arguments))


def wait(job_id, **arguments):
    return Task(lambda: DatatileJobSensor(task_id="wait", job_id=job_id, poke_interval=0.05, **arguments))


def summary_of(task: Task) -> dict[str, Any]:
    value: dict[str, Any] = task.ti.xcoms[KEY]
    return value


def pushed(task: Task, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a task, and return the states of the summaries that it pushes."""
    states: list[str] = []
    push = Instance.xcom_push

    def recorded(ti, key, value):
        states.extend([value["state"]] if key == KEY else [])
        push(ti, key, value)

    monkeypatch.setattr(Instance, "xcom_push", recorded)
    task.run()
    return states


@pytest.mark.parametrize("deferrable", [False, True])
def test_an_upload_that_waits(sandbox, survey, monkeypatch, deferrable):
    task = upload(survey, sandbox.folder, wait_for_completion=True, deferrable=deferrable)
    assert pushed(task, monkeypatch) == ["accepted", "succeeded"]
    found = summary_of(task)
    (job,) = sandbox.jobs()
    assert {name: value for name, value in found.items() if name not in TIMES} == {
        "version": 1,
        "kind": "upload",
        "state": "succeeded",
        "code": "",
        "message": "3 rows read; wave 1 holds 3",
        "action": "create",
        "target": sandbox.folder,
        "file": survey.name,
        "size": survey.stat().st_size,
        "server": f"{sandbox.url}/api/v2",
        "job": job["job_id"],
        "job_url": found["job_url"],
        "log_url": found["log_url"],
        "database": sandbox.databases()[0]["hash"],
        "rows": sandbox.databases()[0]["rows"],
        "attempts": 1,
    }
    assert found["sent_at"] < found["accepted_at"] <= found["ended_at"]
    assert 0 <= found["send_seconds"] < 10
    assert 0 < found["process_seconds"] < 10
    assert found["log_url"].startswith(sandbox.url)


def test_an_upload_that_does_not_wait(sandbox, survey, monkeypatch):
    task = upload(survey, sandbox.folder)
    assert pushed(task, monkeypatch) == ["accepted"]
    found = summary_of(task)
    assert (found["rows"], found["process_seconds"], found["job"]) == (None, None, sandbox.jobs()[0]["job_id"])


@pytest.mark.parametrize("mode", SENSOR_MODES)
def test_a_wait(run_each, sandbox, survey, monkeypatch, mode):
    job = DatatileHook().upload("create", sandbox.folder, survey)
    found: list[Any] = []
    push = Summary.push

    def recorded(summary, ti, log):
        found.append(summary)
        push(summary, ti, log)

    monkeypatch.setattr(Summary, "push", recorded)
    outcomes = run_each(DatatileJobSensor, {mode: SENSOR_MODES[mode]}, job_id=job.id, poke_interval=0.1)
    assert outcomes[mode].state == "success"
    (summary,) = found
    assert (summary.kind, summary.state, summary.job, summary.rows) == (
        "wait", "succeeded", job.id, sandbox.databases()[0]["rows"],
    )  # fmt: skip
    assert summary.server == f"{sandbox.url}/api/v2"
    assert summary.process_seconds >= 0


def test_a_rejected_upload(sandbox, survey):
    task = upload(survey, "0000000000000000")
    task.run()
    found = summary_of(task)
    assert (found["state"], found["code"], found["job"], found["attempts"]) == ("failed", "not-found", "", 1)
    assert found["message"].startswith("NOT FOUND (404): ")
    assert found["ended_at"]
    assert found["file"] == survey.name


def test_a_file_that_is_missing(sandbox, tmp_path):
    task = upload(tmp_path / "missing.sav", sandbox.folder)
    task.run()
    found = summary_of(task)
    assert (found["state"], found["code"], found["file"]) == ("failed", "invalid-input", "missing.sav")


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_job_that_fails(script, survey, deferrable):
    script((200, {"status": "failed", "message": "Unknown variable Q7"}))
    task = upload(survey, "a1", action="append", wait_for_completion=True, deferrable=deferrable)
    task.run()
    found = summary_of(task)
    assert (found["state"], found["code"], found["file"]) == ("failed", "job-failed", survey.name)
    assert 'The server said: "Unknown variable Q7"' in found["message"]
    assert found["job"] == "job-a1"
    sensor = wait("job-a1", deferrable=deferrable)
    sensor.run()
    waited = summary_of(sensor)
    assert (waited["kind"], waited["state"], waited["message"]) == ("wait", "failed", found["message"])


def test_an_unknown_outcome(script, survey):
    script(uploads=((200, "<html>"),))
    task = upload(survey, "a1", action="append")
    task.run()
    assert (summary_of(task)["state"], summary_of(task)["code"]) == ("unknown", "outcome-unknown")


@pytest.mark.parametrize("action", ["append", "create"])
@pytest.mark.parametrize("deferrable", [False, True])
def test_an_xcom_that_fails_changes_nothing(start, survey, monkeypatch, action, deferrable):
    sandbox: Sandbox = start()
    target = (
        sandbox.folder
        if action == "create"
        else sandbox.add_database("Tracker", rows=1, variables=["id", "age", "vote"])
    )
    push = Instance.xcom_push

    def failing(ti, key, value):
        if key == KEY:
            raise RuntimeError("no backend")
        push(ti, key, value)

    monkeypatch.setattr(Instance, "xcom_push", failing)
    outcome = upload(survey, target, action=action, wait_for_completion=True, deferrable=deferrable).run()
    assert (outcome.state, outcome.attempts, len(sandbox.jobs())) == ("success", 1, 1)


def test_a_timeout_while_a_failure_is_stored_is_not_retried(script, survey, monkeypatch):
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout

    server = script(uploads=((200, "<html>"),))
    push = Instance.xcom_push

    def late(ti, key, value):
        if key == KEY:
            raise AirflowTaskTimeout("Timeout")
        push(ti, key, value)

    monkeypatch.setattr(Instance, "xcom_push", late)
    task = Task(lambda: DatatileUploadOperator(task_id="u", action="append", target_hash="a1", dataset=str(survey)), 3)
    outcome = task.run()
    outcome.assert_failed(AirflowFailException, "OUTCOME UNKNOWN")
    assert len(server.uploads) == 1


def test_a_message_is_one_short_line():
    error = errors.ServerError("It broke\nbadly", server_message="x" * 400)
    found = Summary("upload").failed(error, None, 0.0)
    assert "\n" not in found.message
    assert len(found.message) == 300
    assert Summary("wait").ended(Job("7", message="a\n  b"), 0.0).message == "a b"


def test_no_token_is_stored(sandbox, survey):
    task = upload(survey, sandbox.folder, wait_for_completion=True, callback_url="https://example.com/?secret=s3cret")
    task.run()
    assert sandbox.token not in json.dumps(task.ti.xcoms)
    assert "s3cret" not in json.dumps(task.ti.xcoms)


@pytest.mark.parametrize("value", [None, "text", {"version": 2}, {"version": 1}, [1]])
def test_what_is_no_summary(value):
    assert Summary.of(value) is None
