"""Crashes and errors after the file was accepted, and what the next attempt does."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    Asset,
)

from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from datatile_provider.sensors.datatile import DatatileJobSensor
from datatile_provider.version_compat import AirflowTaskTerminated
from tests.support.faults import FaultProxy
from tests.support.reading import one_line
from tests.support.task import Instance, Outcome, Task, WorkerKilled
from tests.support.versions import HAS_STATE_STORE


def test_a_worker_killed_after_acceptance(wave, connect, monkeypatch):
    push, deaths = Instance.xcom_push, iter([True])

    def crash(self, key, value):
        if key == "job_id" and next(deaths, False):
            raise WorkerKilled
        push(self, key, value)

    with Sandbox() as sandbox, FaultProxy(sandbox.url) as proxy:
        connect(sandbox, host=proxy.url)
        target = sandbox.add_database("Study")
        arguments: dict[str, Any] = {"action": "append", "target_hash": target, "dataset": str(wave)}
        task = Task(lambda: DatatileUploadOperator(task_id="upload", **arguments), retries=1)
        monkeypatch.setattr(Instance, "xcom_push", crash)
        outcome = task.run()
        assert (outcome.state, outcome.attempts) == ("success", 2)
        # Without a state store, the next attempt sends the file again.
        assert len(sandbox.uploads()) == (1 if HAS_STATE_STORE else 2)


@pytest.fixture
def accepted(wave, connect):
    """An append, and its sandbox, in which jobs take long. Yields sandbox, task, arguments and targets."""
    with Sandbox(processing_seconds=600) as sandbox, FaultProxy(sandbox.url) as proxy:
        connect(sandbox, host=proxy.url)
        targets = [sandbox.add_database("Study"), sandbox.add_database("Other")]
        arguments: dict[str, Any] = {"action": "append", "target_hash": targets[0], "dataset": str(wave)}
        arguments |= {"poll_interval": 0.05}
        yield sandbox, Task(lambda: DatatileUploadOperator(task_id="upload", **arguments), 1), arguments, targets


@pytest.mark.needs_airflow(">=3.3")
@pytest.mark.parametrize("deferrable", [False, True])
def test_a_cleared_task_resumes_the_job_that_timed_out(accepted, deferrable):
    sandbox, task, arguments, _ = accepted
    arguments |= {"wait_for_completion": True, "deferrable": deferrable, "timeout": 0.3}
    assert type(task.run().error) is AirflowSensorTimeout

    task.clear()
    assert type(task.run().error) is AirflowSensorTimeout
    assert len(sandbox.uploads()) == 1


@pytest.mark.needs_airflow(">=3.3")
def test_a_changed_and_cleared_task_uploads_to_the_new_target(accepted):
    sandbox, task, arguments, targets = accepted
    arguments |= {"wait_for_completion": True, "timeout": 0.3}
    assert type(task.run().error) is AirflowSensorTimeout

    task.clear()
    arguments |= {"target_hash": targets[1], "wait_for_completion": False}
    # Once, an error names the job of the first target.
    assert sandbox.jobs()[0]["job_id"] in str(task.run().error)

    task.clear()
    outcome = task.run()
    assert [job["hash"] for job in sandbox.jobs()] == targets
    assert outcome.result == sandbox.jobs()[1]["job_id"]


def test_an_xcom_backend_that_fails_after_acceptance(accepted, monkeypatch):
    pushed = []

    def fail(self, key, value):
        pushed.append(value)
        raise OSError("no space left")

    sandbox, task, _, _ = accepted
    monkeypatch.setattr(Instance, "xcom_push", fail)
    outcome = task.run()
    (upload,) = sandbox.uploads()
    assert upload["job_id"] in pushed
    if HAS_STATE_STORE:
        assert (outcome.state, outcome.errors, outcome.result) == ("success", [], upload["job_id"])
    else:
        # Pushing the task's return value fails too, and Airflow would retry the task.
        assert_accepted_once(sandbox, outcome)


def test_a_connection_that_is_deleted_after_acceptance(accepted, monkeypatch):
    push = Instance.xcom_push

    def disconnect(self, key, value):
        push(self, key, value)
        if key == "job_id":
            monkeypatch.delenv("AIRFLOW_CONN_DATATILE_DEFAULT")

    sandbox, task, arguments, _ = accepted
    arguments |= {"wait_for_completion": True, "timeout": 1}
    monkeypatch.setattr(Instance, "xcom_push", disconnect)
    error = task.run().error
    (upload,) = sandbox.uploads()
    assert type(error) is AirflowSensorTimeout
    assert f"job {upload['job_id']} The job could not be polled before the deadline" in one_line(error)
    assert "isn't defined" in one_line(error)


# Airflow before 3.3: no state store, so nothing is kept between attempts.


class TaskWithoutStore(Task):
    """A task of an Airflow without a state store."""

    events: dict[Any, Any]

    @property
    def context(self) -> Any:
        return {"ti": self.ti, "outlet_events": self.events}


class FailingEvents(dict[Any, Any]):
    reads = 0

    def __getitem__(self, outlet):
        self.reads += 1
        raise RuntimeError("the event could not be described")


def run_without_store(arguments: dict[str, Any], events: dict[Any, Any] | None = None) -> Outcome:
    task = TaskWithoutStore(lambda: DatatileUploadOperator(task_id="upload", **arguments), retries=2)
    task.events = FailingEvents() if events is None else events
    return task.run()


def assert_accepted_once(sandbox: Sandbox, outcome: Outcome) -> None:
    (upload,) = sandbox.uploads()
    assert type(outcome.error) is AirflowFailException
    assert upload["job_id"] in str(outcome.error)


@pytest.mark.parametrize("end", [AirflowTaskTimeout, AirflowTaskTerminated, SystemExit, RuntimeError])
@pytest.mark.parametrize("waits", [False, True])
def test_without_a_store_no_error_after_acceptance_causes_a_retry(accepted, monkeypatch, end, waits):
    def push_links(task, context, server, job_id=""):
        if job_id:
            raise end("in between")

    sandbox, _, arguments, _ = accepted
    arguments |= {"wait_for_completion": waits, "timeout": 0.3}
    monkeypatch.setattr("datatile_provider.operators.attempt.push_links", push_links)
    assert_accepted_once(sandbox, run_without_store(arguments))


@pytest.mark.parametrize("end", [AirflowTaskTimeout, AirflowTaskTerminated])
def test_without_a_store_a_timeout_before_the_response_leaves_the_outcome_unknown(accepted, monkeypatch, end):
    def collect(*args):
        raise end("in between")

    sandbox, _, arguments, _ = accepted
    monkeypatch.setattr("datatile_provider.hooks.upload.collect_lineage", collect)
    outcome = run_without_store(arguments)
    assert type(outcome.error) is AirflowFailException
    assert "OUTCOME UNKNOWN" in str(outcome.error)
    assert len(sandbox.uploads()) == 1


def test_an_outlet_event_that_cannot_be_described_is_not_a_failure(accepted):
    sandbox, _, arguments, targets = accepted
    arguments |= {"outlets": [Asset(uri=f"datatile://datatile.example.com/databases/{targets[0]}")]}
    events = FailingEvents()
    outcome = run_without_store(arguments, events)
    (upload,) = sandbox.uploads()
    assert (outcome.state, outcome.errors, outcome.result) == ("success", [], upload["job_id"])
    assert events.reads == 1


def test_without_a_store_a_deferred_wait_that_fails_is_not_retried(accepted, monkeypatch):
    sandbox, _, arguments, _ = accepted
    arguments |= {"wait_for_completion": True, "deferrable": True, "timeout": 0.3}

    def time_out(event, job_id):
        raise AirflowTaskTimeout("in between")

    monkeypatch.setattr("datatile_provider.operators.attempt.job_of", time_out)
    assert_accepted_once(sandbox, run_without_store(arguments))


@pytest.mark.parametrize("kind", ["operator", "sensor"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_connection_that_cannot_be_read_for_a_moment_does_not_end_a_wait(accepted, monkeypatch, kind, deferrable):
    """When Airflow's API server is down, Airflow reports a missing connection."""
    sandbox, _, arguments, _ = accepted
    reads = []
    read = DatatileHook.get_connection

    def get_connection(cls, conn_id):
        if sandbox.uploads():
            reads.append(conn_id)
            if len(reads) in (1, 3):
                raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")
        return read(conn_id)

    async def find_none(conn_id):
        raise AirflowNotFoundException(conn_id)

    monkeypatch.setattr(DatatileHook, "get_connection", classmethod(get_connection))
    monkeypatch.setattr("airflow.providers.common.compat.connection.get_async_connection", find_none)
    monkeypatch.setattr("datatile_provider.hooks.connection._PAUSE", 0.05)
    arguments |= {"wait_for_completion": kind == "operator", "timeout": 1.5}
    if kind == "operator":
        task = Task(lambda: DatatileUploadOperator(task_id="upload", **arguments, deferrable=deferrable))
    else:
        job_id = DatatileHook().upload("append", arguments["target_hash"], arguments["dataset"]).id
        options = {"poke_interval": 0.05, "timeout": 1.5, "deferrable": deferrable}
        task = Task(lambda: DatatileJobSensor(task_id="wait", job_id=job_id, **options))
    outcome = task.run()
    assert type(outcome.error) is AirflowSensorTimeout
    assert "The last status was 'queued'" in str(outcome.error)
    assert len(sandbox.uploads()) == 1
    assert len(reads) > 1


