"""
Exactly once, or loud: the real operator and the real sensor against a server that speaks in any style.

Each example is a plan: two servers with a dialect each, one task, and what befalls it process by process. Hypothesis
draws them: always the same few, or fresh ones with ``GENERATOR_EXAMPLES=20000``. ``GENERATOR_PLAN="Plan(...)"`` runs a
plan as a failure prints it, and ``GENERATOR_SHRINK=0`` stops at the first failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from datatile_provider.decorators.datatile import DatatileUploadDecoratedOperator
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.reliability.model_server import (
    ACCEPTING,
    LARGE,
    PASSING,
    POLLS,
    SHAPES,
    STRANGE,
    TRUTHFUL,
    Brief,
    Copy,
    Dialect,
    ModelServer,
    Script,
)
from tests.reliability.task import Instance, Store

#: What makes waits short. Should one of these move, it moves here.
QUICKLY = {
    "datatile_provider.api.retry._FIRST_BACKOFF": 0.01,
    "datatile_provider.api.retry._MAX_BACKOFF": 0.1,
    "datatile_provider.api.polling.GRACE": 0.4,
    "datatile_provider.hooks.datatile.GRACE": 0.4,
    "datatile_provider.api.polling.MAX_RETRY_AFTER": 0.1,
    "datatile_provider.operators.datatile.CONFIRM_PAUSE": 0.02,
    "datatile_provider.operators.datatile.MAX_BACKOFF_IN_WORKER": 0.0,
    "datatile_provider.hooks.datatile._PAUSE": 0.02,
    "datatile_provider.operators.upload_state.STORE_TIMEOUT": 0.02,
    "datatile_provider.operators.upload_state._PAUSE": 0.005,
}
#: A busy machine must not make a few refused polls last too long where all must end well.
PATIENTLY = {"datatile_provider.api.polling.GRACE": 5.0}
#: Where the trigger reads its connection; it falls back on the hook's own way when this finds none.
ASYNC_CONNECTION = "airflow.providers.common.compat.connection.get_async_connection"

EXAMPLES = int(os.environ.get("GENERATOR_EXAMPLES", "0"))
PLAN = os.environ.get("GENERATOR_PLAN", "")
SHRINK = os.environ.get("GENERATOR_SHRINK") != "0"
#: Seconds after which a process of a task counts as hanging.
BOUND = 20.0
#: Seconds for which Hypothesis may make a failing plan small: it would take minutes, as each plan takes real time.
SHRINKING = 60.0
#: A file that is larger than all that the sockets between client and server hold.
BIG = 6 << 20


class Death(BaseException):
    """The worker is gone."""


class Hang(BaseException):
    """A process of the task did not end."""


class OutletError(Exception):
    """What a listener, or an asset's event, may raise once the file is sent."""


