"""How an attempt proceeds from the stored state of earlier attempts: each row of the table, and the real operator."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout
from airflow.providers.common.compat.sdk import task as task_decorator

from datatile_provider.api.errors import DatasetUnreadableError
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.first_step import Cleared, Step, comparison_matters, first_step
from datatile_provider.operators.upload_state import Numbers, Phase, Record, Sent
from datatile_provider.sandbox import Sandbox
from tests.support.faults import FaultProxy
from tests.support.rawserver import RawServer
from tests.support.reading import one_line
from tests.support.scripted import scripted
from tests.support.task import Instance, Task
from tests.support.waiting import until

pytestmark = pytest.mark.needs_airflow(">=3.3")

SENT = Sent("https://datatile.example.com/api/v2", "append", "f00d", "wave.sav", 10, "10 bytes", "abc")
RECORD = Record(Phase.ACCEPTED, "append of a wave", SENT, "job-1", Numbers(2, 1, 1, 0))

#: By phase, and whether the task's upload is the same as before: the first step of a retry, of a cleared task, and of
#: an attempt that may be either.
STEPS = {
    (Phase.ACCEPTED, "same"): (Step.RESUME, Step.RESUME, Step.RESUME),
    (Phase.ACCEPTED, "other"): (Step.CHANGED, Step.CHANGED, Step.CHANGED),
    (Phase.DONE, "same"): (Step.RETURN, Step.UPLOAD, Step.UNSURE),
    (Phase.DONE, "other"): (Step.CHANGED, Step.UPLOAD, Step.CHANGED),
    (Phase.REPORTED, "same"): (Step.REPORT_AGAIN, Step.UPLOAD, Step.REPORT_AGAIN),
    (Phase.REPORTED, "other"): (Step.REPORT_AGAIN, Step.UPLOAD, Step.REPORT_AGAIN),
    (Phase.SENDING, "same"): (Step.UNKNOWN, Step.UNKNOWN, Step.UNKNOWN),
    (Phase.SENDING, "other"): (Step.UNKNOWN, Step.UNKNOWN, Step.UNKNOWN),
}


@pytest.mark.parametrize(("phase", "upload"), list(product(Phase, ["same", "other"])))
@pytest.mark.parametrize("harmless", [False, True])
def test_the_first_step(phase, upload, harmless):
    for cleared, expected in zip((Cleared.NO, Cleared.YES, Cleared.UNSURE), STEPS[phase, upload], strict=True):
        if harmless and phase is Phase.SENDING:
            expected = Step.UPLOAD
        step = first_step(phase, cleared, differs=upload == "other", harmless=harmless)
        assert step is expected


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        # max_tries, retries, try_number, clears of the run.
        ((1, 1, 1, 0), (1, 1, 2, 0), Cleared.NO),
        ((2, 2, 1, 0), (2, 2, 3, 0), Cleared.NO),
        ((2, 1, 2, 1), (2, 1, 3, 1), Cleared.NO),
        ((1, 1, 1, 0), (2, 1, 2, 1), Cleared.YES),
        ((2, 1, 2, 0), (1, 0, 3, 0), Cleared.YES),
        # Retries lowered, then cleared: max_tries is unchanged.
        ((1, 1, 1, 0), (1, 0, 2, 0), Cleared.UNSURE),
        # Retries lowered before the attempt that succeeded.
        ((2, 0, 2, 0), (2, 0, 3, 0), Cleared.UNSURE),
        ((3, 1, 2, 0), (3, 1, 3, 0), Cleared.UNSURE),
        # Retries lowered, task cleared, retries restored.
        ((2, 2, 1, 0), (2, 2, 3, 1), Cleared.UNSURE),
        ((2, 2, 1, -1), (2, 2, 3, -1), Cleared.NO),
    ],
)
def test_a_clear_is_distinguished_from_a_retry(before, now, expected):
    assert Cleared.since(Numbers(*before), Numbers(*now)) is expected


@pytest.mark.parametrize(
    ("max_tries", "try_number", "dag_run", "expected"),
    [
        (2, 3, SimpleNamespace(clear_number=1), (2, 1, 3, 1)),
        (2, 3, SimpleNamespace(clear_number=0), (2, 1, 3, 0)),
        # What an Airflow does not tell.
        (2, 3, SimpleNamespace(), (2, 1, 3, -1)),
        (None, None, None, (0, 1, 0, -1)),
    ],
)
def test_the_numbers_of_an_attempt(max_tries, try_number, dag_run, expected):
    context: Any = {"ti": SimpleNamespace(max_tries=max_tries, try_number=try_number), "dag_run": dag_run}
    assert Numbers.of(context, retries=1) == Numbers(*expected)


def test_the_file_is_read_only_if_the_first_step_depends_on_it():
    """A large file is not read for nothing, and one that can't be read does not hide an error that was reported."""
    found = {case for case in product(Phase, Cleared) if comparison_matters(*case, harmless=False)}
    unless_cleared = {(Phase.DONE, Cleared.NO), (Phase.DONE, Cleared.UNSURE)}
    assert found == {*product([Phase.ACCEPTED], Cleared), *unless_cleared}


