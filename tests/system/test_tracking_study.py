"""The example DAGs in a real Airflow, with the sandbox: checks of rows and logs."""

from __future__ import annotations

import psutil
import pytest

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import COMPONENTS, RealAirflow
from tests.support.demo import EXAMPLES, STUDY, environment
from tests.support.versions import AIRFLOW

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

WAVES = {"create": "wave1.zsav", "append": "wave2.zsav", "reload": "whole.zsav"}


@pytest.fixture(scope="module")
def sandbox():
    # Longer than the start of a sensor takes. Airflow 2 runs one task at a time here, and parses the DAG file first.
    with Sandbox(processing_seconds=3 if AIRFLOW.major > 2 else 15) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(sandbox, tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow")
    with RealAirflow(EXAMPLES, home=home, env=environment(sandbox)) as running:
        yield running


def run_to_success(airflow, dag_id):
    run = airflow.run_dag(dag_id)
    assert run.state == "success", "\n".join(airflow.api.log(t) for t in run.tasks if t.state != "success")
    return run


def job_of(airflow, sandbox, task):
    """Return the sandbox's job with the id that the task returned."""
    job_id = airflow.api.xcoms(task)["return_value"]
    (job,) = [job for job in sandbox.jobs() if job["job_id"] == job_id]
    return job


@pytest.fixture(scope="module")
def study(airflow):
    return run_to_success(airflow, STUDY)


@pytest.fixture(scope="module")
def jobs(airflow, sandbox, study):
    return {action: job_of(airflow, sandbox, study.task(action)) for action in WAVES}


def test_each_task_of_the_study_is_one_job_and_the_rows_add_up(sandbox, jobs):
    database = jobs["create"]["database"]
    (found,) = [d for d in sandbox.databases() if d["hash"] == database]

    assert found["rows"] == 944
    assert [(j["job_id"], j["total_rows"]) for j in sandbox.jobs() if j["database"] == database] == [
        (jobs["create"]["job_id"], 472),
        (jobs["append"]["job_id"], 944),
        (jobs["reload"]["job_id"], 944),
    ]


def test_the_sensors_waited_in_the_triggerer(airflow, study):
    waits = {f"wait_for_{action}" for action in WAVES}
    logs = (airflow.home / "logs" / f"dag_id={STUDY}").rglob("attempt=1.log.trigger.*")
    # On a slow machine a job may have ended before its sensor's first poll, but not all three.
    deferred = {log.parent.name.removeprefix("task_id=") for log in logs}
    assert deferred
    assert deferred <= waits


@pytest.mark.parametrize("action", WAVES)
def test_the_logs_hold_file_target_and_job(airflow, sandbox, study, jobs, action):
    job = jobs[action]
    upload = airflow.api.log(study.task(action))
    wait = airflow.api.log(study.task(f"wait_for_{action}"))

    expected = (action, job["hash"], WAVES[action], f"{job['size']:,}", job["job_id"], sandbox.url)
    assert [text for text in expected if text not in upload] == []
    assert [text for text in (job["job_id"], "SUCCEEDED") if text not in wait] == []


def test_an_upload_that_waits_by_itself(airflow, sandbox):
    run = run_to_success(airflow, "datatile_upload_and_wait")
    assert job_of(airflow, sandbox, run.task("upload"))["total_rows"] == 944


def test_a_mapped_upload_makes_a_database_of_each_file(airflow, sandbox):
    run = run_to_success(airflow, "datatile_mapped_upload")
    jobs = [job_of(airflow, sandbox, run.task("upload", map_index)) for map_index in (0, 1)]

    assert [job["filename"] for job in jobs] == ["wave1.zsav", "wave2.zsav"]
    assert [job["total_rows"] for job in jobs] == [472, 472]
    assert jobs[0]["database"] != jobs[1]["database"]


def test_every_socket_listens_on_loopback(airflow):
    connections = [c for name in COMPONENTS for pid in airflow.pids(name) for c in sockets(pid)]
    listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def sockets(pid: int):
    try:
        return psutil.Process(pid).net_connections("inet")
    except psutil.NoSuchProcess:
        # The scheduler's child processes may end at any time.
        return []


def test_the_token_is_in_no_file(airflow, sandbox, study):
    airflow.assert_no_file_has(sandbox.token, sandbox.folder)
