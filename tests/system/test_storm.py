"""200 uploads in one run, with random faults and kills: each is accepted once, or its task fails with an error."""

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
from tests.system.lab import FAST, until

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(780)]

UPLOADS, DATABASES, ROWS = 200, 40, 3
SEED, FAULTY = 1948, 0.2
#: Seconds between two kills, and the limit for the run.
PAUSE, LIMIT = 2.0, 600.0
# On a slow machine the heartbeat of a running worker may be late.
SETTINGS = FAST | {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15"}


@pytest.fixture(scope="module")
def storm(tmp_path_factory):
    """The run, the kills, Airflow and the sandbox after the run, and the log of the fault proxy."""
    folder = tmp_path_factory.mktemp("storm")
    with SandboxProcess(folder, processing_seconds=0.2) as sandbox:
        log = folder / "faults.log"
        options = ("--upstream", sandbox.url, "--seed", str(SEED), "--rate", str(FAULTY), "--on", "upload")
        proxy = Session("faults", [sys.executable, "-m", "tests.support.faults", *options], log, env=os.environ)
        try:
            addresses = json.loads(until(lambda: log.read_text().partition("\n")[0], "the proxy is up"))
            env = SETTINGS | {"AIRFLOW_CONN_DATATILE_FAULTY": sandbox.connection(addresses["url"])}
            with RealAirflow(Path(__file__).parent / "dags", home=folder / "airflow", env=env) as airflow:
                databases = [sandbox.add_database() for _ in range(DATABASES)]
                uploads = [make_upload(folder, n, databases[n % DATABASES]) for n in range(UPLOADS)]
                run, killed = run_and_kill(airflow, uploads)
                until(lambda: all(finished(job) for job in sandbox.state()["jobs"]), "the sandbox has read all")
                requests_log = requests.get(f"{addresses['control']}/log", timeout=10).json()
                yield airflow, run, killed, uploads, sandbox, requests_log
        finally:
            end([proxy])


def make_upload(folder, number, database):
    file = folder / f"wave{number}.csv"
    file.write_text("id\n" + "".join(f"{number * ROWS + row}\n" for row in range(ROWS)))
    return {"target_hash": database, "dataset": str(file)}


def run_and_kill(airflow, uploads):
    """Run the DAG. Until it has ended, kill one task every few seconds, half of them with their worker."""
    rng = random.Random(SEED)
    run_id = airflow.api.trigger("storm", {"uploads": uploads})
    deadline = time.monotonic() + LIMIT
    killed: collections.Counter[bool] = collections.Counter()
    while not (run := airflow.api.run("storm", run_id)).finished and time.monotonic() < deadline:
        running = [t for t in run.tasks if t.task_id == "upload" and t.state == "running"]
        rng.shuffle(running)
        with_worker = rng.random() < 0.5
        # A task that has ended by now cannot be killed.
        killed[with_worker] += any(kill(airflow, task, with_worker=with_worker) for task in running)
        time.sleep(rng.uniform(0.5, 1.5) * PAUSE)
    return run, killed


def kill(airflow, task, *, with_worker):
    """Kill a task, and the worker that supervises it if wanted. Return whether the task was running."""
    if len(pids := airflow.worker_pids(task)) != 2:
        return False
    worker, own = pids
    try:
        # If a worker is killed while it waits for work, the executor's queue stays locked, and all others hang.
        # A worker whose task is stopped can only be waiting for the task.
        os.kill(own, signal.SIGSTOP)
        runs = airflow.worker_pids(task) == pids
        if with_worker and runs:
            os.kill(worker, signal.SIGKILL)
        os.kill(own, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return runs


def finished(job):
    return job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED")


def test_there_were_enough_faults_and_kills(storm):
    _, run, killed, _, _, requests_log = storm

    assert run.finished
    assert killed[True] >= 5
    assert killed[False] >= 5
    assert {t.try_number for t in run.tasks} > {1}
    kinds = collections.Counter(p["fault"] for p in requests_log if p["fault"])
    assert sum(kinds.values()) >= UPLOADS * FAULTY / 2
    assert len(kinds) >= 8


def test_each_upload_is_accepted_once_or_its_task_fails_with_an_error(storm):
    airflow, run, _, uploads, sandbox, _ = storm
    accepted = collections.Counter(job["filename"] for job in sandbox.state()["jobs"])
    tasks = {t.map_index: t for t in run.tasks if t.task_id == "upload"}
    assert sorted(tasks) == list(range(UPLOADS))

    wrong = []
    for number, task in tasks.items():
        name = f"wave{number}.csv"
        if task.state == "success":
            ok = accepted[name] == 1
        else:
            message = airflow.api.error(task)
            is_unknown = "AirflowFailException" in airflow.api.log(task) and "OUTCOME UNKNOWN" in message
            named = f"'{name}'" in message and uploads[number]["target_hash"] in message and "rocessing log" in message
            ok = task.state == "failed" and accepted[name] <= 1 and is_unknown and named
        if not ok:
            wrong.append((task, accepted[name], airflow.api.log(task)))
    assert wrong == []


def test_each_database_holds_the_accepted_uploads(storm):
    _, run, _, uploads, sandbox, _ = storm
    state = sandbox.state()
    states = {t.map_index: t.state for t in run.tasks if t.task_id == "upload"}
    targets = [upload["target_hash"] for upload in uploads]
    successes = collections.Counter(t for n, t in enumerate(targets) if states[n] == "success")
    all_uploads = collections.Counter(targets)

    assert {job["state"] for job in state["jobs"]} == {"SUCCEEDED"}
    for database in state["databases"]:
        assert successes[database["hash"]] * ROWS <= database["rows"] <= all_uploads[database["hash"]] * ROWS
    assert sum(d["rows"] for d in state["databases"]) == len(state["jobs"]) * ROWS


def test_the_token_is_in_no_file(storm):
    airflow, _, _, uploads, sandbox, _ = storm
    airflow.assert_no_file_has(sandbox.token, uploads[0]["target_hash"])
