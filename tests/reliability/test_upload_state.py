"""What an attempt makes of what the attempts before left behind: row by row, and by the real operator."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import product

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout
from airflow.providers.common.compat.sdk import task as task_decorator

from datatile_provider.api.errors import DatasetUnreadableError
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.upload_state import Cleared, Numbers, Phase, Record, Sent, Step, first_step
from datatile_provider.sandbox import Sandbox
from tests.reliability.task import Instance, Task
from tests.support.faults import FaultProxy
from tests.support.rawserver import RawServer
from tests.support.reading import one_line

pytestmark = pytest.mark.needs_airflow(">=3.3")

SENT = Sent("https://datatile.example.com/api/v2", "append", "f00d", "wave.sav", 10, "10 bytes", "abc")
RECORD = Record(Phase.ACCEPTED, "append of a wave", SENT, "job-1", Numbers(2, 1, 1, 0))

#: Phase, what the task is about now, and what an attempt begins with: a retry's, a cleared task's, and one of which it
#: is not known which of the two it is.
STEPS = {
    (Phase.ACCEPTED, "same"): (Step.RESUME, Step.RESUME, Step.RESUME),
    (Phase.ACCEPTED, "other"): (Step.CHANGED, Step.CHANGED, Step.CHANGED),
    (Phase.WAIT_FAILED, "same"): (Step.RESUME, Step.RESUME, Step.RESUME),
    (Phase.WAIT_FAILED, "other"): (Step.CHANGED, Step.UPLOAD, Step.CHANGED),
    (Phase.DONE, "same"): (Step.RETURN, Step.UPLOAD, Step.UNSURE),
    (Phase.DONE, "other"): (Step.CHANGED, Step.UPLOAD, Step.CHANGED),
    (Phase.REPORTED, "same"): (Step.REPORT_AGAIN, Step.UPLOAD, Step.REPORT_AGAIN),
    (Phase.REPORTED, "other"): (Step.REPORT_AGAIN, Step.UPLOAD, Step.REPORT_AGAIN),
    (Phase.SENDING, "same"): (Step.UNKNOWN, Step.UNKNOWN, Step.UNKNOWN),
    (Phase.SENDING, "other"): (Step.UNKNOWN, Step.UNKNOWN, Step.UNKNOWN),
}


@pytest.mark.parametrize(("phase", "about"), list(product(Phase, ["same", "other"])))
@pytest.mark.parametrize("may_send_again", [False, True])
def test_the_first_step(phase, about, may_send_again):
    record = dataclasses.replace(RECORD, phase=phase)
    for cleared, expected in zip((Cleared.NO, Cleared.YES, Cleared.UNSURE), STEPS[phase, about], strict=True):
        if may_send_again and phase is Phase.SENDING:
            expected = Step.UPLOAD
        step = first_step(record, cleared=cleared, differs=about == "other", may_send_again=may_send_again)
        assert step is expected


@pytest.mark.parametrize("cleared", Cleared)
def test_nothing_remembered_is_an_upload(cleared):
    assert first_step(None, cleared=cleared, differs=True, may_send_again=False) is Step.UPLOAD


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        # Maximum of tries, retries, attempt, clears of the run.
        ((1, 1, 1, 0), (1, 1, 2, 0), Cleared.NO),
        ((2, 2, 1, 0), (2, 2, 3, 0), Cleared.NO),
        ((2, 1, 2, 1), (2, 1, 3, 1), Cleared.NO),
        ((1, 1, 1, 0), (2, 1, 2, 1), Cleared.YES),
        ((2, 1, 2, 0), (1, 0, 3, 0), Cleared.YES),
        # Retries lowered, then cleared: the maximum is what it was.
        ((1, 1, 1, 0), (1, 0, 2, 0), Cleared.UNSURE),
        # Lowered before the attempt that succeeded.
        ((2, 0, 2, 0), (2, 0, 3, 0), Cleared.UNSURE),
        # Lowered, cleared, and put back.
        ((2, 2, 1, 0), (2, 2, 3, 1), Cleared.UNSURE),
        ((2, 2, 1, -1), (2, 2, 3, -1), Cleared.NO),
    ],
)
def test_a_clear_is_told_from_a_retry(before, now, expected):
    assert Cleared.since(Numbers(*before), Numbers(*now)) is expected


def test_a_record_comes_back_as_it_was():
    assert Record.of(json.loads(json.dumps(RECORD.as_dict()))) == RECORD


GOOD = RECORD.as_dict()


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "x",
        [],
        {},
        {**GOOD, "version": 2},
        {**GOOD, "version": None},
        {**GOOD, "phase": "lost"},
        {**GOOD, "job_id": ""},
        {**GOOD, "job_id": "a b"},
        {**GOOD, "job_id": None},
        {**GOOD, "phase": "done", "job_id": ""},
        {**GOOD, "airflow": {**GOOD["airflow"], "max_tries": "2"}},
        {**GOOD, "airflow": {**GOOD["airflow"], "retries": True}},
        {**GOOD, "airflow": {}},
        {**GOOD, "airflow": [2, 1, 1, 0]},
        {**GOOD, "sent": "append"},
        {**GOOD, "sent": {**GOOD["sent"], "size": "10"}},
        {**GOOD, "sent": {k: v for k, v in GOOD["sent"].items() if k != "server"}},
    ],
)
def test_what_is_no_record_is_not_believed(bad, task):
    with pytest.raises(ValueError, match="record"):
        Record.of(bad)
    sandbox, upload, _, _ = task
    upload.store.rows["datatile_upload"] = json.dumps(bad) if bad is not None else "[]"
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert "Nothing was sent" in one_line(error)
    assert sandbox.uploads() == []


@pytest.fixture
def task(wave, connect, tmp_path):
    """An append of a file of its own, and the sandbox that it goes to; a job takes long there."""
    dataset = tmp_path / "wave.csv"
    dataset.write_text("respondent,vote\n1,2\n")
    with Sandbox(processing_seconds=600) as sandbox, FaultProxy(sandbox.url) as proxy:
        connect(sandbox, proxy)
        arguments = {"action": "append", "target_hash": sandbox.add_database("Study"), "dataset": str(dataset)}
        arguments |= {"poll_interval": 0.05, "wait_for_completion": True, "timeout": 0.3, "retries": 1}
        yield sandbox, Task(lambda: DatatileUploadOperator(task_id="upload", **arguments), 1), arguments, dataset


def stored(upload: Task) -> Record:
    return Record.of(json.loads(upload.store.rows["datatile_upload"]))


def silently_accepted(upload: Task) -> None:
    """Let the record be as if the worker had died once the file was accepted."""
    upload.store.rows["datatile_upload"] = json.dumps(
        dataclasses.replace(stored(upload), phase=Phase.ACCEPTED).as_dict()
    )


def let_the_next_one_in(sandbox: Sandbox) -> None:
    """End the earlier upload's job, so that the destination is not busy."""
    for job in sandbox.jobs():
        if job["state"] not in ("CANCELLED", "SUCCEEDED"):
            sandbox.cancel(job["job_id"])


