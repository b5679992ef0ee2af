"""Airflow's API server gone for 20 s, and the sandbox killed and started again, in the middle of uploads and waits."""

from __future__ import annotations

import time

import pytest

from tests.support.faults import Fault
from tests.system.lab import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# A heartbeat that fails is given up after 4 to 15 s; after three of them Airflow itself ends the task.
SETTINGS = {"AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "10", "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1"}
OUTAGE = 20.0
#: Seconds in which a task gets into the server's socket what goes in, on a busy machine.
BUSY = 5.0
ROWS = 7
#: More than the kernel takes in for a reader that reads no more.
LARGE = {"rows": 12, "width": 1 << 20}


@pytest.fixture(scope="module")
def outage(lab):
    """Uploads and waits that were under way when the API server was killed: how they ended, and their jobs."""
    ways = ("upload", "upload_broken", "upload_and_wait", "upload_and_defer", "upload_and_wait_longer")
    files = {way: lab.make_file(**LARGE) if way == "upload_broken" else lab.make_file(ROWS) for way in ways}
    targets = {way: lab.make_target("append") for way in ways}
    tasks, jobs = {}, {}
    for way in ways[2:]:
        tasks[way] = lab.start_upload(way.removesuffix("_longer"), files[way], "append", targets[way])
        jobs[way] = lab.held_job(files[way])
    jobs["wait"] = lab.waited_for_job()
    tasks["wait"] = lab.start("wait", job_id=jobs["wait"])
    for task in tasks.values():
        lab.wait_for_log(task, "is RUNNING")
    for way, fault in (
        # Its answer comes in the middle of the outage.
        ("upload", Fault("delay", on="upload", seconds=8)),
        # It breaks in its body then, so that it has to take back what it noted, and to note it again.
        ("upload_broken", Fault("stall_in_body", on="upload", seconds=8)),
    ):
        before = len(lab.faults.log)
        lab.faults.inject(fault)
        tasks[way] = lab.start_upload("upload", files[way], "append", targets[way], connection="datatile_faulty")
        until(lambda before=before: any(p.body_bytes for p in lab.faults.log[before:]), f"{way} is being sent")
    lab.airflow.kill("api-server")
    time.sleep(OUTAGE / 2)
    for way in ("upload_and_wait", "upload_and_defer", "wait"):
        lab.sandbox.release(jobs[way])
    time.sleep(OUTAGE / 2)
    lab.airflow.start_component("api-server")
    lab.airflow.wait_until_healthy("api-server")
    lab.sandbox.release(jobs["upload_and_wait_longer"])
    return {way: lab.ended(task) for way, task in tasks.items()}, files, targets


@pytest.mark.parametrize(
    "way", ["upload", "upload_broken", "upload_and_wait", "upload_and_defer", "upload_and_wait_longer"]
)
def test_an_upload_outlives_an_outage_of_the_api_server(lab, outage, way):
    tasks, files, targets = outage

    assert tasks[way].state == "success"
    (job,) = lab.sandbox.jobs(files[way].name)
    assert lab.api.xcoms(tasks[way])["return_value"] == job["job_id"]
    until(lambda: lab.sandbox.rows(targets[way]), "the rows are there")
    assert lab.sandbox.rows(targets[way]) == (LARGE["rows"] if way == "upload_broken" else ROWS)


def test_a_wait_outlives_an_outage_of_the_api_server(outage):
    assert outage[0]["wait"].state == "success"


def test_an_upload_begun_while_the_server_is_down(lab):
    file, target = lab.make_file(ROWS), lab.make_target("append")
    lab.sandbox.kill()
    task = lab.start_upload("upload", file, "append", target)
    lab.wait_for_log(task, "Trying again in")
    lab.sandbox.start()
    sent_once(lab, lab.ended(task), file, target, ROWS)


def test_an_upload_whose_server_is_killed_in_mid_body(lab):
    file, target = lab.make_file(**LARGE), lab.make_target("append")
    lab.sandbox.freeze()
    task = lab.start_upload("upload", file, "append", target)
    lab.wait_for_log(task, "Uploading: append")
    until(lambda: lab.phase(task) == "sending", "the intent is noted")
    time.sleep(BUSY)
    lab.sandbox.kill()
    lab.wait_for_log(task, "bytes were sent, so nothing was accepted")
    lab.sandbox.start()
    sent_once(lab, lab.ended(task), file, target, LARGE["rows"])


def test_an_upload_whose_server_is_killed_after_the_last_byte_is_loud(lab):
    """The whole file was sent, and nobody can tell that the server had not yet read it."""
    file, target = lab.make_file(ROWS), lab.make_target("append")
    lab.sandbox.freeze()
    task = lab.start_upload("upload", file, "append", target)
    lab.wait_for_log(task, "Uploading: append")
    until(lambda: lab.phase(task) == "sending", "the intent is noted")
    time.sleep(BUSY)
    lab.sandbox.kill()
    lab.sandbox.start()
    task = lab.ended(task)

    assert (task.state, task.try_number) == ("failed", 1)
    assert "OUTCOME UNKNOWN" in lab.api.error(task)
    assert file.name in lab.api.error(task)
    assert lab.sandbox.jobs(file.name) == []


@pytest.mark.parametrize("way", ["upload_and_wait", "upload_and_defer"])
def test_a_wait_whose_server_is_killed_and_started_again(lab, way):
    file, target = lab.make_file(ROWS), lab.make_target("append")
    task = lab.start_upload(way, file, "append", target)
    job_id = lab.held_job(file)
    lab.wait_for_log(task, "is RUNNING")
    lab.sandbox.kill()
    lab.wait_for_log(task, "polling goes on")
    lab.sandbox.start()
    lab.sandbox.release(job_id)
    sent_once(lab, lab.ended(task), file, target, ROWS)


def sent_once(lab, task, file, target, rows):
    assert (task.state, task.try_number) == ("success", 1)
    (job,) = lab.sandbox.jobs(file.name)
    assert lab.api.xcoms(task)["return_value"] == job["job_id"]
    until(lambda: lab.sandbox.rows(target), "the rows are there")
    assert lab.sandbox.rows(target) == rows


def test_the_token_is_nowhere(lab):
    assert lab.airflow.files_with(lab.sandbox.token) == set()