@pytest.mark.parametrize("method", ["execute_complete", "__fail__"])
def test_without_a_store_an_xcom_that_cannot_be_read_after_a_wait_is_not_a_retry(accepted, monkeypatch, method):
    """Airflow's API server may be down when the task is resumed."""
    _, _, arguments, _ = accepted
    arguments |= {"wait_for_completion": True, "deferrable": True}
    task = TaskWithoutStore(lambda: DatatileUploadOperator(task_id="upload", **arguments))
    task.events = {}
    monkeypatch.setattr(Instance, "xcom_pull", lambda *args, **kwargs: 1 / 0)
    kwargs = (
        {"text": "append", "job_id": "job-1", "event": {}} if method != "__fail__" else {"error": "Trigger failure"}
    )
    with pytest.raises(AirflowFailException) as caught:
        DatatileUploadOperator(task_id="upload", **arguments).resume_execution(method, kwargs, task.context)
    assert ("job-1" if method != "__fail__" else "OUTCOME UNKNOWN") in one_line(caught.value)


def test_without_a_store_an_xcom_backend_that_fails_after_acceptance_is_not_a_retry(accepted, monkeypatch):
    def fail(self, key, value):
        raise OSError("no space left")

    sandbox, _, arguments, _ = accepted
    monkeypatch.setattr(Instance, "xcom_push", fail)
    assert_accepted_once(sandbox, run_without_store(arguments))