def test_the_record_says_what_was_sent_and_where(task):
    sandbox, upload, arguments, dataset = task
    upload.run()
    sent = stored(upload).sent
    assert sent.server.endswith("/api/v2")
    assert (sent.action, sent.target, sent.name) == ("append", arguments["target_hash"], "wave.csv")
    assert (sent.size, sent.sha256) == (20, hashlib.sha256(dataset.read_bytes()).hexdigest())
    assert stored(upload).job_id == sandbox.uploads()[0]["job_id"]
    # Airflow would else drop it after 30 days, and a clear would send the file again.
    assert upload.store.retentions == {"datatile_upload": timedelta.max}


def test_a_task_that_is_cleared_on_another_server_says_so_and_then_sends(task, connect):
    sandbox, upload, arguments, _ = task
    upload.run()
    silently_accepted(upload)
    with Sandbox() as production, FaultProxy(production.url) as proxy:
        connect(production, proxy)
        arguments |= {"target_hash": production.add_database("Study"), "wait_for_completion": False}
        upload.clear()
        error = upload.run().error
        assert type(error) is AirflowFailException
        assert f"server: {stored(upload).sent.server} before, {proxy.url}/api/v2 now" in one_line(error)
        assert sandbox.uploads()[0]["job_id"] in one_line(error)
        assert production.uploads() == []

        upload.clear()
        assert upload.run().state == "success"
        assert len(production.uploads()) == 1


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_file_that_was_corrected_under_its_name_is_not_taken_for_the_one_that_was_accepted(task, deferrable):
    sandbox, upload, arguments, dataset = task
    arguments |= {"deferrable": deferrable}
    upload.run()
    silently_accepted(upload)
    dataset.write_text("respondent,vote\n1,3\n")
    upload.clear()
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert "content: 'wave.csv' of 20 bytes before" in one_line(error)
    assert sandbox.uploads()[0]["job_id"] in one_line(error)

    let_the_next_one_in(sandbox)
    upload.clear()
    upload.run()
    assert len(sandbox.uploads()) == 2


