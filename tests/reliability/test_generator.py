"""
Exactly once, or loud: the real operator and the real sensor against a server that speaks in any style.

Each example is a plan, drawn from a seed: two servers with a dialect each, one task, and what befalls it process by
process. ``GENERATOR_SECONDS=3600`` looks for an hour with fresh seeds; ``GENERATOR_SEED=7`` runs that one alone, and
``GENERATOR_PLAN="Plan(...)"`` a plan as a failure prints it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import itertools
import json
import logging
import os
import random
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    Asset,
    TaskDeferred,
)

from datatile_provider.decorators.datatile import DatatileUploadDecoratedOperator
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.reliability.model_server import (
    LARGE,
    PASSING,
    POLLS,
    SHAPES,
    STRANGE,
    TRUTHFUL,
    Copy,
    Dialect,
    ModelServer,
    Script,
)
from tests.reliability.task import Instance, Store

T = TypeVar("T")

#: What makes waits short. Should one of these move, it moves here.
QUICKLY = {
    "datatile_provider.api.retrying._FIRST": 0.01,
    "datatile_provider.api.retrying._LONGEST": 0.1,
    "datatile_provider.api.waiting.GRACE": 0.4,
    "datatile_provider.operators.datatile.SHORT_WAIT": 0.0,
    "datatile_provider.operators.datatile.CONFIRM_PAUSE": 0.01,
    "datatile_provider.hooks.datatile._PAUSE": 0.02,
    "datatile_provider.operators.memory.PATIENCE": 0.02,
    "datatile_provider.operators.memory._PAUSE": 0.005,
}
#: A busy machine must not make a few refused polls last too long where all must end well.
PATIENTLY = {"datatile_provider.api.waiting.GRACE": 5.0}
#: Where the trigger reads its connection; it falls back on the hook's own way when this finds none.
ASYNC_CONNECTION = "airflow.providers.common.compat.connection.get_async_connection"

SECONDS = float(os.environ.get("GENERATOR_SECONDS", "0"))
#: Seconds after which a process of a task counts as hanging.
BOUND = 20.0
#: A file that is larger than all that the sockets between client and server hold.
BIG = 6 << 20


class Death(BaseException):
    """The worker is gone."""


class Hang(BaseException):
    """A process of the task did not end."""


class OutletTrouble(Exception):
    """What a listener, or an asset's event, may raise once the file is sent."""