class ViolationError(AssertionError):
    """What must never happen."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


@dataclass(frozen=True, repr=False)
class Step(Brief):
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


@dataclass(frozen=True, repr=False)
class Plan(Brief):
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
#: What people change, and how often in ten where they change it at all: few things at once, so that each goes far.
CHANGES = {"file": 5, "path": 4, "target": 4, "action": 5, "server": 5, "retries": 5, "record": 3}


def odds(many: int, of: int) -> st.SearchStrategy[bool]:
    """Return what is true so many times of so many."""
    return st.integers(1, of).map(lambda n: n > of - many)


def some(names: Iterable[str], most: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(list(names)), max_size=most).map(tuple)


def plans() -> st.SearchStrategy[Plan]:
    return st.integers(0, 9).flatmap(lambda n: rough_plans() if n < 6 else mild_plans() if n < 8 else sensor_plans())


@st.composite
def drawn_dialects(draw: st.DrawFn, *, readable: bool = False) -> Dialect:
    shape = draw(st.sampled_from(["flat", *SHAPES, "id", "jsend"]))
    configured = draw(odds(4, 10))
    if shape == "bare" or (readable and shape not in ("flat", "id", "jsend")):
        # {"status": …} alone can't be told from an envelope, and the others hold the status where nobody must look.
        configured = True
    if readable and shape in UNREADABLE:
        shape, configured = "jsonapi", True
    path = draw(st.sampled_from([Dialect.job_path] * 12 + ["tasks/{job_id}", "api/v2/job?id={job_id}"]))
    return Dialect(shape, configured, path, busy=draw(odds(3, 20)))


def drawn_others() -> st.SearchStrategy[tuple[tuple[str, ...], tuple[str, ...]]]:
    states = some(["succeeded", "succeeded", "failed"], 3)
    return st.tuples(states, states)


def drawn_fates(*, good: bool = False) -> st.SearchStrategy[tuple[str, int]]:
    # The slowest job is not finished while a rough plan's wait lasts.
    ends, polls = ["succeeded"] * 4 + ["failed"], [0, 0, 1, 1, 2, 2, 4, 60]
    return st.tuples(st.sampled_from(ends[: 4 if good else 5]), st.sampled_from(polls[: 7 if good else 8]))


@st.composite
def drawn_polls(draw: st.DrawFn, most: int, *, redact: tuple[str, ...] = ("bare failed",)) -> tuple[str, ...]:
    found = draw(some((name for name in POLLS if name not in redact), most))
    # Each silence costs a timeout.
    return tuple("error" if name == "silence" and not draw(odds(1, 10)) else name for name in found)


@st.composite
def drawn_uploads(draw: st.DrawFn, *, big: bool) -> tuple[str, ...]:
    names = draw(st.sampled_from([STRANGE] * 3 + [TRUTHFUL]))
    found = draw(some((name for name in names if big or name not in LARGE), 2))
    return tuple(n.replace("silence", "gone") if "silence" in n and not draw(odds(1, 5)) else n for n in found)


@st.composite
def rough_steps(
    draw: st.DrawFn, *, waits: str, big: bool, outlets: bool, changes: tuple[str, ...], first: bool
) -> Step:
    changed = () if first else tuple(name for name in changes if draw(odds(CHANGES[name], 10)))
    polls = drawn_polls(3, redact=() if waits == "no" else ("bare failed",))
    early = st.one_of(st.integers(1, 26), st.integers(-15, -1))
    return Step(
        changes=tuple(f"retries {draw(st.integers(0, 3))}" if name == "retries" else name for name in changed),
        clear=not first and draw(odds(7, 20)),
        uploads=draw(drawn_uploads(big=big)) if draw(odds(1, 2)) else (),
        polls=draw(polls) if draw(odds(1, 2)) else (),
        down=draw(st.sampled_from([0] * 8 + [1, 4])),
        fates=draw(st.tuples(drawn_fates(), drawn_fates())),
        ends_at=draw(early) if draw(odds(3, 10)) else None,
        times_out=draw(odds(4, 10)),
        outage=draw(st.tuples(st.integers(1, 4), st.sampled_from([1, 4, 99]), st.booleans()))
        if draw(odds(1, 8))
        else None,
        connection_lost_at=draw(st.integers(1, 3)) if draw(odds(1, 10)) else None,
        outlet_fails=outlets and draw(odds(4, 10)),
        report_lost=draw(odds(1, 12)),
        trigger_breaks=draw(odds(1, 16)),
    )


@st.composite
def rough_plans(draw: st.DrawFn) -> Plan:
    waits = draw(st.sampled_from(["no"] * 3 + ["in the worker"] * 2 + ["deferred"] * 4))
    big, outlets = draw(odds(1, 8)), draw(odds(3, 10))
    changes = tuple(name for name in CHANGES if draw(odds(3, 10)))
    steps = {
        first: rough_steps(waits=waits, big=big, outlets=outlets, changes=changes, first=first)
        for first in (True, False)
    }
    return Plan(
        action=draw(st.sampled_from(["append"] * 5 + ["create"] * 3 + ["reload"])),
        waits=waits,
        decorated=draw(odds(1, 4)),
        retries=draw(st.sampled_from([0, 1, 1, 2, 3])),
        stored=draw(odds(7, 10)),
        outlets=outlets,
        limit=0.3 if waits == "deferred" and draw(odds(1, 10)) else None,
        big=big,
        dialects=draw(st.tuples(drawn_dialects(), drawn_dialects())),
        others=draw(drawn_others()),
        steps=(draw(steps[True]), *draw(st.lists(steps[False], max_size=4))),
    )


@st.composite
def mild_plans(draw: st.DrawFn) -> Plan:
    big = draw(odds(3, 10))
    uploads = draw(some((name for name in PASSING if big or name not in LARGE), 3))
    if draw(odds(1, 2)):
        # What comes in the end is an acceptance, or a long wait for the last attempt.
        uploads += (draw(st.sampled_from([*ACCEPTING, "429, for an hour"])),)
    step = Step(
        uploads=uploads,
        # A refusal ends a wait only when it lasts.
        polls=draw(drawn_polls(4)),
        down=draw(st.sampled_from([0, 0, 0, 1, 3])),
        fates=(draw(drawn_fates(good=True)),),
        connection_lost_at=draw(st.integers(1, 3)) if draw(odds(3, 20)) else None,
    )
    return Plan(
        kind="mild",
        action=draw(st.sampled_from(["append"] * 5 + ["create"] * 3 + ["reload"])),
        waits=draw(st.sampled_from(["no", "in the worker", "in the worker", "deferred", "deferred"])),
        decorated=draw(odds(1, 4)),
        stored=draw(odds(7, 10)),
        big=big,
        dialects=(draw(drawn_dialects(readable=True)), Dialect()),
        others=draw(drawn_others()),
        steps=(step,),
    )


@st.composite
def sensor_steps(draw: st.DrawFn, *, mild: bool, first: bool) -> Step:
    moves = not first and draw(odds(1, 5))
    return Step(
        changes=("server",) if moves else (),
        clear=moves or (not first and draw(odds(1, 5))),
        polls=draw(drawn_polls(4)),
        down=draw(st.sampled_from([0] * 5 + [1])),
        ends_at=draw(st.integers(1, 12)) if not mild and draw(odds(1, 5)) else None,
        times_out=draw(st.booleans()),
        connection_lost_at=draw(st.integers(1, 3)) if draw(odds(3, 20)) else None,
        trigger_breaks=not mild and draw(odds(1, 20)),
    )


@st.composite
def sensor_plans(draw: st.DrawFn) -> Plan:
    mild = draw(odds(4, 10))
    more = st.lists(sensor_steps(mild=mild, first=False), max_size=0 if mild else 2)
    return Plan(
        kind="sensor",
        mild=mild,
        waits=draw(st.sampled_from(["in the worker", "deferred"])),
        retries=0 if mild else draw(st.integers(0, 2)),
        dialects=draw(st.tuples(drawn_dialects(readable=mild), drawn_dialects())),
        others=draw(drawn_others()),
        fate=draw(drawn_fates(good=mild)),
        steps=(draw(sensor_steps(mild=mild, first=True)), *draw(more)),
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
            raise OutletError("the asset's event could not be described")
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
        self.violations: list[ViolationError] = []
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
                reported = "named, but nobody cleared the task since" if before.named else "named by no error"
                self.violations.append(
                    ViolationError(
                        "1 twice",
                        f"{copy.server} holds {copy.content} as {before.job_id} ({reported}) and as {copy.job_id}",
                    )
                )

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
            copy.wanted_again |= green
            if copy.named or green or left or not (ended or self.plan.stored):
                copy.settled = True
        self.ti.max_tries = self.ti.try_number + self.retries
        self.state, self.deferred = "scheduled", None
        self.about.clear()
        self.posted = False

    # Airflow.

    def operator(self) -> Any:
        waits = self.plan.waits
        # The time is over before the hour is.
        an_hour = any("429, for an hour" in step.uploads for step in self.plan.steps)
        options: dict[str, Any] = {
            "task_id": "upload",
            "execution_timeout": timedelta(seconds=self.plan.limit) if self.plan.limit else None,
            "deferrable": waits == "deferred",
            "timeout": 15.0 if self.plan.must_end_well else 0.25,
            "retries": self.retries,
        }
        if self.plan.kind == "sensor":
            return DatatileJobSensor(job_id=self.job_id, poke_interval=0.02, **options)
        options |= {
            "action": self.action,
            "target_hash": self.target,
            "wait_for_completion": waits != "no",
            "poll_interval": 0.02,
            "accept_timeout": 0.8 if self.plan.kind != "mild" else 1.5 if an_hour else 15.0,
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
            raise ViolationError("3 hang", f"a process took {time.monotonic() - began:.0f} s")

    def _process(self, context: Any) -> Any:
        signal.setitimer(signal.ITIMER_REAL, BOUND)
        deferred, self.deferred = self.deferred, None
        if deferred is None:
            self.ti.begin_attempt()
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
            if '"reported"' in row or '"done"' in row:
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
            raise ViolationError("3 hang", f"a process did not end within {BOUND:.0f} s")
        outage = type(error).__name__ == "AirflowRuntimeError" and self.step.outage is not None
        known = (AirflowException, Death, AirflowTaskTimeout)
        if not isinstance(error, known) and not outage:
            raise ViolationError("3 traceback", f"{type(error).__name__}: {error}")
        for job_id in re.findall(r"job (job-\d+) (?:has )?(?:failed|was cancelled)", str(error), re.IGNORECASE):
            if not any(s.jobs[job_id].state == "failed" for s in self.servers.values() if job_id in s.jobs):
                raise ViolationError("5 untrue", str(error))

    def _check_green(self, result: Any) -> None:
        if self.plan.kind == "sensor":
            job = self.servers[self.server].jobs.get(self.job_id)
            if not job or job.state != "succeeded":
                raise ViolationError("2 green", f"{self.job_id} is {job.state if job else 'unknown'} on {self.server}")
            return
        own = [copy for copy in self.copies() if copy.key in self.about]
        found = [copy for copy in own if copy.job_id == result]
        if not found:
            raise ViolationError("2 green", f"{result!r} is no job of what the task is about, but {_ids(own)}")
        if self.plan.waits != "no" and not any(copy.state == "succeeded" for copy in found):
            raise ViolationError("2 green", f"{result} has not succeeded: {found}")
        if all(copy.wanted_again for copy in found):
            raise ViolationError("2 green", f"{result} was brought before a person cleared the green task")
        if all(copy.said_failed for copy in found):
            raise ViolationError("2 green", f"the server has said that {result} failed")


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
    :raises ViolationError: what must never happen did; it tells what happened before.
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
            _finish(life)
            if plan.kind == "rough":
                # A person clears it: what was sent in silence is then sent twice.
                life.run(Step())
                _finish(life)
            if plan.must_end_well and life.state != "success":
                raise ViolationError("4 lost", f"{type(life.errors[-1]).__name__}: {life.errors[-1]}")
            if life.state not in ("success", "failed"):
                raise ViolationError("3 hang", f"the task is still {life.state}")
        except ViolationError as e:
            e.args = (f"{e.args[0]}\n  " + "\n  ".join(_folded(life.script.log)),)
            raise
        return life.script.log


def _finish(life: Life) -> None:
    end = time.monotonic() + BOUND
    while life.state not in ("success", "failed") and time.monotonic() < end:
        # What was to come while the task waits comes when it is deferred, too.
        life.run(Step(polls=tuple(life.script.polls), uploads=tuple(life.script.uploads)))


def _folded(log: list[str]) -> list[str]:
    found = [(line, len(list(lines))) for line, lines in itertools.groupby(log)]
    return [line if times == 1 else f"{line} ({times} times)" for line, times in found]


# The tests.


@pytest.fixture(autouse=True, scope="module")
def no_thread_is_left() -> Iterator[None]:
    threads = threading.active_count()
    yield
    assert threading.active_count() <= threads, threading.enumerate()


@pytest.mark.needs_airflow(">=3.3")
@pytest.mark.timeout(60, method="thread")  # The signal is taken: it ends what hangs.
@pytest.mark.parametrize("waits", ["no", "in the worker", "deferred"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in UNREADABLE])
def test_a_server_that_the_connection_describes_is_understood(shape: str, waits: str) -> None:
    """The model itself is in order: its server is one that can be talked to."""
    dialects = (Dialect(shape, configured=True, job_path="tasks/{job_id}"), Dialect())
    play(Plan(kind="mild", waits=waits, dialects=dialects, steps=(Step(fates=(("succeeded", 3),)),)))


class Played:
    """
    Plays plans, and remembers those that failed.

    Hypothesis plays a failing plan once more to tell of it. One that failed by its timing must then fail as it did.
    """

    def __init__(self) -> None:
        self._failed: dict[Plan, ViolationError] = {}
        self._until = float("inf")

    def __call__(self, plan: Plan) -> None:
        if plan in self._failed:
            raise self._failed[plan]
        if time.monotonic() > self._until:
            return
        try:
            play(plan)
        except ViolationError as e:
            if not self._failed:
                self._until = time.monotonic() + SHRINKING
            self._failed[plan] = e
            raise


PLAYED = Played()


def phases() -> set[Phase]:
    if PLAN:
        return {Phase.generate}
    return set(Phase) if SHRINK else set(Phase) - {Phase.shrink}


# What chance seldom draws.
@example(Plan(steps=(Step(ends_at=-8), Step(changes=("action",)), Step(changes=("action",)))))
@example(Plan(steps=(Step(uploads=("errors and a strange id",)), Step())))
@example(Plan(steps=(Step(ends_at=-14), Step(changes=("file",), clear=True))))
@example(Plan(decorated=True, retries=1, steps=(Step(ends_at=-14), Step(("file",), ends_at=10), Step(clear=True))))
@example(Plan(retries=1, steps=(Step(), Step(changes=("retries 0",)))))
@example(Plan(retries=1, steps=(Step(ends_at=-14), Step(changes=("server",), clear=True))))
@example(Plan(retries=1, steps=(Step(ends_at=-14), Step(polls=("bare failed", "bare failed")))))
@example(Plan(steps=(Step(ends_at=-14), Step(changes=("record",)))))
@example(Plan(waits="in the worker", stored=False, retries=1, steps=(Step(ends_at=-14, times_out=True),)))
@example(Plan(waits="deferred", dialects=(Dialect("rows"), Dialect())))
@example(
    Plan(
        waits="deferred",
        others=((), ("succeeded",)),
        steps=(Step(fates=(("succeeded", 4),)), Step(changes=("server",))),
    )
)
@example(Plan(big=True, steps=(Step(uploads=("early, held, then gone",)), Step())))
@given(plan=st.just(eval(PLAN)) if PLAN else plans())
@settings(
    max_examples=1 if PLAN else EXAMPLES or 110,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=phases(),
    # The usual one makes most plans by changing a little in the one before: that takes long to come to something new.
    backend="hypothesis-urandom" if EXAMPLES else "hypothesis",
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.needs_airflow(">=3.3")
@pytest.mark.timeout(EXAMPLES + SHRINKING + 120, method="thread")
def test_whatever_is_said_a_task_sends_once_or_fails_loudly(plan: Plan) -> None:
    PLAYED(plan)
