"""A wave of uploads on a cluster whose processes are killed: each is in its database once, or its task failed."""

from __future__ import annotations

import base64
import collections
import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.benchmarks import s3
from tests.cluster.chaos import FAULTS, Chaos, Observer, query, retry_time, set_connection
from tests.cluster.cluster import SLOTS, Cluster
from tests.support.airflow_api import Run, TaskInstance
from tests.support.sandbox import SandboxProcess
from tests.support.servers import PostgreSql, redis

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ROWS, SEED = 3, 1948
JOB_SECONDS = 8.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """
    The size of a run.

    :param held: uploads whose jobs do not end before the last fault.
    :param pause: seconds between two faults.
    :param limit: seconds for the run.
    """

    uploads: int
    databases: int
    held: int
    faults: tuple[str, ...]
    pause: float
    limit: float


SMALL = Plan(20, 5, 4, ("worker-1", "triggerer-1"), 8, 300)
FULL = Plan(500, 25, 24, FAULTS, 22, 1200)


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """
    An upload of the wave.

    :param way: ``waiting``, ``alone`` or ``sensed``: who waits for its job.
    :param index: the map index of its task.
    """

    name: str
    target: str
    way: str
    index: int

    @property
    def task(self) -> tuple[str, int]:
        return {"waiting": "append_and_wait", "alone": "append", "sensed": "with_sensor.append"}[self.way], self.index

    @property
    def wait(self) -> tuple[str, int]:
        return {"waiting": "append_and_wait", "sensed": "with_sensor.wait"}[self.way], self.index

    @property
    def arguments(self) -> dict[str, str]:
        return {"target_hash": self.target, "dataset": f"s3://store@{s3.BUCKET}/{self.name}"}


@dataclasses.dataclass(frozen=True, slots=True)
class Wave:
    """The run and everything around it, after its end."""

    plan: Plan
    uploads: list[Upload]
    cluster: Cluster
    run: Run
    chaos: Chaos
    observer: Observer
    state: dict[str, Any]
    postgresql: PostgreSql
    commands: Path
    store: Any

    def task(self, upload: Upload) -> TaskInstance:
        return self.run.task(*upload.task)

    def unsaved_logs(self) -> set[tuple[str, int]]:
        """Return the tasks that ended just before a worker was killed, which had no time to save their logs."""
        kills = [at for name, at in self.chaos.times if name.startswith("worker")]
        columns = "task_id, map_index, extract(epoch FROM end_date)"
        ends = query(self.postgresql, f"SELECT {columns} FROM task_instance WHERE end_date IS NOT NULL")
        return {(task_id, index) for task_id, index, end in ends if any(0 <= at - float(end) < 10 for at in kills)}

    def stored(self) -> collections.Counter[str]:
        """Return how often each file was accepted."""
        return collections.Counter(job["filename"] for job in self.state["jobs"])


