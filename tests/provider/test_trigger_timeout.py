"""Waits that Airflow itself ends: for lack of news when their time is over, or because the trigger broke."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.reliability.task import Instance, Store
from tests.support.versions import HAS_STATE_STORE

try:
    from airflow.sdk.exceptions import TaskDeferralError
except ImportError:  # Airflow before 3.1
    from airflow.exceptions import TaskDeferralError

OVER = ["Trigger timeout", "Trigger/execution timeout"]  # in the words of Airflow 3, and of Airflow 2


@pytest.fixture
def context() -> dict[str, Any]:
    ti = Instance(max_tries=2)
    ti.begin_try()
    ti.xcom_push(key="job_id", value="job-f00d")
    return {"ti": ti, "task_state_store": Store()} if HAS_STATE_STORE else {"ti": ti}


def sensor(**options: Any) -> DatatileJobSensor:
    return DatatileJobSensor(task_id="wait", job_id="job-f00d", deferrable=True, timeout=60, **options)


def upload(**options: Any) -> DatatileUploadOperator:
    return DatatileUploadOperator(
        task_id="upload", action="append", target_hash="f00d", dataset="wave.csv", timeout=60, **options
    )


@pytest.mark.parametrize("make", [sensor, upload])
@pytest.mark.parametrize("error", OVER)
def test_time_that_is_over(make, context, error):
    with pytest.raises(AirflowSensorTimeout, match="Job job-f00d was not finished within 60 s"):
        make().resume_execution("__fail__", {"error": error}, context)


@pytest.mark.parametrize("unfailing", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("error", [*OVER, "Trigger failure"])
def test_a_sensor_that_skips_instead(context, error, unfailing):
    with pytest.raises(AirflowSkipException):
        sensor(**{unfailing: True}).resume_execution("__fail__", {"error": error}, context)


def test_a_sensor_whose_trigger_broke_may_look_again(context):
    with pytest.raises(TaskDeferralError):
        sensor().resume_execution("__fail__", {"error": "Trigger failure"}, context)


def test_an_upload_whose_trigger_broke_is_not_sent_again(context):
    # The next try takes the job up again where Airflow can keep its id, and there is none where it can't.
    kind = TaskDeferralError if HAS_STATE_STORE else AirflowFailException
    with pytest.raises(kind, match="Trigger failure"):
        upload().resume_execution("__fail__", {"error": "Trigger failure"}, context)


def test_a_sensor_that_is_killed_says_that_the_job_goes_on(context, script, monkeypatch, caplog):
    monkeypatch.setattr(DatatileJobSensor, "log", logging.getLogger("sensor"))
    script((200, {"status": "running"}))
    wait = sensor()
    wait.on_kill()
    assert caplog.text == ""

    assert not wait.poke(context)
    wait.on_kill()
    assert "Job job-f00d goes on in DATATILE; see its processing log" in caplog.text


@pytest.mark.needs_airflow("<3")
def test_airflow_2_does_not_time_out_an_accepted_upload_before_it_is_resumed(context):
    task = upload(execution_timeout=timedelta(seconds=1))
    context["ti"].next_method = None
    task.pre_execute(context)
    assert task.execution_timeout == timedelta(seconds=1)
    context["ti"].next_method = "execute_complete"
    task.pre_execute(context)
    assert task.execution_timeout is None
