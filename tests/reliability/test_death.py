"""What comes in between once the file was accepted, and what the next try knows of it."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from tests.reliability.task import Instance, Task
from tests.support.faults import FaultProxy
from tests.support.versions import HAS_STATE_STORE


class Death(BaseException):
    """The worker is gone."""


def test_a_worker_that_dies_once_the_file_was_accepted(wave, connect, monkeypatch):
    push = Instance.xcom_push

    def die(self, key, value):
        if key == "job_id":
            raise Death
        push(self, key, value)

    with Sandbox() as sandbox, FaultProxy(sandbox.url) as proxy:
        connect(sandbox, proxy)
        arguments = {"action": "append", "target_hash": sandbox.add_database("Study"), "dataset": str(wave)}
        task = Task(lambda: DatatileUploadOperator(task_id="upload", **arguments), retries=1)
        with monkeypatch.context() as patch:
            patch.setattr(Instance, "xcom_push", die)
            with pytest.raises(Death):
                task.run()
        assert task.run().state == "success"
        # An Airflow that keeps nothing from one try to the next lets the next one send the file again.
        assert len(sandbox.uploads()) == (1 if HAS_STATE_STORE else 2)


@pytest.fixture
def accepted(wave, connect):
    """An append that waits for its job, or not, and the sandbox that it goes to; a job takes long there."""
    with Sandbox(processing_seconds=600) as sandbox, FaultProxy(sandbox.url) as proxy:
        connect(sandbox, proxy)
        targets = [sandbox.add_database("Study"), sandbox.add_database("Other")]
        arguments = {"action": "append", "target_hash": targets[0], "dataset": str(wave), "poll_interval": 0.05}
        yield sandbox, Task(lambda: DatatileUploadOperator(task_id="upload", **arguments), 1), arguments, targets


@pytest.mark.needs_airflow(">=3.3")
@pytest.mark.parametrize("deferrable", [False, True])
def test_a_cleared_task_takes_up_the_job_that_was_not_finished_in_time(accepted, deferrable):
    sandbox, task, arguments, _ = accepted
    arguments |= {"wait_for_completion": True, "deferrable": deferrable, "timeout": 0.3}
    assert type(task.run().error) is AirflowSensorTimeout

    task.clear()
    assert type(task.run().error) is AirflowSensorTimeout
    assert len(sandbox.uploads()) == 1


@pytest.mark.needs_airflow(">=3.3")
def test_a_task_that_was_mended_and_cleared_uploads_what_it_is_about_now(accepted):
    sandbox, task, arguments, targets = accepted
    arguments |= {"wait_for_completion": True, "timeout": 0.3}
    assert type(task.run().error) is AirflowSensorTimeout

    task.clear()
    arguments |= {"target_hash": targets[1], "wait_for_completion": False}
    outcome = task.run()
    assert [job["hash"] for job in sandbox.jobs()] == targets
    assert outcome.result == sandbox.jobs()[1]["job_id"]


def test_an_xcom_backend_that_fails_once_the_file_was_accepted(accepted, monkeypatch):
    def full(self, key, value):
        raise OSError("no space left")

    sandbox, task, _, _ = accepted
    monkeypatch.setattr(Instance, "xcom_push", full)
    outcome = task.run()
    assert (outcome.state, outcome.errors) == ("success", [])
    assert len(sandbox.uploads()) == 1


def test_a_connection_that_is_gone_once_the_file_was_accepted(accepted, monkeypatch):
    push = Instance.xcom_push

    def disconnect(self, key, value):
        push(self, key, value)
        if key == "job_id":
            monkeypatch.delenv("AIRFLOW_CONN_DATATILE_DEFAULT")

    sandbox, task, arguments, _ = accepted
    arguments |= {"wait_for_completion": True, "timeout": 5}
    monkeypatch.setattr(Instance, "xcom_push", disconnect)
    errors = task.run().errors
    assert len(sandbox.uploads()) == 1
    if not HAS_STATE_STORE:
        assert [type(error) for error in errors] == [AirflowFailException]
        assert "accepted as job" in str(errors[0])
