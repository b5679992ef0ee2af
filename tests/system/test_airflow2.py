"""Timeouts on a real Airflow 2, which enforces them differently."""

from __future__ import annotations

import pytest

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import RealAirflow
from tests.support.demo import environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.needs_airflow("<3")]

DAG_FILE = """
from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor

with DAG("deadlines", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}):
    append = {"action": "append", "dataset": __file__}
    DatatileUploadOperator(
        task_id="execution_timeout", target_hash="{{ var.value.first }}", wait_for_completion=True, deferrable=True,
        execution_timeout=timedelta(seconds=10), **append)
    upload = DatatileUploadOperator(task_id="upload", target_hash="{{ var.value.second }}", **append)
    DatatileJobSensor(task_id="deferred", job_id=upload.output, deferrable=True, timeout=10)
    DatatileJobSensor(task_id="rescheduled", job_id=upload.output, mode="reschedule", poke_interval=1, timeout=10)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The sandbox, Airflow and the run, when every task but no job has ended."""
    folder = tmp_path_factory.mktemp("dags")
    # The DAG file is the dataset. The sandbox would reject it when its job runs, which is after this test.
    (folder / "deadlines.py").write_text(DAG_FILE)
    home = tmp_path_factory.mktemp("airflow")
    with Sandbox(processing_seconds=600) as sandbox:
        targets = {f"AIRFLOW_VAR_{name}": sandbox.add_database(name) for name in ("FIRST", "SECOND")}
        with RealAirflow(folder, home=home, env=environment(sandbox) | targets) as airflow:
            yield sandbox, airflow, airflow.run_dag("deadlines", timeout=200)


@pytest.mark.parametrize("task_id", ["deferred", "rescheduled"])
def test_a_timeout_ends_a_sensor_without_retries(finished, task_id):
    _, airflow, run = finished
    task = run.task(task_id)
    assert (task.state, task.try_number) == ("failed", 1)
    assert "AirflowSensorTimeout" in airflow.api.log(task)
    assert "was not finished within 10 s" in airflow.api.error(task)


def test_after_an_execution_timeout_no_retry_sends_the_file_again(finished):
    sandbox, airflow, run = finished
    task = run.task("execution_timeout")
    assert (task.state, task.try_number) == ("failed", 1)
    assert "AirflowFailException" in airflow.api.log(task)
    assert len(sandbox.uploads()) == 2
