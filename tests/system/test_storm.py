"""Two hundred uploads in one run, with random faults and kills: every one is accounted for."""

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

pytestmark = [pytest.mark.system, pytest.mark.timeout(780)]

UPLOADS, DATABASES, ROWS = 200, 40, 3
SEED, FAULTY = 1948, 0.2
#: Seconds between two kills, and until the run is over.
PAUSE, LIMIT = 2.0, 600.0
# On two busy cores a worker that lives may be late.
SETTINGS = FAST | {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15"}


@pytest.fixture(scope="module")
def storm(tmp_path_factory):
    """What became of the run, how Airflow and the sandbox stand after it, and what was played."""
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
                played = requests.get(f"{addresses['control']}/log", timeout=10).json()
                yield airflow, run, killed, uploads, sandbox, played
        finally:
            end([proxy])


def make_upload(folder, number, database):
    file = folder / f"wave{number}.csv"
    file.write_text("id\n" + "".join(f"{number * ROWS + row}\n" for row in range(ROWS)))
    return {"target_hash": database, "dataset": str(file)}


def run_and_kill(airflow, uploads):
    """Run the DAG; until it is over, kill one task every few seconds, half of them with their worker."""
    chance = random.Random(SEED)
    run_id = airflow.api.trigger("storm", {"uploads": uploads})
    deadline = time.monotonic() + LIMIT
    killed = collections.Counter()
    while not (run := airflow.api.run("storm", run_id)).finished and time.monotonic() < deadline:
        running = [t for t in run.tasks if t.task_id == "upload" and t.state == "running"]
        chance.shuffle(running)
        whole = chance.random() < 0.5
        # A task that has ended by now cannot be killed.
        killed[whole] += any(kill(airflow, task, whole=whole) for task in running)
        time.sleep(chance.uniform(0.5, 1.5) * PAUSE)
    return run, killed


def kill(airflow, task, *, whole):
    """Kill a task in its tracks, and the worker that watches over it if it is to be the whole; whether it ran."""
    if len(pids := airflow.worker_pids(task)) != 2:
        return False
    worker, own = pids
    try:
        # A worker that is killed while it waits for work takes the executor's queue along: all others hang for ever.
        # One whose task stands still can only be waiting for that.
        os.kill(own, signal.SIGSTOP)
        runs = airflow.worker_pids(task) == pids
        if whole and runs:
            os.kill(worker, signal.SIGKILL)
        os.kill(own, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return runs


def finished(job):
    return job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED")


def test_the_storm_was_one(storm):
    _, run, killed, _, _, played = storm

    assert run.finished
    assert killed[True] >= 5
    assert killed[False] >= 5
    assert {t.try_number for t in run.tasks} > {1}
    kinds = collections.Counter(p["fault"] for p in played if p["fault"])
    assert sum(kinds.values()) >= UPLOADS * FAULTY / 2
    assert len(kinds) >= 8


def test_each_upload_is_there_once_or_its_task_is_loud(storm):
    airflow, run, _, uploads, sandbox, _ = storm
    accepted = collections.Counter(job["filename"] for job in sandbox.state()["jobs"])
    tasks = {t.map_index: t for t in run.tasks if t.task_id == "upload"}
    assert sorted(tasks) == list(range(UPLOADS))

    wrong = []
    for number, task in tasks.items():
        name = f"wave{number}.csv"
        if task.state == "success":
            right = accepted[name] == 1
        else:
            message = airflow.api.error(task)
            loud = "AirflowFailException" in airflow.api.log(task) and "OUTCOME UNKNOWN" in message
            named = f"'{name}'" in message and uploads[number]["target_hash"] in message and "rocessing log" in message
            right = task.state == "failed" and accepted[name] <= 1 and loud and named
        if not right:
            wrong.append((task, accepted[name], airflow.api.error(task)))
    assert wrong == []


def test_each_database_holds_what_was_accepted(storm):
    _, run, _, uploads, sandbox, _ = storm
    state = sandbox.state()
    states = {t.map_index: t.state for t in run.tasks if t.task_id == "upload"}
    targets = [upload["target_hash"] for upload in uploads]
    successes = collections.Counter(t for n, t in enumerate(targets) if states[n] == "success")
    all_of_them = collections.Counter(targets)

    assert {job["state"] for job in state["jobs"]} == {"SUCCEEDED"}
    for database in state["databases"]:
        assert successes[database["hash"]] * ROWS <= database["rows"] <= all_of_them[database["hash"]] * ROWS
    assert sum(d["rows"] for d in state["databases"]) == len(state["jobs"]) * ROWS


def test_the_token_is_nowhere(storm):
    airflow, _, _, _, sandbox, _ = storm
    assert airflow.files_with(sandbox.token) == set()