class Violation(AssertionError):
    """What must never happen."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


@dataclass(frozen=True)
class Step:
    """
    One process of the task: an attempt, or its resumption; and what people change before it.

    :param changes: what is another now: file, path, target, action, server, retries 0 to 3, record without its job id.
    :param clear: a person clears the task, ended or not. One that has ended is always cleared.
    :param uploads: what becomes of its uploads.
    :param polls: what becomes of its polls of a job.
    :param down: how many connections the server refuses before that.
    :param fates: how the jobs end whose bodies it brings, after how many polls.
    :param ends_at: the point of its code at which it ends before its time; counted from an upload's first byte, if
        it is less than zero.
    :param times_out: it does so by its ``execution_timeout``; else the worker dies.
    :param outage: which calls of the state store fail: from which on, how many, and whether they do their work first.
    :param connection_lost_at: which read of the connection finds none, counted once a body is held or a job is seen.
    :param outlet_fails: the description of an outlet raises.
    :param report_lost: Airflow does not hear how it ended.
    :param trigger_breaks: the triggerer dies over the wait that this process resumes from.
    """

    changes: tuple[str, ...] = ()
    clear: bool = False
    uploads: tuple[str, ...] = ()
    polls: tuple[str, ...] = ()
    down: int = 0
    fates: tuple[tuple[str, int], ...] = ()
    ends_at: int | None = None
    times_out: bool = False
    outage: tuple[int, int, bool] | None = None
    connection_lost_at: int | None = None
    outlet_fails: bool = False
    report_lost: bool = False
    trigger_breaks: bool = False


@dataclass(frozen=True)
class Plan:
    """
    One example.

    :param kind: ``rough``; ``mild``, which must end well without a person; or ``sensor``.
    :param waits: ``no``, ``in the worker`` or ``deferred``.
    :param mild: a sensor that must end well.
    :param limit: the task's ``execution_timeout``, which the triggerer looks at.
    :param others: the states of other people's jobs on the servers A and B.
    :param fate: how the job of a sensor ends.
    """

    kind: str = "rough"
    action: str = "append"
    waits: str = "no"
    decorated: bool = False
    mild: bool = False
    retries: int = 0
    stored: bool = True
    outlets: bool = False
    limit: float | None = None
    big: bool = False
    dialects: tuple[Dialect, Dialect] = (Dialect(), Dialect())
    others: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    fate: tuple[str, int] = ("succeeded", 1)
    steps: tuple[Step, ...] = (Step(),)

    @property
    def must_end_well(self) -> bool:
        return self.kind == "mild" or self.mild


# Drawing.

#: No path leads to the status in one, and nobody need take a job for a success that has errors beside it.
UNREADABLE = ("listed", "rows")


def pick(rng: random.Random, weights: dict[T, float]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]


def some(rng: random.Random, names: list[str], most: int) -> tuple[str, ...]:
    return tuple(rng.choice(names) for _ in range(rng.randint(0, most)))


def draw(seed: int) -> Plan:
    """Return the plan of a seed."""
    rng = random.Random(seed)
    kind = pick(rng, {"rough": 6, "mild": 2, "sensor": 2})
    return {"rough": draw_rough, "mild": draw_mild, "sensor": draw_sensor}[kind](rng)


def draw_dialect(rng: random.Random, *, readable: bool = False) -> Dialect:
    shape = rng.choice([*SHAPES, "flat", "id", "jsend"])
    configured = rng.random() < 0.4
    if shape == "bare" or (readable and shape not in ("flat", "id", "jsend")):
        # {"status": …} alone can't be told from an envelope, and the others hold the status where nobody must look.
        configured = True
    if readable and shape in UNREADABLE:
        shape, configured = "jsonapi", True
    path = Dialect.job_path if rng.random() < 0.85 else rng.choice(["tasks/{job_id}", "api/v2/job?id={job_id}"])
    return Dialect(shape, configured, path, busy=rng.random() < 0.15)


def draw_others(rng: random.Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    def states() -> tuple[str, ...]:
        return tuple(rng.choice(["succeeded", "succeeded", "failed"]) for _ in range(rng.choice([0, 0, 1, 3])))

    return states(), states()


def draw_fate(rng: random.Random, *, good: bool = False) -> tuple[str, int]:
    # The slowest job is not finished while a rough plan's wait lasts.
    return (
        "succeeded" if good or rng.random() < 0.8 else "failed",
        rng.choice([0, 0, 1, 1, 2, 2, 4, 1 if good else 60]),
    )


def draw_polls(rng: random.Random, most: int) -> tuple[str, ...]:
    # Each silence costs a timeout.
    return tuple(p if p != "silence" or rng.random() < 0.1 else "error" for p in some(rng, list(POLLS), most))


def draw_step(rng: random.Random, plan: dict[str, Any], first: bool) -> Step:
    changes: list[str] = []
    if not first:
        changes = [name for name in plan["changes"] if rng.random() < CHANGES[name]]
        changes = [f"retries {rng.randint(0, 3)}" if name == "retries" else name for name in changes]
    uploads: tuple[str, ...] = ()
    if rng.random() < 0.5:
        names = pick(rng, {tuple(STRANGE): 3, tuple(TRUTHFUL): 1})
        found = [name for name in some(rng, list(names), 2) if plan["big"] or name not in LARGE]
        uploads = tuple(n if "silence" not in n or rng.random() < 0.2 else n.replace("silence", "gone") for n in found)
    return Step(
        changes=tuple(changes),
        clear=not first and rng.random() < 0.35,
        uploads=uploads,
        polls=draw_polls(rng, 3) if rng.random() < 0.5 else (),
        down=rng.choice([0] * 8 + [1, 4]),
        fates=tuple(draw_fate(rng) for _ in range(2)),
        ends_at=rng.choice([rng.randint(1, 26), -rng.randint(1, 15)]) if rng.random() < 0.3 else None,
        times_out=rng.random() < 0.4,
        outage=(rng.randint(1, 4), rng.choice([1, 4, 99]), rng.random() < 0.5) if rng.random() < 0.12 else None,
        connection_lost_at=rng.randint(1, 3) if rng.random() < 0.1 else None,
        outlet_fails=plan["outlets"] and rng.random() < 0.4,
        report_lost=rng.random() < 0.08,
        trigger_breaks=rng.random() < 0.06,
    )


#: What people change, and how often where they change it at all: few things at once, so that each goes far.
CHANGES = {"file": 0.5, "path": 0.4, "target": 0.4, "action": 0.5, "server": 0.5, "retries": 0.5, "record": 0.1}


def draw_rough(rng: random.Random) -> Plan:
    waits = pick(rng, {"no": 3, "in the worker": 2, "deferred": 4})
    plan: dict[str, Any] = {
        "kind": "rough",
        "action": pick(rng, {"append": 5, "create": 3, "reload": 1}),
        "waits": waits,
        "decorated": rng.random() < 0.25,
        "retries": rng.choice([0, 1, 1, 2, 3]),
        "stored": rng.random() < 0.7,
        "outlets": rng.random() < 0.3,
        "limit": 0.3 if waits == "deferred" and rng.random() < 0.1 else None,
        "big": rng.random() < 0.12,
        "dialects": (draw_dialect(rng), draw_dialect(rng)),
        "others": draw_others(rng),
        "changes": [name for name in CHANGES if rng.random() < 0.3],
    }
    steps = tuple(draw_step(rng, plan, first=not number) for number in range(rng.choice([1, 2, 2, 3, 3, 4, 5])))
    del plan["changes"]
    return Plan(**plan, steps=steps)


def draw_mild(rng: random.Random) -> Plan:
    big = rng.random() < 0.3
    uploads = some(rng, [name for name in PASSING if big or name not in LARGE], 3)
    step = Step(
        uploads=uploads,
        # A refusal ends a wait only when it lasts.
        polls=draw_polls(rng, 4),
        down=rng.choice([0, 0, 0, 1, 3]),
        fates=(draw_fate(rng, good=True),),
        connection_lost_at=rng.randint(1, 3) if rng.random() < 0.15 else None,
    )
    return Plan(
        kind="mild",
        action=pick(rng, {"append": 5, "create": 3, "reload": 1}),
        waits=pick(rng, {"no": 1, "in the worker": 2, "deferred": 2}),
        decorated=rng.random() < 0.25,
        stored=rng.random() < 0.7,
        big=big,
        dialects=(draw_dialect(rng, readable=True), Dialect()),
        others=draw_others(rng),
        steps=(step,),
    )


def draw_sensor(rng: random.Random) -> Plan:
    mild = rng.random() < 0.4

    def step(first: bool) -> Step:
        moves = not first and rng.random() < 0.2
        return Step(
            changes=("server",) if moves else (),
            clear=moves or (not first and rng.random() < 0.2),
            polls=draw_polls(rng, 4),
            down=rng.choice([0] * 5 + [1]),
            ends_at=rng.randint(1, 12) if not mild and rng.random() < 0.2 else None,
            times_out=rng.random() < 0.5,
            connection_lost_at=rng.randint(1, 3) if rng.random() < 0.15 else None,
            trigger_breaks=not mild and rng.random() < 0.05,
        )

    return Plan(
        kind="sensor",
        mild=mild,
        waits=rng.choice(["in the worker", "deferred"]),
        retries=0 if mild else rng.randint(0, 2),
        dialects=(draw_dialect(rng, readable=mild), draw_dialect(rng)),
        others=draw_others(rng),
        fate=draw_fate(rng, good=mild),
        steps=tuple(step(first=not number) for number in range(1 if mild else rng.randint(1, 3))),
    )


# Playing.


class PatchyStore(Store):
    """The state store behind an API server that may be down, before or after it has done what it was asked."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life

    def _call(self, do: Callable[..., Any], *arguments: Any) -> Any:
        life = self._life
        life.point()
        life.store_calls += 1
        first, many, after = life.step.outage or (0, 0, False)
        down = first <= life.store_calls < first + many
        found = None if down and not after else do(*arguments)
        life.point()
        if down:
            # Airflow 2 has neither, and yet reads this file.
            from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
            from airflow.sdk.execution_time.comms import ErrorResponse

            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))
        return found

    def get(self, key: str, default: Any = None) -> Any:
        return self._call(super().get, key, default)

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        self._call(super().set, key, value)

    def delete(self, key: str) -> None:
        self._call(super().delete, key)


