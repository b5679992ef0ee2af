"""An appended wave: the DAG scheduled on its database runs, its links lead to its job, its metrics arrive."""

from __future__ import annotations

import json

import pytest
import requests

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import RealAirflow
from tests.support.statsd import StatsD
from tests.system.lab import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240), pytest.mark.needs_airflow(">=3.3")]

DAGS = """
import os
from airflow.sdk import DAG, task
from datatile_provider.assets.datatile import database_asset
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor

TRACKER = database_asset(os.environ["TRACKER"])

with DAG("append_wave", schedule=None):
    upload = DatatileUploadOperator(
        task_id="upload", action="append", target_hash=os.environ["TRACKER"], dataset=os.environ["WAVE"],
        wait_for_completion=True, deferrable=True, poll_interval=0.5, outlets=[TRACKER])
    DatatileJobSensor(task_id="wait", job_id=upload.output, deferrable=True, start_from_trigger=True)

with DAG("report_wave", schedule=[TRACKER]):
    @task(inlets=[TRACKER])
    def report(inlet_events=None):
        return inlet_events[TRACKER][-1].extra

    report()
"""


@pytest.fixture(scope="module")
def appended(tmp_path_factory):
    """The API of a real Airflow in which a wave of two rows was appended, the run, the metrics, and the sandbox."""
    folder = tmp_path_factory.mktemp("dags")
    (folder / "platform_dags.py").write_text(DAGS)
    wave = tmp_path_factory.mktemp("data") / "wave.csv"
    wave.write_text("id,answer\n1,x\n2,y\n")
    with Sandbox(processing_seconds=2) as sandbox, StatsD() as statsd:
        environment = {
            "AIRFLOW_CONN_DATATILE_DEFAULT": json.dumps(sandbox.connection),
            "TRACKER": sandbox.add_database(variables=("id", "answer")),
            "WAVE": str(wave),
            **statsd.environment,
        }
        with RealAirflow(folder, env=environment) as airflow:
            airflow.api.wait_for_dag("report_wave")
            run = airflow.run_dag("append_wave")
            assert run.state == "success"
            yield airflow.api, run, statsd, sandbox


def test_the_dag_scheduled_on_the_database_runs(appended):
    api, _, _, sandbox = appended
    (job,) = sandbox.jobs()

    def successful_runs():
        runs = api.call("GET", "dags/report_wave/dagRuns")["dag_runs"]
        return [run["dag_run_id"] for run in runs if run["state"] == "success"]

    (run_id,) = until(successful_runs, "the report has run")
    extra = api.xcoms(api.run("report_wave", run_id).task("report"))["return_value"]
    assert extra == {"job_id": job["job_id"], "action": "append", "rows": 2}


@pytest.mark.parametrize("task_id", ["upload", "wait"])
def test_the_links_lead_to_the_job(appended, task_id):
    api, run, _, sandbox = appended
    (job,) = sandbox.jobs()
    links = api.call("GET", f"{run.task(task_id).path}/links")["extra_links"]
    assert set(links) == {"DATATILE processing log", "DATATILE job"}
    for url in links.values():
        assert job["job_id"][:8] in requests.get(url, timeout=5, headers={"Accept": "text/html"}).text
    assert links["DATATILE job"].endswith(job["job_id"])


def test_the_metrics_of_worker_and_triggerer_arrive(appended):
    _, _, statsd, _ = appended
    # The decrement of ``waits`` is the last metric of a wait.
    until(lambda: statsd.values("waits").count("-1") == 2, "both waits have ended")
    assert len(statsd.values("job.duration.succeeded")) == 2
    assert statsd.values("upload.accepted") == ["1"]
    assert statsd.values("upload.bytes") == ["18"]
    assert sorted(statsd.values("waits")) == ["+1", "+1", "-1", "-1"]
    assert len(statsd.values("polls")) >= 2
