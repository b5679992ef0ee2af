"""Workers killed at each point of an upload and of a wait: the documented outcomes, as seen by the sandbox."""

from __future__ import annotations

import pytest

from tests.support.faults import Fault
from tests.system.lab import FAST, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

SETTINGS = FAST
ROWS = 7
#: A file larger than the socket buffers, for a server that has stopped reading.
LARGE = {"rows": 12, "width": 1 << 20}


@pytest.fixture(autouse=True)
def no_remaining_faults(lab):
    yield
    lab.faults.inject()


def fails_with_an_error(lab, task, file, target):
    """Return whether a task has failed without a retry, with file, target and processing log in its error."""
    message = lab.api.error(task)
    expected = ("OUTCOME UNKNOWN", "rocessing log", file.name, target, lab.faults.url)
    return "AirflowFailException" in lab.api.log(task) and all(part in message for part in expected)


def killed_while_held(lab, point, victims, action="append", dag_id="upload"):
    """Hold an upload before or after its operator runs, kill it there, and return the ended task."""
    file, target, hold = lab.make_file(ROWS), lab.make_target(action), lab.make_hold()
    task = lab.start_upload(dag_id, file, action, target, hold={point: str(hold)})
    until((hold / "reached").exists, f"the task is held {point}")
    phase = lab.phase(task)
    lab.kill(task, victims)
    (hold / "go").touch()
    return lab.ended(task), file, target, phase


def test_killed_before_it_started(lab):
    task, file, target, phase = killed_while_held(lab, "before", "both")

    assert phase is None
    assert (task.state, task.try_number) == ("success", 2)
    assert final_states(lab, file) == ["SUCCEEDED"]
    assert lab.sandbox.rows(target) == ROWS


def test_killed_after_its_success(lab):
    task, file, target, phase = killed_while_held(lab, "after", "both")

    assert phase == "done"
    assert (task.state, task.try_number) == ("success", 2)
    assert final_states(lab, file) == ["SUCCEEDED"]
    assert lab.sandbox.rows(target) == ROWS
    assert lab.api.xcoms(task)["return_value"] == lab.sandbox.jobs(file.name)[0]["job_id"]


@pytest.mark.parametrize(("action", "victims"), [("append", "both"), ("create", "task")])
def test_killed_in_mid_body_fails_with_an_error_and_is_sent_after_a_clear(lab, action, victims):
    file, target = lab.make_file(**LARGE), lab.make_target(action)
    task, phase = killed_in_mid_body(lab, file, action, target, victims)
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("failed", 2)
    assert fails_with_an_error(lab, task, file, target)
    assert lab.sandbox.jobs(file.name) == []

    lab.api.clear(task)
    assert lab.ended(task).state == "success"
    assert final_states(lab, file) == ["SUCCEEDED"]


def test_a_reload_killed_in_mid_body_is_sent_again(lab):
    file, target = lab.make_file(**LARGE), lab.make_target("reload")
    task, phase = killed_in_mid_body(lab, file, "reload", target, "task")
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("success", 2)
    assert final_states(lab, file) == ["SUCCEEDED"]
    assert lab.sandbox.rows(target) == LARGE["rows"]


def killed_in_mid_body(lab, file, action, target, victims):
    lab.faults.inject(Fault("stall_in_body", on="upload", seconds=600))
    before = len(lab.faults.log)
    task = lab.start_upload("upload", file, action, target, connection="datatile_faulty")
    until(lambda: any(request.body_bytes for request in lab.faults.log[before:]), "the body is being sent")
    phase = lab.phase(task)
    lab.kill(task, victims)
    return task, phase


@pytest.mark.parametrize(("action", "victims"), [("append", "both"), ("create", "task")])
def test_killed_between_acceptance_and_the_response_fails_with_an_error(lab, action, victims):
    task, file, target, phase = killed_before_the_response(lab, action, victims, seconds=600)
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("failed", 2)
    assert fails_with_an_error(lab, task, file, target)
    assert final_states(lab, file) == ["SUCCEEDED"]


def test_a_reload_killed_between_acceptance_and_the_response_is_sent_again(lab):
    task, file, target, phase = killed_before_the_response(lab, "reload", "both", seconds=600)
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("success", 2)
    assert final_states(lab, file) == ["SUCCEEDED", "SUCCEEDED"]
    assert lab.sandbox.rows(target) == ROWS