@pytest.fixture(
    scope="module", params=[pytest.param(SMALL, id="small"), pytest.param(FULL, id="full", marks=pytest.mark.long)]
)
def wave(request, tmp_path_factory):
    plan: Plan = request.param
    folder = tmp_path_factory.mktemp("cluster")
    with (
        s3.s3(folder) as port,
        PostgreSql(folder / "postgresql.log") as postgresql,
        redis(folder) as (broker, commands),
        SandboxProcess(folder, processing_seconds=JOB_SECONDS) as sandbox,
    ):
        store = s3.client(port)
        database = postgresql.url.partition("://")[2]
        env = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{database}",
            "AIRFLOW__CELERY__BROKER_URL": broker,
            "AIRFLOW_CONN_STORE": s3.connection(port),
            # A worker's log outlives it only there.
            "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
            "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": f"s3://{s3.BUCKET}/logs",
            "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "store",
        }
        uploads = list(make_uploads(plan, store, sandbox))
        with Cluster(Path(__file__).parent / "dags", home=folder / "airflow", env=env) as cluster:
            set_connection(cluster, sandbox, new=True)
            chaos = Chaos(cluster, sandbox, postgresql, plan.pause)
            waiting = [n for n, upload in enumerate(uploads) if upload.way != "alone"][: plan.held]
            held = {n: uploads[n].name for n in waiting}
            started = time.monotonic()
            with Observer(cluster, sandbox, postgresql, held, {n: uploads[n].wait for n in waiting}) as observer:
                conf = {way: [u.arguments for u in uploads if u.way == way] for way in ("waiting", "alone", "sensed")}
                run_id = cluster.api.trigger("wave", conf)
                for _ in retry_time(120):
                    if observer.all_wait():
                        break
                chaos.run(plan.faults, SEED)
                time.sleep(plan.pause)
                observer.release()
                run = wait_for_run(cluster, run_id, plan.limit - (time.monotonic() - started))
            for _ in retry_time(60):
                state = sandbox.state()
                if all(job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED") for job in state["jobs"]):
                    break
            found = Wave(plan, uploads, cluster, run, chaos, observer, state, postgresql, commands, store)
            print(table(found, time.monotonic() - started))  # noqa: T201
            yield found


def make_uploads(plan, store, sandbox):
    databases = [sandbox.add_database() for _ in range(plan.databases)]
    indices: collections.Counter[str] = collections.Counter()
    for n in range(plan.uploads):
        name, way = f"wave{n}.csv", ("waiting", "sensed", "waiting", "alone")[n % 4]
        content = "id\n" + "".join(f"{n * ROWS + row}\n" for row in range(ROWS))
        store.put_object(Bucket=s3.BUCKET, Key=name, Body=content.encode())
        yield Upload(name, databases[n % plan.databases], way, indices[way])
        indices[way] += 1


def wait_for_run(cluster, run_id, timeout):
    for _ in retry_time(timeout):
        try:
            if (run := cluster.api.run("wave", run_id)).finished:
                break
        except requests.RequestException:
            # A restarted API server is not up yet.
            continue
    return run


def table(wave, seconds):
    states = collections.Counter(str(t.state) for t in wave.run.tasks)
    attempts = collections.Counter(t.try_number for t in wave.run.tasks)
    failed = [t for t in wave.run.tasks if t.state == "failed"]
    errors = collections.Counter(wave.cluster.api.error(t).partition("\n")[0] for t in failed)
    seen = wave.observer.seen
    rows = [
        ("the run", f"{wave.run.state} after {seconds:.0f} s"),
        *((f"fault: {name}", f"{count}") for name, count in sorted(wave.chaos.caused.items())),
        *((f"restarted: {name}", f"{count}") for name, count in sorted(wave.cluster.restarts.items())),
        ("waits moved from the paused triggerer", wave.chaos.moved),
        *((f"tasks: {state}", count) for state, count in sorted(states.items())),
        *((f"error: {error}", count) for error, count in sorted(errors.items())),
        ("tasks by attempts", dict(sorted(attempts.items()))),
        ("files accepted once", sum(count == 1 for count in wave.stored().values())),
        ("files accepted more often", sum(count > 1 for count in wave.stored().values())),
        ("rows in all databases", sum(d["rows"] for d in wave.state["databases"])),
        ("most tasks in a worker at once", f"{seen.most_tasks[0]} of {2 * SLOTS} slots"),
        ("most deferred tasks at once", seen.most_deferred[0]),
        ("most connections to the database", seen.most_connections[0]),
        ("tasks sent again after task_queued_timeout", wave.cluster.count("Task stuck in queued; will try to requeue")),
        ("tasks whose process died", wave.cluster.count("Detected a task instance without a heartbeat")),
        ("samples of long waits, deferred", sum(seen.deferred.values())),
        ("samples of long waits, in a worker", sum(seen.in_a_worker.values())),
    ]
    return "\n".join(["", *(f"{name:<40} {value}" for name, value in rows)])


def test_each_fault_was_caused_and_each_process_came_back(wave):
    assert wave.chaos.caused == collections.Counter(wave.plan.faults)
    for name in set(wave.plan.faults) & set(Cluster.components):
        assert wave.cluster.restarts[name] >= wave.chaos.caused[name]
    if "pause-1" in wave.plan.faults:
        assert wave.chaos.moved > 0


def test_no_task_hangs(wave):
    assert wave.run.finished
    assert {t.state for t in wave.run.tasks} <= {"success", "failed", "upstream_failed"}
    assert {upload.task for upload in wave.uploads} <= {(t.task_id, t.map_index) for t in wave.run.tasks}


def test_each_upload_is_accepted_once_or_its_task_failed_with_an_error(wave):
    accepted = wave.stored()
    wrong = []
    for upload in wave.uploads:
        task = wave.task(upload)
        if task.state == "success":
            ok = accepted[upload.name] == 1
        else:
            message = wave.cluster.api.error(task)
            ok = accepted[upload.name] <= 1 and upload.name in message and upload.target in message
        if not ok:
            wrong.append((task, accepted[upload.name], wave.cluster.api.log(task)))
    assert wrong == []


def test_each_database_has_the_rows_of_its_uploads(wave):
    accepted = wave.stored()
    assert {job["state"] for job in wave.state["jobs"]} == {"SUCCEEDED"}
    rows = {d["hash"]: d["rows"] for d in wave.state["databases"]}
    targets = collections.Counter(upload.target for upload in wave.uploads if accepted[upload.name])
    assert rows == {target: ROWS * targets[target] for target in rows}


def test_each_sensor_saw_the_end_of_its_job(wave):
    for upload in wave.uploads:
        if upload.way == "sensed":
            states = wave.task(upload).state, wave.run.task(*upload.wait).state
            assert states in {("success", "success"), ("failed", "upstream_failed")}


def test_no_wait_holds_a_worker_slot(wave):
    seen = wave.observer.seen
    assert wave.observer.all_wait()
    assert sum(seen.in_a_worker.values()) == 0
    assert seen.most_tasks[0] <= 2 * SLOTS
    assert seen.most_deferred[0] >= wave.plan.held


def test_the_log_of_each_upload_can_be_read(wave):
    missing = {upload.task for upload in wave.uploads if upload.name not in wave.cluster.api.log(wave.task(upload))}
    assert missing <= wave.unsaved_logs()


def test_the_token_is_nowhere(wave):
    for where, known, text in everything(wave):
        # The search works.
        assert known in text, where
        for token in wave.chaos.tokens:
            assert token not in text, where


def everything(wave):
    """Yield each place that could have the token, a text that it must have, and all that it has."""
    file = wave.uploads[0].name
    files = [path for path in wave.cluster.home.rglob("*") if path.is_file()]
    yield "disk", "append_and_wait", "\n".join(path.read_text(errors="replace") for path in files)
    pages = wave.store.get_paginator("list_objects_v2").paginate(Bucket=s3.BUCKET, Prefix="logs/")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    bodies = (wave.store.get_object(Bucket=s3.BUCKET, Key=key)["Body"].read() for key in keys)
    yield "bucket", file, "\n".join(body.decode(errors="replace") for body in bodies)
    yield "database", file, wave.postgresql.dump()
    # Celery encodes the body of a message.
    commands = wave.commands.read_text(errors="replace")
    messages = re.findall(r'\\"body\\": \\"([A-Za-z0-9+/=]+)\\"', commands)
    decoded = [base64.b64decode(message).decode(errors="replace") for message in messages]
    yield "broker", "append_and_wait", "\n".join([commands, *decoded])
    yield "triggers", "DatatileJobTrigger", "\n".join(wave.observer.seen.triggers)