def test_a_file_that_was_moved_or_touched_is_the_same_file(task, tmp_path):
    sandbox, upload, arguments, dataset = task
    upload.run()
    silently_accepted(upload)
    arguments |= {"dataset": str(dataset.rename(tmp_path / "wave-again.csv"))}
    (tmp_path / "wave-again.csv").touch()
    upload.clear()
    assert type(upload.run().error) is AirflowSensorTimeout
    assert len(sandbox.uploads()) == 1


def test_a_file_that_is_gone_is_no_reason_to_leave_its_job(task):
    sandbox, upload, _, dataset = task
    upload.run()
    silently_accepted(upload)
    dataset.unlink()
    upload.clear()
    assert type(upload.run().error) is AirflowSensorTimeout
    assert len(sandbox.uploads()) == 1


def test_a_retry_that_follows_a_job_leaves_the_record_as_it_was(task, tmp_path):
    """File A accepted, the task changed to B: nothing may say that B is there."""
    sandbox, upload, arguments, _ = task
    upload.run()
    silently_accepted(upload)
    sent = stored(upload).sent
    other = tmp_path / "b.csv"
    other.write_text("respondent,vote\n7,7\n")
    arguments |= {"dataset": str(other)}
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert "'wave.csv' of 20 bytes before" in one_line(error)
    assert stored(upload).sent == sent
    let_the_next_one_in(sandbox)
    upload.clear()
    upload.run()
    assert [job["filename"] for job in sandbox.jobs()] == ["wave.csv", "b.csv"]


def test_a_clear_after_lowered_retries_does_not_pass_for_a_success(task):
    sandbox, upload, arguments, _ = task
    arguments |= {"wait_for_completion": False, "retries": 1}
    assert upload.run().state == "success"
    # As Airflow does it: the attempts so far and the task's retries now.
    arguments |= {"retries": 0}
    upload.ti.max_tries = upload.ti.try_number + 0
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert "do not tell whether a person has cleared the task" in one_line(error)
    assert len(sandbox.uploads()) == 1

    let_the_next_one_in(sandbox)
    upload.ti.max_tries = upload.ti.try_number + 0
    assert upload.run().state == "success"
    assert len(sandbox.uploads()) == 2


def test_an_unknown_append_is_not_forgotten_when_the_task_becomes_a_reload(task):
    sandbox, upload, arguments, _ = task
    upload.store.rows["datatile_upload"] = json.dumps(dataclasses.replace(RECORD, phase=Phase.SENDING).as_dict())
    arguments |= {"action": "reload"}
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert "It is unknown whether the server holds the append of a wave" in one_line(error)
    assert "action: append before, reload now" in one_line(error)
    assert sandbox.uploads() == []


def test_a_task_that_comes_back_from_the_triggerer_reads_the_record(task):
    sandbox, upload, arguments, _ = task
    upload.store.rows["datatile_upload"] = json.dumps(dataclasses.replace(RECORD, phase=Phase.SENDING).as_dict())
    operator = DatatileUploadOperator(task_id="upload", **arguments)
    with pytest.raises(AirflowFailException, match="It is unknown whether"):
        operator.resume_execution("retry_upload", {"event": {"version": 1, "retry": True}}, upload.context)
    assert sandbox.uploads() == []


def test_a_decorated_task_asks_its_function_again_when_it_is_cleared(task, tmp_path):
    sandbox, _, arguments, dataset = task
    calls = []

    def path() -> str:
        calls.append(str(dataset))
        return str(dataset)

    given = {k: v for k, v in arguments.items() if k != "dataset"}
    upload = Task(lambda: task_decorator.datatile_upload(task_id="upload", **given)(path)().operator, 1)
    upload.run()
    silently_accepted(upload)
    assert len(calls) == 1
    # A retry goes on with what was sent: a function may write another file each time.
    upload.run()
    assert len(calls) == 1
    silently_accepted(upload)
    upload.clear()
    assert type(upload.run().error) is AirflowSensorTimeout
    assert len(sandbox.uploads()) == 1

    silently_accepted(upload)
    dataset.write_text("respondent,vote\n8,8\n")
    upload.clear()
    assert "content: 'wave.csv'" in str(upload.run().error)
    let_the_next_one_in(sandbox)
    upload.clear()
    upload.run()
    assert len(sandbox.uploads()) == 2