def test_a_record_round_trip():
    assert Record.of(json.loads(json.dumps(RECORD.as_dict()))) == RECORD


GOOD = RECORD.as_dict()


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "x",
        [],
        {},
        {**GOOD, "version": 0},
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
def test_invalid_records_are_rejected(bad, task):
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
    """An append, and its sandbox, in which jobs take long. Yields sandbox, task, arguments and file."""
    dataset = tmp_path / "wave.csv"
    dataset.write_text("respondent,vote\n1,2\n")
    with Sandbox(processing_seconds=600) as sandbox, FaultProxy(sandbox.url) as proxy:
        connect(sandbox, host=proxy.url)
        arguments: dict[str, Any] = {"action": "append", "target_hash": sandbox.add_database("Study")}
        arguments |= {
            "dataset": str(dataset),
            "poll_interval": 0.05,
            "wait_for_completion": True,
            "timeout": 0.3,
            "retries": 1,
        }
        yield sandbox, Task(lambda: DatatileUploadOperator(task_id="upload", **arguments), 1), arguments, dataset


def stored(upload: Task) -> Record:
    return Record.of(json.loads(upload.store.rows["datatile_upload"]))


def set_accepted(upload: Task) -> None:
    """Set the record to that of a worker that was killed after the file was accepted."""
    upload.store.rows["datatile_upload"] = json.dumps(
        dataclasses.replace(stored(upload), phase=Phase.ACCEPTED).as_dict()
    )


def end_jobs(sandbox: Sandbox) -> None:
    """Cancel the jobs of earlier uploads, so that the destination is not busy."""
    for job in sandbox.jobs():
        if job["state"] not in ("CANCELLED", "SUCCEEDED"):
            sandbox.cancel(job["job_id"])


def test_the_record_holds_what_was_sent_and_where(task):
    sandbox, upload, arguments, dataset = task
    upload.run()
    sent = stored(upload).sent
    assert sent.server.endswith("/api/v2")
    assert (sent.action, sent.target, sent.name) == ("append", arguments["target_hash"], "wave.csv")
    assert (sent.size, sent.sha256) == (20, hashlib.sha256(dataset.read_bytes()).hexdigest())
    assert stored(upload).job_id == sandbox.uploads()[0]["job_id"]
    # Otherwise Airflow deletes the record after 30 days, and a clear then sends the file again.
    assert upload.store.retentions == {"datatile_upload": timedelta.max}