def test_a_task_that_outlives_its_worker_fails_with_an_error(lab):
    task, file, target, phase = killed_before_the_response(lab, "append", "worker", seconds=6)
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("failed", 2)
    assert fails_with_an_error(lab, task, file, target)
    assert final_states(lab, file) == ["SUCCEEDED"]


def killed_before_the_response(lab, action, victims, seconds):
    file, target = lab.make_file(ROWS), lab.make_target(action)
    lab.faults.inject(Fault("delay", on="upload", seconds=seconds))
    task = lab.start_upload("upload", file, action, target, connection="datatile_faulty")
    until(lambda: lab.sandbox.jobs(file.name), "the server has accepted the file")
    phase = lab.phase(task)
    lab.kill(task, victims)
    return task, file, target, phase


@pytest.mark.parametrize("victims", ["both", "task"])
def test_killed_while_waiting_in_the_worker(lab, victims):
    task, file, target, job_id = killed_while_waiting(lab, victims)
    lab.sandbox.release(job_id)
    task = lab.ended(task)

    assert (task.state, task.try_number) == ("success", 2)
    assert "Resuming job" in lab.api.log(task)
    assert final_states(lab, file) == ["SUCCEEDED"]
    assert lab.sandbox.rows(target) == ROWS


def test_killed_while_waiting_for_a_job_that_then_fails(lab):
    """A failed job has stored no rows, so the next attempt uploads again."""
    file, target = lab.make_file(ROWS), lab.make_target("append")
    file.write_bytes(b"\xff\xfe\xfa no text\n")
    task = lab.start_upload("upload_and_wait", file, "append", target)
    job_id = lab.held_job(file)
    until(lambda: lab.phase(task) == "accepted", "the job's id is stored")
    lab.kill(task, "task")
    lab.sandbox.release(job_id)
    task = lab.ended(task)

    # The file is still invalid.
    assert (task.state, task.try_number) == ("failed", 2)
    assert "sending the file again" in lab.api.log(task)
    assert final_states(lab, file) == ["FAILED", "FAILED"]
    assert lab.sandbox.rows(target) == 0


def killed_while_waiting(lab, victims):
    file, target = lab.make_file(ROWS), lab.make_target("append")
    task = lab.start_upload("upload_and_wait", file, "append", target)
    job_id = lab.held_job(file)
    until(lambda: lab.phase(task) == "accepted", "the job's id is stored")
    lab.kill(task, victims)
    return task, file, target, job_id


def test_a_sensor_killed_while_waiting_in_the_worker(lab):
    job_id = lab.running_job()
    task = lab.start("wait", job_id=job_id)
    lab.wait_for_log(task, "is RUNNING")
    lab.kill(task, "both")
    lab.sandbox.release(job_id)
    task = lab.ended(task)

    assert (task.state, task.try_number) == ("success", 2)
    assert lab.api.xcoms(task)["return_value"]["id"] == job_id


@pytest.fixture(scope="module")
def echoed(lab):
    """A task, its file and its target: the response to its upload repeated the token."""
    file, target = lab.make_file(ROWS), lab.make_target("append")
    lab.faults.inject(Fault("echo", on="upload", status=500))
    return lab.ended(lab.start_upload("upload", file, "append", target, connection="datatile_faulty")), file, target


def test_a_response_with_the_token(lab, echoed):
    task, file, target = echoed

    assert (task.state, task.try_number) == ("failed", 1)
    assert fails_with_an_error(lab, task, file, target)


def test_the_token_is_in_no_file(lab, echoed):
    """Neither of a task whose server repeats it, nor of one that was killed and retried."""
    task, _, target, _ = killed_while_held(lab, "before", "both")

    assert (task.state, task.try_number) == ("success", 2)
    assert "attempt=2.log" in lab.airflow.files_with(target)
    lab.airflow.assert_no_file_has(lab.sandbox.token, echoed[2])


def final_states(lab, file):
    """Wait until the jobs of a file have ended, and return their states."""
    jobs = until(lambda: all_final(lab.sandbox.jobs(file.name)), f"the jobs of {file.name} have ended")
    return [job["state"] for job in jobs]


def all_final(jobs):
    return jobs if all(job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED") for job in jobs) else None
