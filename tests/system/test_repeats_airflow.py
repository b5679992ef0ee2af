"""
The same content twice, on a real Airflow with a ledger in a folder: by a clear, by another run, by another DAG, and in
200 uploads with random faults and kills, of which a third are repeats.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.support.airflow import RealAirflow
from tests.support.processes import Session, end
from tests.support.sandbox import SandboxProcess
from tests.support.versions import AIRFLOW
from tests.system.lab import FAST, until

UPLOADS, DATABASES, ROWS = 200, 20, 3
#: Every third upload repeats the content and the target of the one before it, under another name.
REPEATS = {number for number in range(UPLOADS) if number % 3 == 2}
SEED, FAULTY = 1948, 0.2
#: Seconds between two kills, the limit for the run, and the least number of kills. Airflow 2 runs one task at a time
#: here, because its LocalExecutor does not run with SQLite.
PAUSE, LIMIT, KILLS = (0.5, 2400.0, 5) if AIRFLOW.major == 2 else (2.0, 600.0, 10)
pytestmark = [pytest.mark.system, pytest.mark.timeout(LIMIT + 180)]
SETTINGS = FAST | {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Airflow, the sandbox, the control address of the fault proxy, the folder of the files, and the ledger's."""
    folder = tmp_path_factory.mktemp("repeats")
    ledger = folder / "ledger"
    ledger.mkdir()
    with SandboxProcess(folder, processing_seconds=0.2) as sandbox:
        log = folder / "faults.log"
        options = ("--upstream", sandbox.url, "--seed", str(SEED), "--rate", "0", "--on", "upload")
        proxy = Session("faults", [sys.executable, "-m", "tests.support.faults", *options], log, env=os.environ)
        try:
            addresses = json.loads(until(lambda: log.read_text().partition("\n")[0], "the proxy is up"))
            connection = json.loads(sandbox.connection(addresses["url"]))
            connection["extra"]["ledger"] = ledger.as_uri()
            env = SETTINGS | {"AIRFLOW_CONN_DATATILE_FAULTY": json.dumps(connection)}
            with RealAirflow(Path(__file__).parent / "repeats_dags", home=folder / "airflow", env=env) as airflow:
                yield airflow, sandbox, addresses, folder, ledger
        finally:
            end([proxy])


def run_of(airflow, dag_id, file, target, **conf):
    """Run a DAG and return its task when the run has ended."""
    run_id = airflow.api.trigger(dag_id, {"dataset": str(file), "target": target, **conf})
    run = until(lambda: (r := airflow.api.run(dag_id, run_id)).finished and r, f"{dag_id} has ended")
    return run.task("task")


def assert_repeated(airflow, task, job_id):
    assert task.state == "failed", airflow.api.log(task)
    error = " ".join(airflow.api.error(task).split())
    assert "REPEATED UPLOAD" in error, airflow.api.log(task)
    assert job_id in error


def test_a_clear_another_run_and_another_dag_end_loud(lab):
    airflow, sandbox, _, folder, _ = lab
    file, target = folder / "wave.csv", sandbox.add_database()
    file.write_text("id\n1\n2\n3\n")
    task = run_of(airflow, "repeats", file, target)
    assert task.state == "success", airflow.api.log(task)
    (job,) = sandbox.jobs(file.name)

    airflow.api.clear(task)

    def cleared_task():
        task_now = airflow.api.run("repeats", task.run_id).task("task")
        return task_now if task_now.try_number > 1 and task_now.state == "failed" else None

    cleared = until(cleared_task, "the cleared task has failed")
    assert_repeated(airflow, cleared, job["job_id"])
    by_hand = run_of(airflow, "repeats", file, target)
    assert (by_hand.state, by_hand.try_number) == ("failed", 1)
    assert_repeated(airflow, by_hand, job["job_id"])
    another = run_of(airflow, "repeats_too", file, target)
    assert (another.state, another.try_number) == ("failed", 1)
    assert_repeated(airflow, another, job["job_id"])
    assert len(sandbox.jobs(file.name)) == 1
    until(lambda: sandbox.rows(target) == 3, "the rows are there")

    # A person means it.
    meant = run_of(airflow, "repeats", file, target, datatile_on_repeat="allow")
    assert meant.state == "success", airflow.api.log(meant)
    assert len(sandbox.jobs(file.name)) == 2
    until(lambda: sandbox.rows(target) == 6, "the rows are there twice")