def test_a_task_cleared_with_another_server_fails_once_and_then_sends(task, connect):
    sandbox, upload, arguments, _ = task
    upload.run()
    set_accepted(upload)
    with Sandbox() as production, FaultProxy(production.url) as proxy:
        connect(production, host=proxy.url)
        arguments |= {"target_hash": production.add_database("Study"), "wait_for_completion": False}
        upload.clear()
        error = upload.run().error
        assert type(error) is AirflowFailException
        assert f"server: before {stored(upload).sent.server}, now {proxy.url}/api/v2" in one_line(error)
        assert sandbox.uploads()[0]["job_id"] in one_line(error)
        assert production.uploads() == []

        upload.clear()
        assert upload.run().state == "success"
        assert len(production.uploads()) == 1


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_changed_file_of_the_same_name_is_not_taken_for_the_accepted_one(task, deferrable):
    sandbox, upload, arguments, dataset = task
    arguments |= {"deferrable": deferrable}
    upload.run()
    set_accepted(upload)
    dataset.write_text("respondent,vote\n1,3\n")
    upload.clear()
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert "content: before 'wave.csv' of 20 bytes" in one_line(error)
    assert sandbox.uploads()[0]["job_id"] in one_line(error)

    end_jobs(sandbox)
    upload.clear()
    upload.run()
    assert len(sandbox.uploads()) == 2


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_corrected_file_is_not_sent_before_an_error_has_named_the_job_of_a_wait_that_failed(task, deferrable):
    sandbox, upload, arguments, dataset = task
    arguments |= {"deferrable": deferrable}
    upload.run()
    assert stored(upload).phase is Phase.ACCEPTED

    end_jobs(sandbox)
    dataset.write_text("respondent,vote\n1,3\n")
    upload.clear()
    assert sandbox.uploads()[0]["job_id"] in one_line(upload.run().error)
    assert len(sandbox.uploads()) == 1

    upload.clear()
    upload.run()
    assert len(sandbox.uploads()) == 2


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_file_that_replaces_one_whose_job_did_not_succeed_is_sent_by_one_clear(task, deferrable):
    sandbox, upload, arguments, dataset = task
    arguments |= {"deferrable": deferrable, "timeout": 30, "wait_for_completion": True}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(upload.run)
        until(sandbox.uploads, "the file is accepted")
        end_jobs(sandbox)
        error = running.result(30).error
    assert "Replace the file, then clear this task: it sends the file." in one_line(error)
    assert (stored(upload).phase, stored(upload).text) == (Phase.REPORTED, str(error))

    dataset.write_text("respondent,vote\n1,3\n")
    arguments |= {"wait_for_completion": False}
    upload.clear()
    assert upload.run().state == "success"
    assert len(sandbox.uploads()) == 2


def test_a_file_that_was_moved_or_touched_is_the_same_file(task, tmp_path):
    sandbox, upload, arguments, dataset = task
    upload.run()
    set_accepted(upload)
    arguments |= {"dataset": str(dataset.rename(tmp_path / "wave-again.csv"))}
    (tmp_path / "wave-again.csv").touch()
    upload.clear()
    assert type(upload.run().error) is AirflowSensorTimeout
    assert len(sandbox.uploads()) == 1


def test_a_missing_file_does_not_keep_the_task_from_resuming_its_job(task):
    sandbox, upload, _, dataset = task
    upload.run()
    set_accepted(upload)
    dataset.unlink()
    upload.clear()
    assert type(upload.run().error) is AirflowSensorTimeout
    assert len(sandbox.uploads()) == 1


def test_a_retry_that_resumes_a_job_does_not_change_the_record(task, tmp_path):
    """File A was accepted, and the task changed to B: the record must not name B."""
    sandbox, upload, arguments, _ = task
    upload.run()
    set_accepted(upload)
    sent = stored(upload).sent
    other = tmp_path / "b.csv"
    other.write_text("respondent,vote\n7,7\n")
    arguments |= {"dataset": str(other)}
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert "content: before 'wave.csv' of 20 bytes" in one_line(error)
    assert stored(upload).sent == sent
    end_jobs(sandbox)
    upload.clear()
    upload.run()
    assert [job["filename"] for job in sandbox.jobs()] == ["wave.csv", "b.csv"]