class PointedInstance(Instance):
    """A task instance whose pushes are points at which its process may end."""

    def __init__(self, life: Life, max_tries: int) -> None:
        super().__init__(max_tries)
        self._life = life

    def xcom_push(self, key: str, value: Any) -> None:
        self._life.point()
        super().xcom_push(key, value)
        self._life.point()


class Outlets(dict[Any, Any]):
    """The events of a task's outlets."""

    def __init__(self, life: Life) -> None:
        super().__init__()
        self._life = life

    def __getitem__(self, outlet: Any) -> Any:
        self._life.point()
        if self._life.step.outlet_fails:
            raise OutletTrouble("the asset's event could not be described")
        return type("Event", (), {"extra": {}})


class Life:
    """
    One task instance under Airflow's rules, from its first attempt to the end of its plan.

    :param folder: where its files stand.
    """

    def __init__(self, plan: Plan, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.plan, self.folder, self._patch = plan, folder, patch
        self.script = Script(on_held=self._held)
        names = ("A", "B")
        self.servers = {
            name: ModelServer(name, dialect, self.script, others)
            for name, dialect, others in zip(names, plan.dialects, plan.others, strict=True)
        }
        self.server = "A"
        self.action, self.target, self.retries = plan.action, "target-1", plan.retries
        self.files = 0
        self._new_file("wave.csv")
        self.ti = PointedInstance(self, plan.retries)
        self.store = PatchyStore(self)
        self.state = "scheduled"
        self.deferred: TaskDeferred | None = None
        self.step = Step()
        self.active = False
        self.points = self.points_since_post = self.store_calls = self.reads = self.down = 0
        # Whether a first byte has left, since a person cleared the task and in this process.
        self.posted = self.posting = False
        #: What the task was about since a person cleared it last: a retry may be about what the attempt before was.
        self.about: set[tuple[str, str, str, str]] = set()
        self.violations: list[Violation] = []
        self.errors: list[BaseException] = []
        self.job_id = ""

    # The world.

    def _new_file(self, name: str) -> None:
        self.files += 1
        self.content = f"content-{self.files}"
        self.file = self.folder / name
        with self.file.open("wb") as file:
            file.write(f"{self.content}\n".encode())
            # Each is longer than the one before: a clock that stands still must not make two versions one.
            file.write(b"x" * ((BIG if self.plan.big else 0) + self.files))

    def connect(self) -> None:
        hangs = any("silence" in name for name in (*self.step.uploads, *self.step.polls))
        timeout = 5.0 if not hangs else 1.0 if self.plan.must_end_well else 0.3
        connection = self.servers[self.server].connection(timeout)
        self._patch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", connection)

    def point(self) -> None:
        """A point at which the process may end before its time."""
        if not self.active or threading.current_thread() is not threading.main_thread():
            return
        self.points += 1
        self.points_since_post += self.posting
        at = self.step.ends_at
        if not at or at not in (self.points, -self.points_since_post):
            return
        if self.step.times_out:
            self.script.log.append("the execution times out")
            raise AirflowTaskTimeout("Timeout")
        # Where nothing outlives the worker, its death is a hole that the docs name.
        if self.plan.stored or not self.posted or self.plan.kind == "sensor":
            self.script.log.append("the worker dies")
            raise Death

    def read_connection(self) -> None:
        """A read of the connection, which may find none once there is something to lose."""
        begun = self.script.polled if self.plan.kind == "sensor" else any(self.copies())
        if begun:
            self.reads += 1
            if self.reads == self.step.connection_lost_at:
                self.script.log.append("the connection is not found")
                raise AirflowNotFoundException("The conn_id `datatile_default` isn't defined")

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the task is about now."""
        return self.server, self.target, self.action, self.content

    def copies(self) -> Iterator[Copy]:
        for server in self.servers.values():
            yield from server.copies

    def _held(self, copy: Copy) -> None:
        if copy.action == "reload":
            return
        for before in self.copies():
            same = before is not copy and before.key == copy.key
            if same and before.state != "failed" and not before.settled:
                told = "named, but nobody cleared the task since" if before.named else "named by no error"
                self.violations.append(
                    Violation("1 twice", f"{copy.server} holds {copy.content} as {before.job_id} ({told}) and as "
                              f"{copy.job_id}")
                )  # fmt: skip

    def _tell(self, text: str) -> None:
        """Take in what a person can read: which copies it names, truly."""
        servers = {name for name, server in self.servers.items() if server.address in text}
        for copy in self.copies():
            if servers and copy.server not in servers:
                continue
            # Within a path it is where a redirection leads, and nobody says what that means.
            if re.search(rf"(?<![\w/=-]){copy.job_id}(?![\w-])", text):
                says_failed = re.search(rf"job {copy.job_id} (has )?(failed|was cancelled)", text, re.IGNORECASE)
                copy.named |= not says_failed or copy.state == "failed"
            elif re.search("unknown|not known", text, re.IGNORECASE) and copy.target in text:
                copy.named = True

    # People.

    def change(self, what: str) -> None:
        self.script.log.append(f"changed: {what}")
        if what == "file":
            self._new_file(self.file.name)
        elif what == "path":
            self._new_file(f"wave-{self.files}.csv")
        elif what == "target":
            self.target = f"target-{int(self.target[-1]) + 1}"
        elif what == "action":
            self.action = "reload" if self.action == self.plan.action else self.plan.action
            if self.plan.action == "reload":
                self.action = "append" if self.action == "reload" else "reload"
        elif what == "server":
            # Never back: a person who sends the same file to A, to B and to A again may mean it.
            self.server = "B"
        elif what == "record":
            for key, row in self.store.rows.items():
                record = json.loads(row)
                if isinstance(record, dict) and record.get("job_id"):
                    self.store.rows[key] = json.dumps({**record, "job_id": ""})
        else:
            self.retries = int(what.split()[1])

    def clear(self) -> None:
        self.script.log.append("cleared")
        ended = self.state in ("success", "failed")
        records = " ".join(self.store.rows.values())
        for copy in self.copies():
            # That a clear of a green task sends again is documented, and that any does where nothing is remembered.
            green = self.state == "success" and copy.key in self.about
            # So is it that a task which is about something else now leaves the job alone that it knows of.
            left = copy.key != self.key and re.search(rf"\b{copy.job_id}\b", records)
            if copy.named or green or left or not (ended or self.plan.stored):
                copy.settled = True
        self.ti.max_tries = self.ti.try_number + self.retries
        self.state, self.deferred = "scheduled", None
        self.about.clear()
        self.posted = False

    # Airflow.

    def operator(self) -> Any:
        waits = self.plan.waits
        options: dict[str, Any] = {
            "task_id": "upload",
            "execution_timeout": timedelta(seconds=self.plan.limit) if self.plan.limit else None,
            "deferrable": waits == "deferred",
            "timeout": 15.0 if self.plan.must_end_well else 0.4,
            "retries": self.retries,
        }
        if self.plan.kind == "sensor":
            return DatatileJobSensor(job_id=self.job_id, poke_interval=0.02, **options)
        options |= {
            "action": self.action,
            "target_hash": self.target,
            "wait_for_completion": waits != "no",
            "poll_interval": 0.02,
            "accept_timeout": 15.0 if self.plan.kind == "mild" else 1.5,
        }
        if self.plan.outlets:
            options["outlets"] = [Asset(uri="datatile://datatile.example.com/databases/f00d")]
        if self.plan.decorated:
            path = str(self.file)
            return DatatileUploadDecoratedOperator(python_callable=lambda: path, op_args=[], op_kwargs={}, **options)
        return DatatileUploadOperator(dataset=str(self.file), **options)

    def run(self, step: Step) -> None:
        """Run one process of the task."""
        self.step = step
        for change in step.changes:
            self.change(change)
        if step.clear or self.state in ("success", "failed"):
            self.clear()
        self.script.uploads, self.script.polls = deque(step.uploads), deque(step.polls)
        self.script.fates = deque(step.fates)
        self.points = self.points_since_post = self.store_calls = self.reads = 0
        self.down, self.posting = step.down, False
        self.connect()
        self.about.add(self.key)
        context: dict[str, Any] = {"ti": self.ti, "outlet_events": Outlets(self)}
        if self.plan.stored:
            context["task_state_store"] = self.store
        result: Any = None
        error: BaseException | None = None
        began = time.monotonic()
        try:
            result = self._process(context)
        except TaskDeferred as e:
            self.script.log.append(f"deferred to {e.method_name}")
            self.state, self.deferred = "deferred", e
        except BaseException as e:
            if isinstance(e, KeyboardInterrupt):
                raise
            error = e
        finally:
            self.active, self.down = False, 0
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._end(result, error)
        if time.monotonic() - began > BOUND:
            raise Violation("3 hang", f"a process took {time.monotonic() - began:.0f} s")

    def _process(self, context: Any) -> Any:
        signal.setitimer(signal.ITIMER_REAL, BOUND)
        deferred, self.deferred = self.deferred, None
        if deferred is None:
            self.ti.begin_try()
            self.ti.start_date = datetime.now(timezone.utc)
        method, kwargs = "", {}
        if deferred:
            method = deferred.method_name
            path, arguments = deferred.trigger.serialize()
            stored = json.loads(json.dumps({"trigger": [path, arguments], "kwargs": deferred.kwargs or {}}))
            if self.step.trigger_breaks:
                self.script.log.append("the trigger breaks")
                method, kwargs = "__fail__", {"error": "Trigger failure"}
            else:
                event = asyncio.run(self._event(*stored["trigger"]))
                self.script.log.append(f"the trigger says {event}")
                kwargs = {**stored["kwargs"], "event": event}
        operator = self.operator()
        self.active = True
        operator.pre_execute(context)
        if deferred:
            return operator.resume_execution(method, kwargs, context)
        return operator.execute(context)

    async def _event(self, path: str, arguments: dict[str, Any]) -> Any:
        module, _, name = path.rpartition(".")
        trigger = getattr(import_module(module), name)(**arguments)
        async for event in trigger.run():
            return json.loads(json.dumps(event.payload))

    def _end(self, result: Any, error: BaseException | None) -> None:
        if error:
            self.script.log.append(f"raised {type(error).__name__}: {error}")
            _drop_frames(error)
        gone = self.plan.big or self.step.times_out or isinstance(error, (Death, AirflowTaskTimeout))
        for server in self.servers.values():
            if gone and not server.settle():
                gc.collect()
                assert server.settle(), "a connection stays open"
            if server.crash:
                raise server.crash
        if error:
            self._check_kind(error)
            self._tell(str(error))
            self.errors.append(error)
        for row in self.store.rows.values():
            # What a record says was raised by an attempt that could tell nobody, or will be raised.
            if '"told"' in row or '"done"' in row:
                self._tell(row)
        if result is not None:
            self.script.log.append(f"returned {result!r}")
            self._check_green(result)
        if self.violations:
            raise self.violations[0]
        if self.deferred:
            return
        lost = self.step.report_lost and self.plan.stored
        final = isinstance(error, (AirflowFailException, AirflowSensorTimeout))
        if error is None and not lost:
            self.state = "success"
        elif (final and not lost) or self.ti.try_number > self.ti.max_tries:
            self.state = "failed"
        else:
            self.state = "scheduled"

    def _check_kind(self, error: BaseException) -> None:
        if isinstance(error, Hang):
            raise Violation("3 hang", f"a process did not end within {BOUND:.0f} s")
        outage = type(error).__name__ == "AirflowRuntimeError" and self.step.outage is not None
        known = (AirflowException, Death, AirflowTaskTimeout, OutletTrouble)
        if not isinstance(error, known) and not outage:
            raise Violation("3 traceback", f"{type(error).__name__}: {error}")

    def _check_green(self, result: Any) -> None:
        if self.plan.kind == "sensor":
            job = self.servers[self.server].jobs.get(self.job_id)
            if not job or job.state != "succeeded":
                raise Violation("2 green", f"{self.job_id} is {job.state if job else 'unknown'} on {self.server}")
            return
        own = [copy for copy in self.copies() if copy.key in self.about]
        found = [copy for copy in own if copy.job_id == result]
        if not found:
            raise Violation("2 green", f"{result!r} is no job of what the task is about, but {_ids(own)}")
        if self.plan.waits != "no" and not any(copy.state == "succeeded" for copy in found):
            raise Violation("2 green", f"{result} has not succeeded: {found}")
        if all(copy.said_failed for copy in found):
            raise Violation("2 green", f"the server has said that {result} failed")


def _ids(copies: list[Copy]) -> list[str]:
    return [f"{copy.server}:{copy.job_id}" for copy in copies]


def _drop_frames(error: BaseException | None) -> None:
    """Let go of what a traceback keeps alive, as sockets: a process that has ended keeps nothing."""
    while error:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def world(plan: Plan) -> Iterator[Life]:
    """Two servers and a task, and all that makes points and short waits."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        folder = stack.enter_context(TemporaryDirectory())
        for name, value in {**QUICKLY, **(PATIENTLY if plan.must_end_well else {})}.items():
            patch.setattr(name, value)
        life = Life(plan, Path(folder), patch)
        for server in life.servers.values():
            stack.enter_context(server)
        read = DatatileHook.get_connection

        def get_connection(cls: type, conn_id: str) -> Any:
            life.read_connection()
            return read(conn_id)

        async def find_none(conn_id: str) -> Any:
            raise AirflowNotFoundException(conn_id)

        patch.setattr(DatatileHook, "get_connection", classmethod(get_connection))
        patch.setattr(ASYNC_CONNECTION, find_none)
        for name in ("connect", "sendall", "recv_into"):
            patch.setattr(socket.socket, name, _pointed(life, name, getattr(socket.socket, name)))

        def hang(number: int, frame: Any) -> None:
            raise Hang

        before = signal.signal(signal.SIGALRM, hang)
        stack.callback(signal.signal, signal.SIGALRM, before)
        stack.enter_context(_silence())
        yield life


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Log nothing: nobody would read what an hour of this logs."""
    # Airflow 2 has none, and yet reads this file.
    import structlog

    def drop(*event: Any) -> Any:
        raise structlog.DropEvent

    # In its place, as loggers that are made keep hold of the list.
    processors: list[Any] = structlog.get_config()["processors"]
    processors.insert(0, drop)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        processors.remove(drop)


def _pointed(life: Life, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call of a socket with a point before and after it, for the task's own thread."""

    def pointed(sock: Any, *arguments: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            life.point()
            if name == "connect" and life.down:
                life.down -= 1
                life.script.log.append("connection refused")
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            if name == "sendall" and bytes(arguments[0][:4]) == b"POST":
                life.posted = life.posting = True
        found = call(sock, *arguments)
        life.point()
        return found

    return pointed


def play(plan: Plan) -> list[str]:
    """
    Play a plan, and go on with a world in which all goes well until the task has ended.

    :return: what happened.
    :raises Violation: what must never happen did; it tells what happened before.
    """
    with world(plan) as life:
        try:
            if plan.kind == "sensor":
                for server in life.servers.values():
                    # Not on both: a job that A has and B has not is a wrong connection.
                    if server.name == "A" or not plan.others[1]:
                        life.job_id = server.hold("theirs", "append", "watched", *plan.fate).job_id
                        break
            for step in plan.steps:
                life.run(step)
            end = time.monotonic() + BOUND
            while life.state not in ("success", "failed") and time.monotonic() < end:
                # What was to come while the task waits comes when it is deferred, too.
                life.run(Step(polls=tuple(life.script.polls), uploads=tuple(life.script.uploads)))
            if plan.must_end_well and life.state != "success":
                raise Violation("4 lost", f"{type(life.errors[-1]).__name__}: {life.errors[-1]}")
            if life.state not in ("success", "failed"):
                raise Violation("3 hang", f"the task is still {life.state}")
        except Violation as e:
            e.args = (f"{e.args[0]}\n  " + "\n  ".join(_folded(life.script.log)),)
            raise
        return life.script.log


def _folded(log: list[str]) -> list[str]:
    found = [(line, len(list(lines))) for line, lines in itertools.groupby(log)]
    return [line if times == 1 else f"{line} ({times} times)" for line, times in found]


# Making a failure small.


def shrink(plan: Plan, rule: str, seconds: float = 40.0) -> Plan:
    """Return a plan that breaks the same rule, with as little in it as can be found in so many seconds."""
    end = time.monotonic() + seconds
    smaller: Plan | None = plan
    while smaller:
        plan = smaller
        smaller = next((p for p in _smaller(plan) if time.monotonic() < end and _breaks(p, rule)), None)
    return plan


def _failure(plan: Plan) -> Violation | None:
    try:
        play(plan)
    except Violation as e:
        return e
    return None


def _breaks(plan: Plan, rule: str) -> bool:
    # A plan that was made smaller may make no sense.
    with contextlib.suppress(ValueError, KeyError, AssertionError):
        failure = _failure(plan)
        return failure is not None and failure.rule == rule
    return False


def _smaller(plan: Plan) -> Iterator[Plan]:
    for number in range(len(plan.steps)):
        if len(plan.steps) > 1:
            yield dataclasses.replace(plan, steps=plan.steps[:number] + plan.steps[number + 1 :])
    keep = ("steps", "kind", "waits", "mild", "dialects")
    # With a small file, nobody could see that its last byte has not left.
    keep += ("big",) if any(name in LARGE for step in plan.steps for name in step.uploads) else ()
    for name, value in _defaults(plan, without=keep):
        yield dataclasses.replace(plan, **{name: value})
    for number, dialect in enumerate(plan.dialects):
        for name, value in _defaults(dialect):
            mended = dataclasses.replace(dialect, **{name: value})
            if mended.configured or (mended.shape != "bare" and mended.job_path == Dialect.job_path):
                yield dataclasses.replace(plan, dialects=_with(plan.dialects, number, mended))
    for number, step in enumerate(plan.steps):
        for name, value in _defaults(step):
            yield dataclasses.replace(plan, steps=_with(plan.steps, number, dataclasses.replace(step, **{name: value})))
        for name in ("changes", "uploads", "polls", "fates"):
            for at in range(len(found := getattr(step, name))):
                if len(found) > 1:
                    less = dataclasses.replace(step, **{name: found[:at] + found[at + 1 :]})
                    yield dataclasses.replace(plan, steps=_with(plan.steps, number, less))


def _with(values: tuple[Any, ...], number: int, value: Any) -> Any:
    return (*values[:number], value, *values[number + 1 :])


def _defaults(value: Any, without: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(value):
        if field.name not in without and getattr(value, field.name) != field.default:
            yield field.name, field.default


def code(value: Any) -> str:
    """Return a plan as the Python that makes it, without what is as usual."""
    if dataclasses.is_dataclass(value):
        parts = [f"{name}={code(getattr(value, name))}" for name, _ in _defaults(value)]
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple):
        return f"({''.join(f'{code(v)}, ' for v in value).rstrip()})"
    return repr(value)


def seeds() -> Iterator[int]:
    """Yield the seeds to try: one that is asked for, fresh ones for so long, or always the same few."""
    if "GENERATOR_SEED" in os.environ:
        yield int(os.environ["GENERATOR_SEED"])
        return
    end = time.monotonic() + (SECONDS or 25.0)
    number = random.SystemRandom().randrange(10**9, 10**12) if SECONDS else 0
    while time.monotonic() < end:
        yield number
        number += 1


@pytest.mark.needs_airflow(">=3.3")
@pytest.mark.timeout(60, method="thread")  # The signal is taken: it ends what hangs.
@pytest.mark.parametrize("waits", ["no", "in the worker", "deferred"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in UNREADABLE])
def test_a_server_that_the_connection_describes_is_understood(shape: str, waits: str) -> None:
    """The model itself is in order: its server is one that can be talked to."""
    dialects = (Dialect(shape, configured=True, job_path="tasks/{job_id}"), Dialect())
    play(Plan(kind="mild", waits=waits, dialects=dialects, steps=(Step(fates=(("succeeded", 3),)),)))


@pytest.mark.needs_airflow(">=3.3")
@pytest.mark.timeout(SECONDS + 300, method="thread")
def test_whatever_is_said_a_task_sends_once_or_fails_loudly() -> None:
    if text := os.environ.get("GENERATOR_PLAN"):
        play(eval(text))
        return
    threads = threading.active_count()
    for number, seed in enumerate(seeds()):
        plan = draw(seed)
        if failure := _failure(plan):
            small = shrink(plan, failure.rule)
            # A failure that does not come again is told as it came.
            failure = _failure(small) or failure
            pytest.fail(
                f"{failure}\n\nThis is example {number + 1}, made small:\n\n"
                f'GENERATOR_PLAN="{code(small)}"\n\nAs it was drawn: GENERATOR_SEED={seed}',
                pytrace=False,
            )
    assert threading.active_count() <= threads, threading.enumerate()
