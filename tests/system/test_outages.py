"""An outage of Airflow's API server for 20 s, and a restart of the killed sandbox, during uploads and waits."""

from __future__ import annotations

import functools
import time

import pytest

from tests.support.faults import Fault
from tests.system.lab import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# A heartbeat fails after 4 to 15 s. By default, Airflow ends the task after three failed heartbeats.
SETTINGS = {"AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "10", "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1"}
OUTAGE = 20.0
#: Seconds in which a task fills the server's socket buffer, on a slow machine.
BUSY = 5.0
ROWS = 7
#: A file larger than the socket buffers, for a server that has stopped reading.
LARGE = {"rows": 12, "width": 1 << 20}


@pytest.fixture(scope="module")
def outage(lab):
    """Uploads and waits that were running when the API server was killed: the ended tasks, files and targets."""
    modes = ("upload", "upload_reset", "upload_and_wait", "upload_and_defer", "upload_and_wait_longer")
    files = {mode: lab.make_file(**LARGE) if mode == "upload_reset" else lab.make_file(ROWS) for mode in modes}
    targets = {mode: lab.make_target("append") for mode in modes}
    tasks, jobs = {}, {}
    for mode in modes[2:]:
        tasks[mode] = lab.start_upload(mode.removesuffix("_longer"), files[mode], "append", targets[mode])
        jobs[mode] = lab.held_job(files[mode])
    jobs["wait"] = lab.running_job()
    tasks["wait"] = lab.start("wait", job_id=jobs["wait"])
    for task in tasks.values():
        lab.wait_for_log(task, "is RUNNING")
    for mode, fault in (
        # The response arrives during the outage.
        ("upload", Fault("delay", on="upload", seconds=8)),
        # The connection is lost in the body during the outage: the stored state must be deleted and set again.
        ("upload_reset", Fault("stall_in_body", on="upload", seconds=8)),
    ):
        before = len(lab.faults.log)
        lab.faults.inject(fault)
        tasks[mode] = lab.start_upload("upload", files[mode], "append", targets[mode], connection="datatile_faulty")
        until(functools.partial(is_sending, lab, before), f"{mode} is sending")
    lab.airflow.kill("api-server")
    time.sleep(OUTAGE / 2)
    for mode in ("upload_and_wait", "upload_and_defer", "wait"):
        lab.sandbox.release(jobs[mode])
    time.sleep(OUTAGE / 2)
    lab.airflow.start_component("api-server")
    lab.airflow.wait_until_healthy("api-server")
    lab.sandbox.release(jobs["upload_and_wait_longer"])
    return {mode: lab.ended(task) for mode, task in tasks.items()}, files, targets


def is_sending(lab, before):
    """Return whether the proxy has received a part of a body, in a request after these."""
    return any(request.body_bytes for request in lab.faults.log[before:])


@pytest.mark.parametrize(
    "mode", ["upload", "upload_reset", "upload_and_wait", "upload_and_defer", "upload_and_wait_longer"]
)
def test_an_upload_survives_an_outage_of_the_api_server(lab, outage, mode):
    tasks, files, targets = outage

    assert tasks[mode].state == "success", lab.api.log(tasks[mode])
    (job,) = lab.sandbox.jobs(files[mode].name)
    assert lab.api.xcoms(tasks[mode])["return_value"] == job["job_id"]
    until(lambda: lab.sandbox.rows(targets[mode]), "the rows are there")
    assert lab.sandbox.rows(targets[mode]) == (LARGE["rows"] if mode == "upload_reset" else ROWS)


def test_a_wait_survives_an_outage_of_the_api_server(outage):
    assert outage[0]["wait"].state == "success"


def test_an_upload_started_while_the_server_is_down(lab):
    file, target = lab.make_file(ROWS), lab.make_target("append")
    lab.sandbox.kill()
    task = lab.start_upload("upload", file, "append", target)
    lab.wait_for_log(task, "next attempt in")
    lab.sandbox.start()
    assert_sent_once(lab, lab.ended(task), file, target, ROWS)


def killed_while_frozen(lab, **file):
    """Start an upload to a server that reads nothing, kill the server, and return the task, its file and its target."""
    file, target = lab.make_file(**file), lab.make_target("append")
    lab.sandbox.freeze()
    task = lab.start_upload("upload", file, "append", target)
    lab.wait_for_log(task, "Uploading: append")
    until(lambda: lab.phase(task) == "sending", "the phase is stored")
    time.sleep(BUSY)
    lab.sandbox.kill()
    return task, file, target


def test_an_upload_whose_server_is_killed_in_mid_body(lab):
    task, file, target = killed_while_frozen(lab, **LARGE)
    lab.wait_for_log(task, "bytes were sent, so the file was not accepted")
    lab.sandbox.start()
    assert_sent_once(lab, lab.ended(task), file, target, LARGE["rows"])


def test_an_upload_whose_server_is_killed_after_the_last_byte_fails_with_an_error(lab):
    """The whole file was sent, and it is unknown whether the server has read it."""
    task, file, _ = killed_while_frozen(lab, rows=ROWS)
    lab.sandbox.start()
    task = lab.ended(task)

    assert (task.state, task.try_number) == ("failed", 1)
    assert "OUTCOME UNKNOWN" in lab.api.error(task)
    assert file.name in lab.api.error(task)
    assert lab.sandbox.jobs(file.name) == []


@pytest.mark.parametrize("mode", ["upload_and_wait", "upload_and_defer"])
def test_a_wait_whose_server_is_killed_and_restarted(lab, mode):
    file, target = lab.make_file(ROWS), lab.make_target("append")
    task = lab.start_upload(mode, file, "append", target)
    job_id = lab.held_job(file)
    lab.wait_for_log(task, "is RUNNING")
    lab.sandbox.kill()
    lab.wait_for_log(task, "polling goes on")
    lab.sandbox.start()
    lab.sandbox.release(job_id)
    assert_sent_once(lab, lab.ended(task), file, target, ROWS)


def assert_sent_once(lab, task, file, target, rows):
    assert (task.state, task.try_number) == ("success", 1), lab.api.log(task)
    (job,) = lab.sandbox.jobs(file.name)
    assert lab.api.xcoms(task)["return_value"] == job["job_id"]
    until(lambda: lab.sandbox.rows(target), "the rows are there")
    assert lab.sandbox.rows(target) == rows


def test_the_token_is_in_no_file(lab, outage):
    lab.airflow.assert_no_file_has(lab.sandbox.token, *outage[2].values())