def test_a_clear_after_lowered_retries_is_not_taken_for_a_success(task):
    sandbox, upload, arguments, _ = task
    arguments |= {"wait_for_completion": False, "retries": 1}
    assert upload.run().state == "success"
    # As Airflow does on a clear: the attempts so far plus the task's current retries.
    arguments |= {"retries": 0}
    upload.ti.max_tries = upload.ti.try_number + 0
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert "does not show whether the task was cleared since" in one_line(error)
    assert len(sandbox.uploads()) == 1

    end_jobs(sandbox)
    upload.ti.max_tries = upload.ti.try_number + 0
    assert upload.run().state == "success"
    assert len(sandbox.uploads()) == 2


def test_an_unknown_append_is_not_forgotten_when_the_task_becomes_a_reload(task):
    sandbox, upload, arguments, _ = task
    upload.store.rows["datatile_upload"] = json.dumps(dataclasses.replace(RECORD, phase=Phase.SENDING).as_dict())
    arguments |= {"action": "reload"}
    error = upload.run().error
    assert type(error) is AirflowFailException
    assert str(error).startswith("OUTCOME UNKNOWN\nappend of a wave")
    assert "action: before append, now reload" in one_line(error)
    assert sandbox.uploads() == []


def test_a_task_resumed_by_the_triggerer_reads_the_record(task):
    sandbox, upload, arguments, _ = task
    upload.store.rows["datatile_upload"] = json.dumps(dataclasses.replace(RECORD, phase=Phase.SENDING).as_dict())
    operator = DatatileUploadOperator(task_id="upload", **arguments)
    with pytest.raises(AirflowFailException, match="OUTCOME UNKNOWN"):
        operator.resume_execution("retry_upload", {"event": {"version": 1, "retry": True}}, upload.context)
    assert sandbox.uploads() == []


def test_a_decorated_task_calls_its_function_again_when_it_is_cleared(task, tmp_path):
    sandbox, _, arguments, dataset = task
    calls = []

    def path() -> str:
        calls.append(str(dataset))
        return str(dataset)

    options = {k: v for k, v in arguments.items() if k != "dataset"}
    decorated: Any = task_decorator.datatile_upload(task_id="upload", **options)(path)
    upload = Task(lambda: decorated().operator, 1)
    upload.run()
    set_accepted(upload)
    assert len(calls) == 1
    # A retry resumes what was sent: the function may write a different file each time.
    upload.run()
    assert len(calls) == 1
    set_accepted(upload)
    upload.clear()
    assert type(upload.run().error) is AirflowSensorTimeout
    assert len(sandbox.uploads()) == 1

    set_accepted(upload)
    dataset.write_text("respondent,vote\n8,8\n")
    upload.clear()
    assert "content: before 'wave.csv'" in str(upload.run().error)
    end_jobs(sandbox)
    upload.clear()
    upload.run()
    assert len(sandbox.uploads()) == 2


@contextlib.contextmanager
def job_with_response(upload: Task, connect: Callable[..., object], body: bytes, **extra: object) -> Iterator[None]:
    """Move the job to a server with this response to every poll."""
    with RawServer(scripted((200, body))) as server:
        record = stored(upload)
        sent = dataclasses.replace(record.sent, server=f"{server.url}/api/v2")
        upload.store.rows["datatile_upload"] = json.dumps(dataclasses.replace(record, sent=sent).as_dict())
        connect(server.url, extra=extra)
        yield


def test_a_job_that_has_failed_in_two_polls_is_sent_again(task, monkeypatch):
    sandbox, upload, arguments, _ = task
    monkeypatch.setattr("datatile_provider.operators.attempt.CONFIRM_PAUSE", 0.01)
    upload.run()
    set_accepted(upload)
    end_jobs(sandbox)
    arguments |= {"wait_for_completion": False}
    assert upload.run().state == "success"
    assert len(sandbox.uploads()) == 2