@pytest.mark.parametrize("action", ["append", "reload"])
def test_without_a_store_an_attempt_beyond_max_tries_fails_with_an_error(accepted, action):
    """A restarted scheduler resets orphaned tasks, regardless of ``retries``."""
    sandbox, _, arguments, _ = accepted
    arguments |= {"action": action}
    task = TaskWithoutStore(lambda: DatatileUploadOperator(task_id="upload", **arguments))
    task.events = {}
    task.ti.try_number = 1
    outcome = task.run()
    if action == "append":
        assert "no attempt was left" in str(outcome.error)
        assert sandbox.uploads() == []
        task.clear()
        outcome = task.run()
    (upload,) = sandbox.uploads()
    assert (outcome.state, outcome.result) == ("success", upload["job_id"])


@pytest.mark.needs_airflow("<3")
@pytest.mark.parametrize("hook", ["pre_execute", "post_execute"])
def test_without_a_store_a_user_hook_that_fails_after_acceptance_is_not_a_retry(accepted, hook):
    """Only for Airflow 2: Airflow 3 calls such hooks outside of the operator."""

    def fail(*args):
        raise RuntimeError("the hook failed")

    _, _, arguments, _ = accepted
    task = TaskWithoutStore(lambda: DatatileUploadOperator(task_id="upload", **arguments))
    task.events = {}
    operator = DatatileUploadOperator(task_id="upload", **{**arguments, hook: fail})
    with pytest.raises(RuntimeError):
        getattr(operator, hook)(task.context)
    task.ti.xcom_push("job_id", "job-1")
    with pytest.raises(AirflowFailException, match="accepted as job job-1"):
        getattr(operator, hook)(task.context)


@pytest.mark.needs_airflow("<3")
def test_without_a_store_a_user_hook_that_fails_while_xcoms_cannot_be_read_is_not_a_retry(accepted, monkeypatch):
    """The process knows the job that it has uploaded."""

    def fail(*args):
        raise RuntimeError("the hook failed")

    _, _, arguments, _ = accepted
    operator = DatatileUploadOperator(task_id="upload", **{**arguments, "post_execute": fail})
    task = TaskWithoutStore(lambda: operator)
    task.events = {}
    job_id = task.run().result
    monkeypatch.setattr(Instance, "xcom_pull", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(AirflowFailException, match=f"accepted as job {job_id}"):
        operator.post_execute(task.context)


def test_without_a_store_an_accepted_upload_has_no_retries_left(accepted):
    """Airflow 2 reads ``retries`` of the task when something fails after it: its XCom, or an asset event."""
    _, _, arguments, _ = accepted
    operator = DatatileUploadOperator(task_id="upload", retries=3, **arguments)
    task = TaskWithoutStore(lambda: operator)
    task.events = {}
    assert task.run().state == "success"
    assert operator.retries == 0
