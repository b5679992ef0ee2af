"""Faults of a cluster, one after the other, and what is observed of the waits meanwhile."""

from __future__ import annotations

import collections
import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.cluster.cluster import SETTINGS, Cluster
from tests.support.sandbox import SandboxProcess
from tests.support.servers import PostgreSql

CONNECTION = "datatile_default"
#: Each fault of the full run. The processes of a kind are killed twice.
FAULTS = (
    *("worker-1", "worker-2", "triggerer-1", "triggerer-2", "scheduler-1", "scheduler-2"),
    *("api-server", "api-server", "dag-processor", "dag-processor"),
    *("token", "sandbox", "postgresql", "pause-1", "pause-2"),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the samples have seen of the waits for the held jobs, from their first deferral until the release."""

    deferred: collections.Counter[int] = field(default_factory=collections.Counter)
    in_a_worker: collections.Counter[int] = field(default_factory=collections.Counter)
    #: The largest number at once: of tasks that were deferred or in a worker, and of connections to the database.
    most_deferred: list[int] = field(default_factory=lambda: [0])
    most_tasks: list[int] = field(default_factory=lambda: [0])
    most_connections: list[int] = field(default_factory=lambda: [0])
    #: Each trigger's class with its decrypted arguments.
    triggers: set[str] = field(default_factory=set)


class Observer:
    """
    Holds some jobs, so that their waits last until the release, and samples who runs these waits.

    :param held: the names of the files whose jobs are held, by the upload's number.
    :param waits: the id and the map index of the task that waits for an upload, by the upload's number.
    """

    def __init__(
        self,
        cluster: Cluster,
        sandbox: SandboxProcess,
        postgresql: PostgreSql,
        held: dict[int, str],
        waits: dict[int, tuple[str, int]],
    ) -> None:
        self._cluster, self._sandbox, self._postgresql = cluster, sandbox, postgresql
        self._held = held
        self._numbers = {waits[number]: number for number in held}
        self._jobs: dict[str, str] = {}
        self._stopped = threading.Event()
        self._released = False
        self._thread = ThreadPoolExecutor(1)
        self.seen = Seen()

    def __enter__(self) -> Observer:
        self._watching = self._thread.submit(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._watching.result()

    def all_wait(self) -> bool:
        """Return whether the wait of each held job has been seen in a triggerer."""
        return set(self.seen.deferred) == set(self._held)

    def release(self) -> None:
        self._released = True
        for job in self._jobs.values():
            self._sandbox.release(job)

    def _watch(self) -> None:
        while not self._stopped.wait(2):
            # The sandbox or the database may be down at this moment.
            with contextlib.suppress(requests.RequestException):
                self._hold()
            self._sample()

    def _hold(self) -> None:
        names = set(self._held.values()) - set(self._jobs)
        if self._released or not names:
            return
        for job in self._sandbox.state()["jobs"]:
            if job["filename"] in names:
                self._sandbox.hold(job["job_id"])
                self._jobs[job["filename"]] = job["job_id"]

    def _sample(self) -> None:
        tasks = self._cluster.task_processes()
        rows = query(self._postgresql, "SELECT id, task_id, map_index, state FROM task_instance WHERE dag_id = 'wave'")
        deferred = sum(state == "deferred" for *_, state in rows)
        self.seen.most_deferred[0] = max(self.seen.most_deferred[0], deferred)
        self.seen.most_tasks[0] = max(self.seen.most_tasks[0], len(tasks))
        connections = query(self._postgresql, "SELECT count(*) FROM pg_stat_activity WHERE datname = 'airflow'")
        self.seen.most_connections[0] = max([self.seen.most_connections[0], *(count for (count,) in connections)])
        for path, kwargs in query(self._postgresql, "SELECT classpath, kwargs FROM trigger"):
            self.seen.triggers.add(f"{path} {self._cluster.decrypt(kwargs)}")
        if self._released:
            return
        for key, task_id, map_index, state in rows:
            number = self._numbers.get((task_id, map_index))
            if number is None or self._held[number] not in self._jobs:
                continue
            # Until it is first seen as deferred, the task starts, uploads, or is about to defer.
            self.seen.in_a_worker[number] += self.seen.deferred[number] > 0 and key in tasks
            self.seen.deferred[number] += state == "deferred"


class Chaos:
    """
    Causes the faults.

    :param pause: seconds between two faults.
    """

    def __init__(self, cluster: Cluster, sandbox: SandboxProcess, postgresql: PostgreSql, pause: float) -> None:
        self._cluster, self._sandbox, self._postgresql = cluster, sandbox, postgresql
        self._seconds = pause
        self.caused: collections.Counter[str] = collections.Counter()
        #: What was killed or paused, and when, in seconds since the epoch.
        self.times: list[tuple[str, float]] = []
        #: Waits that went to the other triggerer while one was paused, which still held them.
        self.moved = 0
        self.tokens = [sandbox.token]

    def run(self, faults: Sequence[str], seed: int) -> None:
        """Cause each fault once, in a random order."""
        order = list(faults)
        random.Random(seed).shuffle(order)
        for name in order:
            time.sleep(self._seconds)
            others: dict[str, Callable[[], None]] = {
                "token": self._replace_token,
                "sandbox": self._restart_sandbox,
                "postgresql": self._restart_postgresql,
                "pause-1": lambda: self._pause("triggerer-1"),
                "pause-2": lambda: self._pause("triggerer-2"),
            }
            others.get(name, lambda name=name: self._cluster.kill(name))()
            self.caused[name] += 1
            self.times.append((name, time.time()))

    def _replace_token(self) -> None:
        self.tokens.append(self._sandbox.regenerate_token())
        # A person takes a moment.
        time.sleep(3)
        set_connection(self._cluster, self._sandbox)

    def _restart_sandbox(self) -> None:
        self._sandbox.kill()
        time.sleep(3)
        self._sandbox.start()

    def _restart_postgresql(self) -> None:
        self._postgresql.stop()
        time.sleep(3)
        self._postgresql.start()

    def _pause(self, name: str) -> None:
        before = self._triggerers()
        self._cluster.pause(name)
        time.sleep(2 * float(SETTINGS["AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD"]))
        after = self._triggerers()
        self._cluster.resume(name)
        self.moved += sum(after.get(trigger, triggerer) != triggerer for trigger, triggerer in before.items())

    def _triggerers(self) -> dict[int, int]:
        rows = query(self._postgresql, "SELECT id, triggerer_id FROM trigger WHERE triggerer_id IS NOT NULL")
        return dict(rows)


def set_connection(cluster: Cluster, sandbox: SandboxProcess, *, new: bool = False) -> None:
    """Store the connection to the sandbox in Airflow's database, with the sandbox's current token."""
    given = json.loads(sandbox.connection())
    body = {"connection_id": CONNECTION, **given, "extra": json.dumps(given["extra"])}
    # The API server may be down at this moment.
    for _ in retry_time(60):
        with contextlib.suppress(requests.ConnectionError):
            cluster.api.call(*(("POST", "connections") if new else ("PATCH", f"connections/{CONNECTION}")), json=body)
            return
    raise TimeoutError("the API server did not respond")


def retry_time(timeout: float) -> Iterator[None]:
    """Yield once a second until the timeout in seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        yield
        time.sleep(1)


def query(postgresql: PostgreSql, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement; none if the database is down."""
    import psycopg2

    try:
        with (
            contextlib.closing(psycopg2.connect(postgresql.url, connect_timeout=5)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return list(cursor.fetchall())
    except psycopg2.OperationalError:
        return []