@contextlib.contextmanager
def answered(upload: Task, monkeypatch: pytest.MonkeyPatch, body: bytes, **extra: object) -> Iterator[None]:
    """Let the job be at a server that answers every poll like this."""
    with RawServer(lambda peer: (peer.request(), peer.respond(200, body))) as server:
        record = stored(upload)
        sent = dataclasses.replace(record.sent, server=f"{server.url}/api/v2")
        upload.store.rows["datatile_upload"] = json.dumps(dataclasses.replace(record, sent=sent).as_dict())
        connection = {"conn_type": "datatile", "host": server.url, "password": "the-token", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", json.dumps(connection))
        yield


def test_a_job_that_has_failed_by_two_polls_is_sent_anew(task, monkeypatch):
    sandbox, upload, arguments, _ = task
    monkeypatch.setattr("datatile_provider.operators.datatile.CONFIRM_PAUSE", 0.01)
    upload.run()
    silently_accepted(upload)
    let_the_next_one_in(sandbox)
    arguments |= {"wait_for_completion": False}
    assert upload.run().state == "success"
    assert len(sandbox.uploads()) == 2


#: What a server may say of a job that goes on: an error of the request, and what stands beside a success.
NO_FAILURES = [
    {"status": "error", "message": "Unable to communicate with database"},
    {"status": "failed", "data": None, "message": "try again later"},
    {"id": "{job}", "status": "succeeded", "errors": [{"row": 3}]},
    {"id": "another", "status": "failed"},
]


@pytest.mark.parametrize(("body", "waits"), list(product(NO_FAILURES, [False, True])), ids=json.dumps)
def test_what_is_not_clearly_a_failure_of_the_job_sends_nothing_anew(task, monkeypatch, body, waits):
    sandbox, upload, arguments, _ = task
    upload.run()
    silently_accepted(upload)
    job_id = sandbox.uploads()[0]["job_id"]
    text = json.dumps(body).replace("{job}", job_id).encode()
    with answered(upload, monkeypatch, text):
        arguments |= {"wait_for_completion": waits}
        outcome = upload.run()
    assert len(sandbox.uploads()) == 1
    if waits:
        assert type(outcome.error) is AirflowSensorTimeout
    else:
        assert outcome.result == job_id


@pytest.mark.parametrize(
    ("extra", "says"), [({"status_field": "status"}, "failed (its status is 'failed')"), ({}, "may have failed")]
)
def test_a_failure_that_does_not_name_the_job_fails_the_task_and_sends_nothing(task, monkeypatch, extra, says):
    sandbox, upload, arguments, _ = task
    monkeypatch.setattr("datatile_provider.operators.datatile.CONFIRM_PAUSE", 0.01)
    upload.run()
    silently_accepted(upload)
    with answered(upload, monkeypatch, b'{"status": "failed"}', **extra):
        arguments |= {"wait_for_completion": False}
        error = upload.run().error
    assert type(error) is AirflowFailException
    assert f"Job {stored(upload).job_id} {says}" in one_line(error)
    assert len(sandbox.uploads()) == 1


def test_a_task_that_was_ended_from_outside_while_it_was_sent_resumes_its_job_when_it_is_cleared(task, monkeypatch):
    """Marked failed in the UI: Airflow lets the process go on for some seconds."""
    sandbox, _, arguments, _ = task
    arguments |= {"wait_for_completion": False}
    push = Instance.xcom_push

    def killed(self, key, value):
        push(self, key, value)
        made[-1].on_kill()

    made: list[DatatileUploadOperator] = []

    def make() -> DatatileUploadOperator:
        made.append(DatatileUploadOperator(task_id="upload", **arguments))
        return made[-1]

    marked = Task(make, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Instance, "xcom_push", killed)
        assert sandbox.uploads() == []
        error = marked.run().error
    assert sandbox.uploads()[0]["job_id"] in one_line(error)
    marked.clear()
    assert marked.run().state == "success"
    assert len(sandbox.uploads()) == 1


def test_a_file_that_can_not_be_read_for_a_moment_is_compared_by_the_next_attempt(task, monkeypatch):
    sandbox, upload, _, dataset = task

    def fail(dataset):
        raise DatasetUnreadableError("The store does not answer")

    upload.run()
    silently_accepted(upload)
    dataset.write_text("respondent,vote\n1,3\n")
    with monkeypatch.context() as patch:
        patch.setattr("datatile_provider.hooks.content.sha256_of", fail)
        outcome = upload.run()
    # Not followed, as the task's file may be another, and not final.
    assert {type(error) for error in outcome.errors} == {AirflowException}
    assert "content: 'wave.csv'" in str(upload.run().error)
    assert len(sandbox.uploads()) == 1