#: Responses for a running job that look like a failure: an error of the request, errors beside a success, another job.
NO_FAILURES = [
    {"status": "error", "message": "Unable to communicate with database"},
    {"status": "failed", "data": None, "message": "try again later"},
    {"id": "{job}", "status": "succeeded", "errors": [{"row": 3}]},
    {"id": "another", "status": "failed"},
]


@pytest.mark.parametrize(("body", "waits"), list(product(NO_FAILURES, [False, True])), ids=json.dumps)
def test_what_is_not_clearly_a_failure_of_the_job_sends_nothing_again(task, connect, body, waits):
    sandbox, upload, arguments, _ = task
    upload.run()
    set_accepted(upload)
    job_id = sandbox.uploads()[0]["job_id"]
    text = json.dumps(body).replace("{job}", job_id).encode()
    with job_with_response(upload, connect, text):
        arguments |= {"wait_for_completion": waits}
        outcome = upload.run()
    assert len(sandbox.uploads()) == 1
    if waits:
        assert type(outcome.error) is AirflowSensorTimeout
    else:
        assert outcome.result == job_id


@pytest.mark.parametrize(
    ("extra", "expected"), [({"status_field": "status"}, "JOB FAILED"), ({}, "JOB STATUS UNCLEAR")]
)
def test_a_failure_that_does_not_name_the_job_fails_the_task_and_sends_nothing(
    task, connect, monkeypatch, extra, expected
):
    sandbox, upload, arguments, _ = task
    monkeypatch.setattr("datatile_provider.operators.attempt.CONFIRM_PAUSE", 0.01)
    upload.run()
    set_accepted(upload)
    with job_with_response(upload, connect, b'{"status": "failed"}', **extra):
        arguments |= {"wait_for_completion": False}
        error = upload.run().error
    assert type(error) is AirflowFailException
    assert str(error).startswith(expected)
    assert f"job {stored(upload).job_id}\n" in str(error)
    assert len(sandbox.uploads()) == 1


def test_a_task_ended_from_outside_during_the_upload_resumes_its_job_when_cleared(task, monkeypatch):
    """As by "mark failed" in the UI: Airflow lets the process run for some more seconds."""
    sandbox, _, arguments, _ = task
    arguments |= {"wait_for_completion": False}
    push = Instance.xcom_push

    def killed(self, key, value):
        push(self, key, value)
        operators[-1].on_kill()

    operators: list[DatatileUploadOperator] = []

    def make_operator() -> DatatileUploadOperator:
        operators.append(DatatileUploadOperator(task_id="upload", **arguments))
        return operators[-1]

    marked = Task(make_operator, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Instance, "xcom_push", killed)
        assert sandbox.uploads() == []
        error = marked.run().error
    assert sandbox.uploads()[0]["job_id"] in one_line(error)
    marked.clear()
    assert marked.run().state == "success"
    assert len(sandbox.uploads()) == 1


def test_a_file_that_cannot_be_read_for_a_moment_is_compared_by_the_next_attempt(task, monkeypatch):
    sandbox, upload, _, dataset = task

    def fail(dataset):
        raise DatasetUnreadableError("The store does not respond")

    upload.run()
    set_accepted(upload)
    dataset.write_text("respondent,vote\n1,3\n")
    with monkeypatch.context() as patch:
        patch.setattr("datatile_provider.hooks.content.sha256_of", fail)
        outcome = upload.run()
    # The job is not resumed, because the task's file may differ. Airflow may retry.
    assert {type(error) for error in outcome.errors} == {AirflowException}
    assert "content: before 'wave.csv'" in str(upload.run().error)
    assert len(sandbox.uploads()) == 1