@pytest.fixture(scope="module")
def storm(lab):
    """The uploads, the run, and the kills."""
    airflow, sandbox, addresses, folder, _ = lab
    plan = {"faults": [], "seed": SEED, "rate": FAULTY, "on": "upload"}
    requests.put(f"{addresses['control']}/plan", json=plan, timeout=10).raise_for_status()
    databases = [sandbox.add_database() for _ in range(DATABASES)]
    uploads = []
    for number in range(UPLOADS):
        # The number of the content: a repeat has that of the upload before it.
        content = number - (number in REPEATS)
        file = folder / f"storm{number}.csv"
        file.write_text("id\n" + "".join(f"{content * ROWS + row}\n" for row in range(ROWS)))
        uploads.append({"target_hash": databases[content % DATABASES], "dataset": str(file)})
    rng = random.Random(SEED)
    run_id = airflow.api.trigger("repeats_storm", {"uploads": uploads})
    deadline, killed = time.monotonic() + LIMIT, 0
    while not (run := airflow.api.run("repeats_storm", run_id)).finished and time.monotonic() < deadline:
        running = [t for t in run.tasks if t.task_id == "upload" and t.state == "running"]
        rng.shuffle(running)
        killed += any(kill(airflow, task) for task in running)
        time.sleep(rng.uniform(0.5, 1.5) * PAUSE)
    ends = ("SUCCEEDED", "FAILED")
    until(lambda: all(job["state"] in ends for job in sandbox.state()["jobs"]), "all jobs have ended")
    return uploads, run, killed


def kill(airflow, task):
    """Kill a task, but not its worker. Return whether it was running."""
    pids = airflow.worker_pids(task)
    if len(pids) != 2:
        return False
    try:
        os.kill(pids[1], signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
def test_each_content_is_accepted_once_or_its_tasks_fail(lab, storm):
    airflow, sandbox, *_ = lab
    uploads, run, killed = storm
    assert run.finished
    assert killed >= KILLS
    accepted = collections.Counter(job["filename"] for job in sandbox.state()["jobs"])
    tasks = {t.map_index: t for t in run.tasks if t.task_id == "upload"}
    assert sorted(tasks) == list(range(UPLOADS))
    wrong, repeated = [], 0
    for number in set(range(UPLOADS)) - REPEATS:
        group = [n for n in (number, number + 1) if n == number or n in REPEATS]
        jobs = sum(accepted[f"storm{n}.csv"] for n in group)
        succeeded = [n for n in group if tasks[n].state == "success"]
        messages = {n: airflow.api.error(tasks[n]) for n in group if tasks[n].state != "success"}
        loud = all(
            ("REPEATED UPLOAD" in text or "OUTCOME UNKNOWN" in text) and f"storm{n}.csv" in text
            for n, text in messages.items()
        )
        repeated += sum("REPEATED UPLOAD" in text for text in messages.values())
        if jobs > 1 or len(succeeded) > 1 or (succeeded and accepted[f"storm{succeeded[0]}.csv"] != 1) or not loud:
            wrong.append((group, jobs, succeeded, messages, [airflow.api.log(tasks[n]) for n in group]))
    accepted_in_all = sum(accepted[f"storm{n}.csv"] for n in tasks)
    counts = f"{len(REPEATS)} repeats, {killed} kills: {accepted_in_all} accepted, {repeated} failed as repeated"
    sys.stderr.write(f"\nAirflow {AIRFLOW}: {UPLOADS} uploads, {counts}, {len(wrong)} wrong\n")
    assert wrong == []
    assert repeated >= len(REPEATS) / 2
    # Rows are counted, not only jobs.
    targets = {upload["target_hash"] for upload in uploads}
    found = {d["hash"]: d["rows"] for d in sandbox.state()["databases"] if d["hash"] in targets}
    assert sum(found.values()) == ROWS * accepted_in_all


@pytest.mark.long
def test_no_secret_is_in_the_ledger(lab, storm):
    _, sandbox, _, _, ledger = lab
    entries = list(ledger.glob("*/*/*.json"))
    assert len(entries) >= UPLOADS - len(REPEATS)
    assert not any(sandbox.token in entry.read_text() for entry in entries)
