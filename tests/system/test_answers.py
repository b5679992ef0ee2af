"""An upload of unknown outcome in a real Airflow: a person is asked, and the task does what is answered."""

from __future__ import annotations

import time

import pytest

from tests.support.faults import Fault
from tests.system.lab import FAST, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.needs_airflow(">=3.1")]

SETTINGS = FAST
ROWS = 7
LOST, NOT_ACCEPTED = "reset_before_response", "reset_after_body"
THERE, NOT_THERE, FAIL = "It is there", "It is not there: send it", "Fail the task"
#: Seconds until the worker has ended. Airflow may fail a task that is resumed before.
WORKER_ENDS = 5.0


def start(lab, dag_id="ask", fault=LOST, **conf):
    """Start an upload whose response is lost; return its task, file and target."""
    file, target = lab.make_file(ROWS), lab.make_target("append")
    lab.faults.inject(Fault(fault, on="upload", times=1))
    task = lab.start(dag_id, **{"dataset": str(file), "target": target, **conf})
    return asked(lab, task), file, target


def asked(lab, task):
    """Wait until a task waits for a person, without a worker."""

    def question():
        now = lab.api.run(task.dag_id, task.run_id).task(task.task_id, task.map_index)
        return now if now.state in ("awaiting_input", "deferred") and lab.api.question(now) else None

    task = until(question, f"{task.dag_id} asks")
    time.sleep(WORKER_ENDS)
    assert lab.airflow.worker_pids(task) == []
    return task


@pytest.mark.parametrize("dag_id", ["ask", "ask_and_wait", "ask_and_defer"])
def test_it_is_there(lab, dag_id):
    task, file, target = start(lab, dag_id)
    (job,) = lab.sandbox.jobs(file.name)
    lab.api.answer(task, THERE, job["job_id"])
    task = lab.ended(task)
    assert (task.state, task.try_number) == ("success", 1), lab.api.log(task)
    assert lab.api.xcoms(task)["return_value"] == job["job_id"]
    assert 'answered "It is there" on 20' in lab.api.log(task).replace("\\", "")
    assert len(lab.sandbox.jobs(file.name)) == 1
    until(lambda: lab.sandbox.rows(target) == ROWS, "the rows are there")


def test_it_is_there_without_a_job(lab):
    task, file, _ = start(lab, "ask_and_defer")
    lab.api.answer(task, THERE)
    task = lab.ended(task)
    assert task.state == "success", lab.api.log(task)
    assert lab.api.xcoms(task)["return_value"] == ""
    assert len(lab.sandbox.jobs(file.name)) == 1


@pytest.mark.parametrize("dag_id", ["ask", "ask_and_defer"])
def test_it_is_not_there(lab, dag_id):
    task, file, target = start(lab, dag_id, NOT_ACCEPTED)
    assert lab.sandbox.jobs(file.name) == []
    lab.api.answer(task, NOT_THERE)
    task = lab.ended(task)
    assert (task.state, task.try_number) == ("success", 1), lab.api.log(task)
    assert len(lab.sandbox.jobs(file.name)) == 1
    until(lambda: lab.sandbox.rows(target) == ROWS, "the rows are there")


def test_fail(lab):
    task, file, _ = start(lab)
    lab.api.answer(task, FAIL)
    task = lab.ended(task)
    assert (task.state, task.try_number) == ("failed", 1)
    error = " ".join(lab.api.error(task).split())
    assert "OUTCOME UNKNOWN" in error
    assert 'answered "Fail the task" on' in error
    assert len(lab.sandbox.jobs(file.name)) == 1


def test_no_answer_in_time(lab):
    task, file, _ = start(lab, "ask_20_s")
    task = lab.ended(task)
    assert (task.state, task.try_number) == ("failed", 1)
    assert "Nobody answered until" in lab.api.error(task)
    assert len(lab.sandbox.jobs(file.name)) == 1


