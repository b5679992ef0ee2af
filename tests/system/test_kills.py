"""Workers killed at each point of an upload and of a wait: what the docs' table promises, as the sandbox saw it."""

from __future__ import annotations

import pytest

from tests.support.faults import Fault
from tests.system.lab import FAST, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

SETTINGS = FAST
ROWS = 7
#: More than the kernel takes in for a reader that reads no more.
LARGE = {"rows": 12, "width": 1 << 20}


@pytest.fixture(autouse=True)
def no_faults_are_left(lab):
    yield
    lab.faults.play()


def is_loud(lab, task, file, target):
    """Whether a task has failed for good, saying what may have happened to which file, and where to look."""
    message = lab.api.error(task)
    reported = ("OUTCOME UNKNOWN", "rocessing log", file.name, target, lab.faults.url)
    return "AirflowFailException" in lab.api.log(task) and all(part in message for part in reported)


def held(lab, place, victims, action="append", dag_id="upload"):
    """An upload that was held before or after its operator ran, and killed there."""
    file, target, hold = lab.make_file(ROWS), lab.make_target(action), lab.make_hold()
    task = lab.start_upload(dag_id, file, action, target, hold={place: str(hold)})
    until((hold / "reached").exists, f"the task is held {place}")
    phase = lab.phase(task)
    lab.kill(task, victims)
    (hold / "go").touch()
    return lab.ended(task), file, target, phase


def test_killed_before_it_began(lab):
    task, file, target, phase = held(lab, "before", "both")

    assert phase is None
    assert (task.state, task.try_number) == ("success", 2)
    assert settled(lab, file) == ["SUCCEEDED"]
    assert lab.sandbox.rows(target) == ROWS


def test_killed_after_its_success(lab):
    task, file, target, phase = held(lab, "after", "both")

    assert phase == "done"
    assert (task.state, task.try_number) == ("success", 2)
    assert settled(lab, file) == ["SUCCEEDED"]
    assert lab.sandbox.rows(target) == ROWS
    assert lab.api.xcoms(task)["return_value"] == lab.sandbox.jobs(file.name)[0]["job_id"]


@pytest.mark.parametrize(("action", "victims"), [("append", "both"), ("create", "task")])
def test_killed_in_mid_body_is_loud_and_sent_when_a_person_clears_it(lab, action, victims):
    file, target = lab.make_file(**LARGE), lab.make_target(action)
    task, phase = killed_in_mid_body(lab, file, action, target, victims)
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("failed", 2)
    assert is_loud(lab, task, file, target)
    assert lab.sandbox.jobs(file.name) == []

    lab.api.clear(task)
    assert lab.ended(task).state == "success"
    assert settled(lab, file) == ["SUCCEEDED"]


def test_a_reload_killed_in_mid_body_is_sent_again(lab):
    file, target = lab.make_file(**LARGE), lab.make_target("reload")
    task, phase = killed_in_mid_body(lab, file, "reload", target, "task")
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("success", 2)
    assert settled(lab, file) == ["SUCCEEDED"]
    assert lab.sandbox.rows(target) == LARGE["rows"]


def killed_in_mid_body(lab, file, action, target, victims):
    lab.faults.play(Fault("stall_in_body", on="upload", seconds=600))
    before = len(lab.faults.log)
    task = lab.start_upload("upload", file, action, target, connection="datatile_faulty")
    until(lambda: any(p.body_bytes for p in lab.faults.log[before:]), "the body has begun")
    phase = lab.phase(task)
    lab.kill(task, victims)
    return task, phase


@pytest.mark.parametrize(("action", "victims"), [("append", "both"), ("create", "task")])
def test_killed_between_acceptance_and_the_answer_is_loud(lab, action, victims):
    task, file, target, phase = killed_before_the_answer(lab, action, victims, seconds=600)
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("failed", 2)
    assert is_loud(lab, task, file, target)
    assert settled(lab, file) == ["SUCCEEDED"]


