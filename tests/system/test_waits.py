"""Waits in the triggerer and in the worker: killed triggerers, timeouts, and user actions on waiting tasks."""

from __future__ import annotations

import functools
import time
from datetime import datetime

import pytest

from tests.system.lab import FAST, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

#: No worker is killed here. SQLite may stop Airflow's API server for 20 s, and no task must be lost meanwhile.
SETTINGS = FAST | {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60"}
WAITS = 50
#: Seconds after its deadline by which a wait has ended, on a slow machine.
LATE = 40.0


@pytest.fixture(scope="module")
def timed_out(lab):
    """Concurrent waits with a timeout of 20 s for jobs that take longer: the ended tasks, files and jobs."""
    sensors = ("wait_20_s", "wait_rescheduled_20_s", "wait_deferred_20_s", "wait_without_worker_20_s")
    uploads = ("upload_and_wait_20_s", "upload_and_defer_20_s")
    limited = ("upload_and_wait_execution_timeout", "upload_and_defer_execution_timeout")
    limited_sensors = ("wait_execution_timeout", "wait_deferred_execution_timeout")
    tasks, files, jobs = {}, {}, {}
    for dag_id in (*uploads, *limited):
        files[dag_id] = lab.make_file()
        tasks[dag_id] = lab.start_upload(dag_id, files[dag_id], "append", lab.make_target("append"))
    for dag_id in (*uploads, *limited):
        jobs[dag_id] = lab.held_job(files[dag_id])
    for dag_id in (*sensors, *limited_sensors):
        jobs[dag_id] = lab.running_job()
        tasks[dag_id] = lab.start(dag_id, job_id=jobs[dag_id])
    for dag_id in (*limited, *limited_sensors):
        until(functools.partial(is_second_attempt, lab, tasks[dag_id]), f"{dag_id} is retried")
        lab.sandbox.release(jobs[dag_id])
    return {dag_id: lab.ended(task) for dag_id, task in tasks.items()}, files, jobs


def is_second_attempt(lab, task):
    return lab.api.run(task.dag_id, task.run_id).task("task").try_number == 2


@pytest.mark.parametrize(
    "dag_id",
    [
        "wait_20_s",
        "wait_rescheduled_20_s",
        "wait_deferred_20_s",
        "wait_without_worker_20_s",
        "upload_and_wait_20_s",
        "upload_and_defer_20_s",
    ],
)
def test_a_timeout_ends_the_wait_without_retries(lab, timed_out, dag_id):
    task = timed_out[0][dag_id]
    logs = [lab.api.log(task, number) for number in range(1, task.try_number + 1)]

    assert task.state == "failed"
    # The last attempt is the first that timed out, although a retry was left.
    assert ["AirflowSensorTimeout" in log for log in logs] == [False] * (task.try_number - 1) + [True], logs[0]
    assert task.try_number <= lab.api.call("GET", task.path)["max_tries"], logs[0]
    assert "was not finished within 20 s. The last status was 'running'" in lab.api.error(task)
    assert lab.sandbox.url in lab.api.error(task)
    assert 20 <= duration(lab, task, task.try_number) < 20 + LATE


@pytest.mark.parametrize(
    "dag_id",
    [
        "upload_and_wait_execution_timeout",
        "upload_and_defer_execution_timeout",
        "wait_execution_timeout",
        "wait_deferred_execution_timeout",
    ],
)
def test_an_execution_timeout_ends_the_attempt(lab, timed_out, dag_id):
    task, files = timed_out[0][dag_id], timed_out[1]

    assert (task.state, task.try_number) == ("success", 2)
    assert "AirflowTaskTimeout" in lab.api.log(task, 1)
    assert 20 <= duration(lab, task) < 20 + LATE
    if dag_id in files:
        # The next attempt resumed the same job.
        assert "Resuming job" in lab.api.log(task, 2)
        assert len(lab.sandbox.jobs(files[dag_id].name)) == 1


@pytest.mark.parametrize("dag_id", ["upload_and_wait_20_s", "upload_and_defer_20_s"])
def test_cleared_after_a_timeout(lab, timed_out, dag_id):
    """The job is resumed; if its record was deleted first, the file is sent again."""
    tasks, files, jobs = timed_out
    if dag_id == "upload_and_defer_20_s":
        lab.api.call("DELETE", f"{tasks[dag_id].path}/state-store/datatile_upload")
        lab.sandbox.release(jobs[dag_id])
    lab.api.clear(tasks[dag_id])
    if dag_id == "upload_and_wait_20_s":
        lab.wait_for_log(tasks[dag_id], "Resuming job", try_number=tasks[dag_id].try_number + 1)
        lab.sandbox.release(jobs[dag_id])
    task = lab.ended(tasks[dag_id])

    assert (task.state, task.try_number) == ("success", tasks[dag_id].try_number + 1)
    assert len(lab.sandbox.jobs(files[dag_id].name)) == (1 if dag_id == "upload_and_wait_20_s" else 2)


def duration(lab, task, try_number=1):
    """Return the seconds from the run's start to the end of an attempt."""
    # Each poll resets the start date of a rescheduled task, so the run's is used.
    started = lab.api.call("GET", f"dags/{task.dag_id}/dagRuns/{task.run_id}")["start_date"]
    ended = lab.api.call("GET", f"{task.path}/tries/{try_number}")["end_date"]
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()


def test_a_restarted_triggerer_does_not_extend_the_timeout(lab):
    task = deferred(lab, "wait_deferred_45_s", job_id=lab.running_job())
    lab.airflow.kill("triggerer")
    time.sleep(10)
    lab.airflow.start_component("triggerer")
    task = lab.ended(task)

    assert (task.state, task.try_number) == ("failed", 1)
    assert "was not finished within 45 s. The last status was 'running'" in lab.api.error(task)
    assert 45 <= duration(lab, task) < 45 + LATE


def test_a_deferred_wait_starts_one_worker(lab):
    job_id = lab.running_job()
    task = deferred(lab, "wait_deferred", job_id=job_id)
    lab.sandbox.release(job_id)
    task = lab.ended(task)

    assert (task.state, lab.api.events(task, "running")) == ("success", 1)
    assert lab.api.xcoms(task)["return_value"]["id"] == job_id


def test_a_wait_for_an_upload_without_any_worker(lab):
    file = lab.make_file()
    task = lab.start("upload_and_wait_without_worker", dataset=str(file), target=lab.make_target("append"))
    job_id = lab.held_job(file)
    lab.wait_for_log(task, f"Waiting for job {job_id}, without a worker")
    lab.sandbox.release(job_id)
    task = lab.ended(task)

    assert (task.state, task.try_number, lab.api.events(task, "running")) == ("success", 1, 0)
    run = lab.api.run(task.dag_id, task.run_id)
    assert lab.api.events(run.task("upload"), "running") == 1
    assert lab.api.xcoms(run.task("rows"))["return_value"] == 7


@pytest.mark.parametrize(
    ("dag_id", "state"), [("wait_without_worker", "failed"), ("wait_without_worker_soft_fail", "skipped")]
)
def test_a_failed_job_ends_a_wait_without_worker(lab, dag_id, state):
    job_id = lab.running_job()
    task = lab.start(dag_id, job_id=job_id)
    lab.wait_for_log(task, f"Waiting for job {job_id}, without a worker")
    lab.sandbox.hold(job_id, "failed")
    task = lab.api.wait_for_task(task, state, timeout=60)

    assert (task.try_number, lab.api.events(task, "running")) == (1, 1)
    assert "JOB FAILED" in lab.api.log(task)


def test_a_wait_without_worker_survives_its_triggerer(lab):
    job_id = lab.running_job()
    task = lab.start("wait_without_worker", job_id=job_id)
    lab.wait_for_log(task, f"Waiting for job {job_id}, without a worker")
    lab.airflow.kill("triggerer")
    lab.airflow.start_component("triggerer")
    lab.sandbox.release(job_id)
    task = lab.ended(task)

    assert (task.state, task.try_number, lab.api.events(task, "running")) == ("success", 1, 0)


def test_marked_failed_while_deferred(lab):
    job_id = lab.running_job()
    task = deferred(lab, "wait_deferred", job_id=job_id)
    lab.api.set_state(task, "failed")

    lab.wait_for_log(task, f"Job {job_id} continues in DATATILE")
    assert lab.ended(task).state == "failed"


@pytest.mark.parametrize("victim", ["upload_and_defer", "upload_and_wait"])
def test_cleared_while_waiting(lab, victim):
    file, target = lab.make_file(), lab.make_target("append")
    task = lab.start_upload(victim, file, "append", target)
    job_id = lab.held_job(file)
    state = "deferred" if victim == "upload_and_defer" else "running"
    lab.api.wait_for_task(task, state, timeout=60)
    lab.wait_for_log(task, "is RUNNING")
    lab.api.clear(task)

    lab.wait_for_log(task, f"Job {job_id} continues in DATATILE")
    until(lambda: is_second_attempt(lab, task), "it is retried")
    lab.sandbox.release(job_id)
    task = lab.ended(task)
    assert task.state == "success"
    assert "Resuming job" in lab.api.log(task)
    assert len(lab.sandbox.jobs(file.name)) == 1
    assert lab.sandbox.rows(target) == 7


@pytest.mark.long
def test_fifty_waits_survive_their_triggerer(lab):
    """The triggerer is killed and restarted; then it is killed again, and another one takes over."""
    jobs = [lab.running_job() for _ in range(WAITS)]
    run_id = lab.api.trigger("many_waits", {"job_ids": jobs})

    def count(state):
        return [t.state for t in lab.api.run("many_waits", run_id).tasks].count(state)

    until(lambda: count("deferred") == WAITS, "all wait in the triggerer", timeout=150)
    lab.airflow.kill("triggerer")
    lab.airflow.start_component("triggerer")
    lab.airflow.wait_until_healthy("triggerer")
    lab.airflow.start_component("triggerer", "second triggerer")
    time.sleep(8)
    lab.airflow.kill("triggerer")
    # Longer than Airflow takes to detect a dead triggerer.
    time.sleep(10)
    assert count("deferred") == WAITS
    for job_id in jobs:
        lab.sandbox.release(job_id)

    run = lab.api.wait_for_run("many_waits", run_id, 120)
    waits = [t for t in run.tasks if t.task_id == "task"]
    assert [(t.state, t.try_number) for t in waits] == [("success", 1)] * WAITS
    assert sorted(lab.api.xcoms(t)["return_value"]["id"] for t in waits) == sorted(jobs)
    lab.airflow.start_component("triggerer")


def deferred(lab, dag_id, **conf):
    task = lab.start(dag_id, **conf)
    task = lab.api.wait_for_task(task, "deferred", timeout=60)
    lab.wait_for_log(task, " starting")
    return task


def test_the_token_is_in_no_file(lab, timed_out):
    # A cleared upload has another job now.
    jobs = (job_id for dag_id, job_id in timed_out[2].items() if dag_id.startswith("wait"))
    lab.airflow.assert_no_file_has(lab.sandbox.token, *jobs)