def test_airflow_knows_who_may_answer(lab):
    """It checks that itself; the auth manager of the tests lets everybody do everything."""
    task, _, _ = start(lab, "ask_ada")
    assert lab.api.question(task)["assigned_users"] == [{"id": "ada", "name": "Ada"}]
    lab.api.answer(task, FAIL)


def test_a_notifier_gets_the_question(lab):
    task, file, _ = start(lab, "ask_and_notify")
    message = file.with_suffix(".question").read_text()
    assert message.startswith("Does DATATILE have this upload? append of 'wave")
    assert lab.api.question(task)["body"] in message
    lab.api.answer(task, FAIL)


def test_mapped_uploads_have_a_question_each(lab):
    first, second = lab.make_file(ROWS), lab.make_file(ROWS)
    target = lab.make_target("append")
    lab.faults.inject(Fault(LOST, on="upload", times=1))
    run_id = lab.api.trigger("ask_mapped", {"dataset": [str(first), str(second)], "target": target})
    tasks = until(
        lambda: [t for t in lab.api.run("ask_mapped", run_id).tasks if t.map_index >= 0], "the mapped tasks are there"
    )
    one, two = sorted(tasks, key=lambda t: t.map_index)
    one = asked(lab, one)
    (job,) = lab.sandbox.jobs(first.name)
    lab.api.answer(one, THERE, job["job_id"])
    run = until(lambda: (r := lab.api.run("ask_mapped", run_id)).finished and r, "the run is over")
    assert [t.state for t in run.tasks] == ["success"] * 3, lab.api.log(run.task("task", two.map_index))
    assert [len(lab.sandbox.jobs(f.name)) for f in (first, second)] == [1, 1]
    until(lambda: lab.sandbox.rows(target) == 2 * ROWS, "the rows are there")


@pytest.mark.parametrize(("fault", "answer"), [(LOST, THERE), (NOT_ACCEPTED, NOT_THERE)])
def test_a_decorated_upload(lab, fault, answer):
    task, _, target = start(lab, "ask_decorated", fault)
    lab.api.answer(task, answer)
    task = lab.ended(task)
    assert (task.state, task.try_number) == ("success", 1), lab.api.log(task)
    until(lambda: lab.sandbox.rows(target) == ROWS, "the rows are there")


@pytest.mark.needs_airflow(">=3.3")
def test_a_clear_is_not_an_answer(lab):
    task, file, _ = start(lab)
    lab.api.clear(task)
    until(lambda: lab.api.run(task.dag_id, task.run_id).task("task").try_number == 2, "the second attempt runs")
    again = asked(lab, lab.api.run(task.dag_id, task.run_id).task("task"))
    # Airflow keeps the text of the first question.
    assert file.name in lab.api.question(again)["body"].replace("\\", "")
    lab.api.answer(again, THERE, lab.sandbox.jobs(file.name)[0]["job_id"])
    assert lab.ended(again).state == "success"
    assert len(lab.sandbox.jobs(file.name)) == 1


@pytest.mark.needs_airflow(">=3.3")
def test_the_upload_of_a_dead_worker(lab):
    file, target = lab.make_file(ROWS), lab.make_target("append")
    lab.faults.inject(Fault("delay", on="upload", seconds=60))
    task = lab.start("ask_and_wait", dataset=str(file), target=target)
    until(lambda: lab.phase(task) == "sending", "the phase is stored")
    (job,) = until(lambda: lab.sandbox.jobs(file.name), "the server has the file")
    lab.kill(task)
    task = asked(lab, task)
    assert task.try_number == 2
    lab.api.answer(task, THERE, job["job_id"])
    assert lab.ended(task).state == "success"
    assert len(lab.sandbox.jobs(file.name)) == 1
    record = lab.api.state_store(task, "datatile_upload")
    assert (record["phase"], record["answer"]["choice"], record["answer"]["job_id"]) == ("done", "there", job["job_id"])
    assert record["answer"]["by"]