def test_a_reload_killed_between_acceptance_and_the_answer_is_sent_again(lab):
    task, file, target, phase = killed_before_the_answer(lab, "reload", "both", seconds=600)
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("success", 2)
    assert settled(lab, file) == ["SUCCEEDED", "SUCCEEDED"]
    assert lab.sandbox.rows(target) == ROWS


def test_a_task_that_outlives_its_worker_and_gets_the_answer_is_loud(lab):
    task, file, target, phase = killed_before_the_answer(lab, "append", "worker", seconds=6)
    task = lab.ended(task)

    assert phase == "sending"
    assert (task.state, task.try_number) == ("failed", 2)
    assert is_loud(lab, task, file, target)
    assert settled(lab, file) == ["SUCCEEDED"]


def killed_before_the_answer(lab, action, victims, seconds):
    file, target = lab.make_file(ROWS), lab.make_target(action)
    lab.faults.play(Fault("delay", on="upload", seconds=seconds))
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
    assert "taking that up" in lab.api.log(task)
    assert settled(lab, file) == ["SUCCEEDED"]
    assert lab.sandbox.rows(target) == ROWS


def test_killed_while_waiting_for_a_job_that_then_fails(lab):
    """What failed left no rows behind, so the next try uploads anew."""
    file, target = lab.make_file(ROWS), lab.make_target("append")
    file.write_bytes(b"\xff\xfe\xfa no text\n")
    task = lab.start_upload("upload_and_wait", file, "append", target)
    job_id = lab.held_job(file)
    until(lambda: lab.phase(task) == "accepted", "the job's id is stored")
    lab.kill(task, "task")
    lab.sandbox.release(job_id)
    task = lab.ended(task)

    # The file is still one that can't be read.
    assert (task.state, task.try_number) == ("failed", 2)
    assert "so uploading anew" in lab.api.log(task)
    assert settled(lab, file) == ["FAILED", "FAILED"]
    assert lab.sandbox.rows(target) == 0


def killed_while_waiting(lab, victims):
    file, target = lab.make_file(ROWS), lab.make_target("append")
    task = lab.start_upload("upload_and_wait", file, "append", target)
    job_id = lab.held_job(file)
    until(lambda: lab.phase(task) == "accepted", "the job's id is stored")
    lab.kill(task, victims)
    return task, file, target, job_id


def test_a_sensor_killed_while_waiting_in_the_worker(lab):
    job_id = lab.waited_for_job()
    task = lab.start("wait", job_id=job_id)
    lab.wait_for_log(task, "is RUNNING")
    lab.kill(task, "both")
    lab.sandbox.release(job_id)
    task = lab.ended(task)

    assert (task.state, task.try_number) == ("success", 2)
    assert lab.api.xcoms(task)["return_value"]["id"] == job_id


def test_an_answer_with_the_token_in_it(lab):
    """Its task fails with the server's words, and the next test looks for the token in all that was written."""
    file, target = lab.make_file(ROWS), lab.make_target("append")
    lab.faults.play(Fault("echo", on="upload", status=500))
    task = lab.ended(lab.start_upload("upload", file, "append", target, connection="datatile_faulty"))

    assert (task.state, task.try_number) == ("failed", 1)
    assert is_loud(lab, task, file, target)


def test_the_token_is_nowhere(lab):
    """Not in a log, an XCom, a rendered template, a trigger's row: all of it is under Airflow's home."""
    # The folder's hash shows that what is there is found.
    found = lab.airflow.files_with(lab.sandbox.folder)
    assert found & {"airflow.db", "airflow.db-wal"}
    assert found >= {"attempt=1.log", "attempt=2.log"}
    assert lab.airflow.files_with(lab.sandbox.token) == set()


def settled(lab, file):
    """How the jobs of a file have ended."""
    jobs = until(lambda: all_final(lab.sandbox.jobs(file.name)), f"the jobs of {file.name} have ended")
    return [job["state"] for job in jobs]


def all_final(jobs):
    return jobs if all(job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED") for job in jobs) else None
