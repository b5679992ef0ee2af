"""Waits that Airflow itself ends: after the trigger's timeout, or because the trigger failed."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.support.task import Instance, Store
from tests.support.versions import HAS_STATE_STORE

try:
    from airflow.sdk.exceptions import TaskDeferralError
except ImportError:  # Airflow before 3.1
    from airflow.exceptions import TaskDeferralError  # type: ignore[no-redef]  # another version of Airflow

TIMED_OUT = ["Trigger timeout", "Trigger/execution timeout"]  # as Airflow 3 and Airflow 2 report it


@pytest.fixture
def context() -> dict[str, Any]:
    ti = Instance(max_tries=2)
    ti.begin_attempt()
    ti.xcom_push(key="job_id", value="job-f00d")
    return {"ti": ti, "task_state_store": Store()} if HAS_STATE_STORE else {"ti": ti}


def sensor(**options: Any) -> DatatileJobSensor:
    return DatatileJobSensor(task_id="wait", job_id="job-f00d", deferrable=True, timeout=60, **options)


def upload(**options: Any) -> DatatileUploadOperator:
    return DatatileUploadOperator(
        task_id="upload", action="append", target_hash="f00d", dataset="wave.csv", timeout=60, **options
    )


@pytest.mark.parametrize("make", [sensor, upload])
@pytest.mark.parametrize("error", TIMED_OUT)
def test_a_timed_out_trigger(make, context, error):
    with pytest.raises(AirflowSensorTimeout, match=r"job job-f00d\nThe job was not finished within 60 s"):
        make().resume_execution("__fail__", {"error": error}, context)


@pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("error", [*TIMED_OUT, "Trigger failure"])
def test_a_sensor_that_skips_instead(context, error, option):
    with pytest.raises(AirflowSkipException):
        sensor(**{option: True}).resume_execution("__fail__", {"error": error}, context)


def test_a_sensor_whose_trigger_failed_may_poll_again(context):
    with pytest.raises(TaskDeferralError):
        sensor().resume_execution("__fail__", {"error": "Trigger failure"}, context)


def test_an_upload_whose_trigger_failed_is_not_sent_again(context):
    # With a state store the next attempt resumes the job; without one there must be no next attempt.
    kind = TaskDeferralError if HAS_STATE_STORE else AirflowFailException
    with pytest.raises(kind, match=r"Trigger\sfailure"):
        upload().resume_execution("__fail__", {"error": "Trigger failure"}, context)


def test_a_killed_sensor_logs_that_the_job_continues(context, script, monkeypatch, caplog):
    monkeypatch.setattr(DatatileJobSensor, "log", logging.getLogger("sensor"))
    script((200, {"status": "running"}))
    wait = sensor()
    wait.on_kill()
    assert caplog.text == ""

    assert not wait.poke(context)
    wait.on_kill()
    assert "Job job-f00d continues in DATATILE; see its processing log" in caplog.text


def test_airflow_2_does_not_time_out_an_accepted_upload_before_it_is_resumed(context, monkeypatch):
    monkeypatch.setattr("datatile_provider.version_compat.AIRFLOW_2", True)
    task = upload(execution_timeout=timedelta(seconds=1))
    # After a backoff nothing was accepted yet.
    for method in (None, "retry_upload"):
        context["ti"].next_method = method
        task.pre_execute(context)
        assert task.execution_timeout == timedelta(seconds=1)
        assert method is None or hasattr(task, method)
    context["ti"].next_method = "execute_complete"
    task.pre_execute(context)
    assert task.execution_timeout is None
