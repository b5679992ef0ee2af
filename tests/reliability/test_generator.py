"""
Exactly once, or an error: the real operator and the real sensor against servers of any dialect.

Each example is a plan: two servers with a dialect each, one task, and the faults of each process of the task.
Hypothesis draws the same few plans in every run, or new ones with ``GENERATOR_EXAMPLES=20000``.
``GENERATOR_PLAN="Plan(...)"`` runs a plan that a failure has printed, and ``GENERATOR_SHRINK=0`` disables shrinking.
"""

from __future__ import annotations

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
    AMBIGUOUS,
    LARGE,
    POLLS,
    REJECTIONS,
    SHAPES,
    TRANSIENT,
    CompactRepr,
    Copy,
    Dialect,
    ModelServer,
    Script,
)
from tests.support.task import FailingStore, Instance, WorkerKilled, first_event

#: Shorter waits, by the dotted name of the constant.
SHORT_WAITS = {
    "datatile_provider.api.retry._FIRST_BACKOFF": 0.01,
    "datatile_provider.api.retry._MAX_BACKOFF": 0.1,
    "datatile_provider.api.polling.GRACE": 0.4,
    "datatile_provider.hooks.connection.GRACE": 0.4,
    "datatile_provider.api.polling.MAX_RETRY_AFTER": 0.1,
    "datatile_provider.operators.attempt.CONFIRM_PAUSE": 0.02,
    "datatile_provider.operators.attempt.MAX_BACKOFF_IN_WORKER": 0.0,
    "datatile_provider.hooks.connection._PAUSE": 0.02,
    "datatile_provider.operators.upload_state.STORE_TIMEOUT": 0.02,
    "datatile_provider.state_store._PAUSE": 0.005,
}
#: Where a plan must succeed, a few rejected polls on a slow machine must not last longer than the grace period.
LONG_GRACE = {"datatile_provider.api.polling.GRACE": 5.0}
#: How the trigger reads its connection. If it finds none, the hook falls back to its own method.
ASYNC_CONNECTION = "airflow.providers.common.compat.connection.get_async_connection"

#: The jobs that a text reports as failed.
FAILED = re.compile(r"^JOB (?:FAILED|CANCELLED).*?\bjob (job-\d+)", re.MULTILINE | re.DOTALL)

EXAMPLES = int(os.environ.get("GENERATOR_EXAMPLES", "0"))
PLAN = os.environ.get("GENERATOR_PLAN", "")
SHRINK = os.environ.get("GENERATOR_SHRINK") != "0"
#: Seconds after which a process of a task counts as hanging.
BOUND = 20.0
#: Seconds for which Hypothesis may shrink a failing plan. Each plan takes real time, so shrinking could take minutes.
SHRINKING = 60.0
#: Bytes of a file that is larger than the socket buffers between client and server.
BIG = 6 << 20


class Hang(BaseException):
    """A process of the task did not end."""


class OutletError(Exception):
    """An error of a listener or of an asset event, after the file was sent."""


class ViolationError(AssertionError):
    """A rule was violated."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


@dataclass(frozen=True, repr=False)
class Step(CompactRepr):
    """
    One process of the task: an attempt, or the resumption of one; and what users change before it.

    :param changes: what has changed: file, path, target, action, server, retries 0 to 3, record without its job id.
    :param clear: a user clears the task, ended or not. A task that has ended is always cleared.
    :param uploads: how the server handles the uploads.
    :param polls: how the server handles the polls.
    :param down: how many connections the server refuses first.
    :param ends: the states in which the jobs of its uploads end, and after how many polls.
    :param ends_at: the crash point at which the process ends early; if negative, counted from the first byte of an
        upload.
    :param times_out: the process ends by ``execution_timeout``; otherwise the worker is killed.
    :param outage: which calls of the state store fail: the first, how many, and whether after they have taken effect.
    :param connection_lost_at: which read of the connection finds none, counted after an upload is accepted or a job
        is polled.
    :param outlet_fails: setting the extra of an outlet event raises.
    :param report_lost: Airflow does not learn how the process ended.
    :param trigger_fails: the trigger fails during the wait that this process resumes from.
    """

    changes: tuple[str, ...] = ()
    clear: bool = False
    uploads: tuple[str, ...] = ()
    polls: tuple[str, ...] = ()
    down: int = 0
    ends: tuple[tuple[str, int], ...] = ()
    ends_at: int | None = None
    times_out: bool = False
    outage: tuple[int, int, bool] | None = None
    connection_lost_at: int | None = None
    outlet_fails: bool = False
    report_lost: bool = False
    trigger_fails: bool = False


@dataclass(frozen=True, repr=False)
class Plan(CompactRepr):
    """
    One example.

    :param kind: ``rough``; ``mild``, which must succeed without a user; or ``sensor``.
    :param waits: ``no``, ``in the worker`` or ``deferred``.
    :param mild: a sensor that must succeed.
    :param limit: the task's ``execution_timeout``, which the trigger observes.
    :param others: the states of other users' jobs on the servers A and B.
    :param end: the state in which a sensor's job ends, and after how many polls.
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
    end: tuple[str, int] = ("succeeded", 1)
    steps: tuple[Step, ...] = (Step(),)

    @property
    def must_succeed(self) -> bool:
        return self.kind == "mild" or self.mild


# Strategies.

#: The status of one has no path; the other holds errors beside the success, which the client need not accept.
UNREADABLE = ("listed", "rows")
#: What users change, and in how many of ten steps. Each plan changes few of these, so that it goes deep in each.
CHANGES = {"file": 5, "path": 4, "target": 4, "action": 5, "server": 5, "retries": 5, "record": 3}


def odds(hits: int, of: int) -> st.SearchStrategy[bool]:
    """Return booleans that are true in so many of so many cases."""
    return st.integers(1, of).map(lambda n: n > of - hits)


def some(names: Iterable[str], most: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(list(names)), max_size=most).map(tuple)


def plans() -> st.SearchStrategy[Plan]:
    return st.integers(0, 9).flatmap(lambda n: rough_plans() if n < 6 else mild_plans() if n < 8 else sensor_plans())


@st.composite
def any_dialect(draw: st.DrawFn, *, readable: bool = False) -> Dialect:
    shape = draw(st.sampled_from(["flat", *SHAPES, "id", "jsend"]))
    configured = draw(odds(4, 10))
    if shape == "bare" or (readable and shape not in ("flat", "id", "jsend")):
        # {"status": …} alone can be an envelope's, and clients need not find the status of the others.
        configured = True
    if readable and shape in UNREADABLE:
        shape, configured = "jsonapi", True
    path = draw(st.sampled_from([Dialect.job_path] * 12 + ["tasks/{job_id}", "api/v2/job?id={job_id}"]))
    return Dialect(shape, configured, path, busy=draw(odds(3, 20)))


def any_others() -> st.SearchStrategy[tuple[tuple[str, ...], tuple[str, ...]]]:
    states = some(["succeeded", "succeeded", "failed"], 3)
    return st.tuples(states, states)


def any_job_end(*, good: bool = False) -> st.SearchStrategy[tuple[str, int]]:
    # The slowest job does not finish within the timeout of a rough plan.
    ends, polls = ["succeeded"] * 4 + ["failed"], [0, 0, 1, 1, 2, 2, 4, 60]
    return st.tuples(st.sampled_from(ends[: 4 if good else 5]), st.sampled_from(polls[: 7 if good else 8]))


@st.composite
def any_polls(draw: st.DrawFn, most: int, *, without: tuple[str, ...] = ("bare failed",)) -> tuple[str, ...]:
    found = draw(some((name for name in POLLS if name not in without), most))
    # Each missing response costs a timeout.
    return tuple("error" if name == "no response" and not draw(odds(1, 10)) else name for name in found)


@st.composite
def any_uploads(draw: st.DrawFn, *, big: bool) -> tuple[str, ...]:
    names = draw(st.sampled_from([AMBIGUOUS] * 3 + [REJECTIONS]))
    found = draw(some((name for name in names if big or name not in LARGE), 2))
    return tuple(n.replace("no response", "gone") if "no response" in n and not draw(odds(1, 5)) else n for n in found)


@st.composite
def rough_steps(
    draw: st.DrawFn, *, waits: str, big: bool, outlets: bool, changes: tuple[str, ...], first: bool
) -> Step:
    changed = () if first else tuple(name for name in changes if draw(odds(CHANGES[name], 10)))
    polls = any_polls(3, without=() if waits == "no" else ("bare failed",))
    early = st.one_of(st.integers(1, 26), st.integers(-15, -1))
    return Step(
        changes=tuple(f"retries {draw(st.integers(0, 3))}" if name == "retries" else name for name in changed),
        clear=not first and draw(odds(7, 20)),
        uploads=draw(any_uploads(big=big)) if draw(odds(1, 2)) else (),
        polls=draw(polls) if draw(odds(1, 2)) else (),
        down=draw(st.sampled_from([0] * 8 + [1, 4])),
        ends=draw(st.tuples(any_job_end(), any_job_end())),
        ends_at=draw(early) if draw(odds(3, 10)) else None,
        times_out=draw(odds(4, 10)),
        outage=draw(st.tuples(st.integers(1, 4), st.sampled_from([1, 4, 99]), st.booleans()))
        if draw(odds(1, 8))
        else None,
        connection_lost_at=draw(st.integers(1, 3)) if draw(odds(1, 10)) else None,
        outlet_fails=outlets and draw(odds(4, 10)),
        report_lost=draw(odds(1, 12)),
        trigger_fails=draw(odds(1, 16)),
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
        dialects=draw(st.tuples(any_dialect(), any_dialect())),
        others=draw(any_others()),
        steps=(draw(steps[True]), *draw(st.lists(steps[False], max_size=4))),
    )


@st.composite
def mild_plans(draw: st.DrawFn) -> Plan:
    big = draw(odds(3, 10))
    uploads = draw(some((name for name in TRANSIENT if big or name not in LARGE), 3))
    if draw(odds(1, 2)):
        # At the end an acceptance, or a long backoff before the last attempt.
        uploads += (draw(st.sampled_from([*ACCEPTING, "429, for an hour"])),)
    step = Step(
        uploads=uploads,
        # Rejected polls end a wait only if they last.
        polls=draw(any_polls(4)),
        down=draw(st.sampled_from([0, 0, 0, 1, 3])),
        ends=(draw(any_job_end(good=True)),),
        connection_lost_at=draw(st.integers(1, 3)) if draw(odds(3, 20)) else None,
    )
    return Plan(
        kind="mild",
        action=draw(st.sampled_from(["append"] * 5 + ["create"] * 3 + ["reload"])),
        waits=draw(st.sampled_from(["no", "in the worker", "in the worker", "deferred", "deferred"])),
        decorated=draw(odds(1, 4)),
        stored=draw(odds(7, 10)),
        big=big,
        dialects=(draw(any_dialect(readable=True)), Dialect()),
        others=draw(any_others()),
        steps=(step,),
    )


@st.composite
def sensor_steps(draw: st.DrawFn, *, mild: bool, first: bool) -> Step:
    moves = not first and draw(odds(1, 5))
    return Step(
        changes=("server",) if moves else (),
        clear=moves or (not first and draw(odds(1, 5))),
        polls=draw(any_polls(4)),
        down=draw(st.sampled_from([0] * 5 + [1])),
        ends_at=draw(st.integers(1, 12)) if not mild and draw(odds(1, 5)) else None,
        times_out=draw(st.booleans()),
        connection_lost_at=draw(st.integers(1, 3)) if draw(odds(3, 20)) else None,
        trigger_fails=not mild and draw(odds(1, 20)),
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
        dialects=draw(st.tuples(any_dialect(readable=mild), any_dialect())),
        others=draw(any_others()),
        end=draw(any_job_end(good=mild)),
        steps=(draw(sensor_steps(mild=mild, first=True)), *draw(more)),
    )


# Execution.


class CrashingInstance(Instance):
    """A task instance with crash points before and after each XCom push."""

    def __init__(self, execution: Execution, max_tries: int) -> None:
        super().__init__(max_tries)
        self._execution = execution

    def xcom_push(self, key: str, value: Any) -> None:
        self._execution.crash_point()
        super().xcom_push(key, value)
        self._execution.crash_point()


class Outlets(dict[Any, Any]):
    """The outlet events of a task's context."""

    def __init__(self, execution: Execution) -> None:
        super().__init__()
        self._execution = execution

    def __getitem__(self, outlet: Any) -> Any:
        self._execution.crash_point()
        if self._execution.step.outlet_fails:
            raise OutletError("the asset's event could not be described")
        return type("Event", (), {"extra": {}})


class Execution:
    """
    The execution of one task instance under Airflow's rules, from its first attempt to the end of its plan.

    :param folder: the folder of its files.
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
        self.ti = CrashingInstance(self, plan.retries)
        self.store = FailingStore(self.crash_point, self.store_outage)
        self.state = "scheduled"
        self.deferred: TaskDeferred | None = None
        self.step = Step()
        self.active = False
        self.crash_points = self.crash_points_since_post = self.store_calls = self.reads = self.down = 0
        # Whether a first byte has been sent: since a user cleared the task last, and in this process.
        self.posted = self.posting = False
        #: What the task was to upload since a user cleared it last: a retry may resume what an earlier attempt sent.
        self.expected_keys: set[tuple[str, str, str, str]] = set()
        self.violations: list[ViolationError] = []
        self.errors: list[BaseException] = []
        self.job_id = ""

    # The environment.

    def _new_file(self, name: str) -> None:
        self.files += 1
        self.content = f"content-{self.files}"
        self.file = self.folder / name
        with self.file.open("wb") as file:
            file.write(f"{self.content}\n".encode())
            # Each is longer than the one before, so that two versions differ even if their times are equal.
            file.write(b"x" * ((BIG if self.plan.big else 0) + self.files))

    def connect(self) -> None:
        hangs = any("no response" in name for name in (*self.step.uploads, *self.step.polls))
        timeout = 5.0 if not hangs else 1.0 if self.plan.must_succeed else 0.3
        connection = self.servers[self.server].connection(timeout)
        self._patch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", connection)

    def crash_point(self) -> None:
        """A point at which the process may end early."""
        if not self.active or threading.current_thread() is not threading.main_thread():
            return
        self.crash_points += 1
        self.crash_points_since_post += self.posting
        at = self.step.ends_at
        if not at or at not in (self.crash_points, -self.crash_points_since_post):
            return
        if self.step.times_out:
            self.script.log.append("execution_timeout")
            raise AirflowTaskTimeout("Timeout")
        # Without a state store, a killed worker may cause a second upload. That is documented.
        if self.plan.stored or not self.posted or self.plan.kind == "sensor":
            self.script.log.append("the worker is killed")
            raise WorkerKilled

    def store_outage(self) -> str | None:
        """Return whether this call of the state store fails, and whether before or after it has taken effect."""
        self.store_calls += 1
        first, count, after = self.step.outage or (0, 0, False)
        if not first <= self.store_calls < first + count:
            return None
        return "after" if after else "before"

    def read_connection(self) -> None:
        """Read the connection. After an upload is accepted or a job is polled, one read may find none."""
        started = self.script.polled if self.plan.kind == "sensor" else any(self.copies())
        if started:
            self.reads += 1
            if self.reads == self.step.connection_lost_at:
                self.script.log.append("the connection is not found")
                raise AirflowNotFoundException("The conn_id `datatile_default` isn't defined")

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the task is to upload now."""
        return self.server, self.target, self.action, self.content

    def copies(self) -> Iterator[Copy]:
        for server in self.servers.values():
            yield from server.copies

    def _held(self, copy: Copy) -> None:
        if copy.action == "reload":
            return
        for before in self.copies():
            same = before is not copy and before.key == copy.key
            if same and before.state != "failed" and not before.acknowledged:
                reported = "reported, but the task was not cleared since" if before.reported else "not reported"
                self.violations.append(
                    ViolationError(
                        "1 twice",
                        f"{copy.server} holds {copy.content} as {before.job_id} ({reported}) and as {copy.job_id}",
                    )
                )

    def _report(self, text: str) -> None:
        """Mark the uploads that a text reports to the user."""
        servers = {name for name, server in self.servers.items() if server.address in text}
        for copy in self.copies():
            if servers and copy.server not in servers:
                continue
            # In a path, the id is part of a redirect's location, which reports nothing.
            if re.search(rf"(?<![\w/=-]){copy.job_id}(?![\w-])", text):
                copy.reported |= copy.job_id not in FAILED.findall(text) or copy.state == "failed"
            elif re.search("unknown|not known", text, re.IGNORECASE) and copy.target in text:
                copy.reported = True

    # Users.

    def change(self, change: str) -> None:
        self.script.log.append(f"changed: {change}")
        if change == "file":
            self._new_file(self.file.name)
        elif change == "path":
            self._new_file(f"wave-{self.files}.csv")
        elif change == "target":
            self.target = f"target-{int(self.target[-1]) + 1}"
        elif change == "action":
            self.action = "reload" if self.action == self.plan.action else self.plan.action
            if self.plan.action == "reload":
                self.action = "append" if self.action == "reload" else "reload"
        elif change == "server":
            # Never back to A: a user who sends the same file to A, B and A again may intend it.
            self.server = "B"
        elif change == "record":
            for key, row in self.store.rows.items():
                record = json.loads(row)
                if isinstance(record, dict) and record.get("job_id"):
                    self.store.rows[key] = json.dumps({**record, "job_id": ""})
        else:
            self.retries = int(change.split()[1])

    def clear(self) -> None:
        self.script.log.append("cleared")
        ended = self.state in ("success", "failed")
        records = " ".join(self.store.rows.values())
        for copy in self.copies():
            # Documented: clearing a successful task sends again, as does clearing any task without a state store.
            succeeded = self.state == "success" and copy.key in self.expected_keys
            # Also documented: a changed task does not resume the job of its record.
            abandoned = copy.key != self.key and re.search(rf"\b{copy.job_id}\b", records)
            copy.resend_wanted |= succeeded
            if copy.reported or succeeded or abandoned or not (ended or self.plan.stored):
                copy.acknowledged = True
        self.ti.max_tries = self.ti.try_number + self.retries
        self.state, self.deferred = "scheduled", None
        self.expected_keys.clear()
        self.posted = False

    # Airflow.

    def operator(self) -> Any:
        waits = self.plan.waits
        # accept_timeout is shorter than the Retry-After of an hour.
        an_hour = any("429, for an hour" in step.uploads for step in self.plan.steps)
        options: dict[str, Any] = {
            "task_id": "upload",
            "execution_timeout": timedelta(seconds=self.plan.limit) if self.plan.limit else None,
            "deferrable": waits == "deferred",
            "timeout": 15.0 if self.plan.must_succeed else 0.25,
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
        self.script.ends = deque(step.ends)
        self.crash_points = self.crash_points_since_post = self.store_calls = self.reads = 0
        self.down, self.posting = step.down, False
        self.connect()
        self.expected_keys.add(self.key)
        context: dict[str, Any] = {"ti": self.ti, "outlet_events": Outlets(self)}
        if self.plan.stored:
            context["task_state_store"] = self.store
        result: Any = None
        error: BaseException | None = None
        started_at = time.monotonic()
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
        if time.monotonic() - started_at > BOUND:
            raise ViolationError("3 hang", f"a process took {time.monotonic() - started_at:.0f} s")

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
            if self.step.trigger_fails:
                self.script.log.append("the trigger fails")
                method, kwargs = "__fail__", {"error": "Trigger failure"}
            else:
                event = first_event(*stored["trigger"], timeout=None)
                self.script.log.append(f"the trigger's event is {event}")
                kwargs = {**stored["kwargs"], "event": event}
        operator = self.operator()
        self.active = True
        operator.pre_execute(context)
        if deferred:
            return operator.resume_execution(method, kwargs, context)
        return operator.execute(context)

    def _end(self, result: Any, error: BaseException | None) -> None:
        if error:
            self.script.log.append(f"raised {type(error).__name__}: {error}")
            _drop_frames(error)
        closing = self.plan.big or self.step.times_out or isinstance(error, (WorkerKilled, AirflowTaskTimeout))
        for server in self.servers.values():
            if closing and not server.settle():
                gc.collect()
                assert server.settle(), "a connection was left open"
            if server.internal_error:
                raise server.internal_error
        if error:
            self._check_kind(error)
            self._report(str(error))
            self.errors.append(error)
        for row in self.store.rows.values():
            # The record holds an error whose attempt could not report it, or one that will be raised again.
            if '"reported"' in row or '"done"' in row:
                self._report(row)
        if result is not None:
            self.script.log.append(f"returned {result!r}")
            self._check_green(result)
        if self.violations:
            raise self.violations[0]
        if self.deferred:
            return
        report_lost = self.step.report_lost and self.plan.stored
        final = isinstance(error, (AirflowFailException, AirflowSensorTimeout))
        if error is None and not report_lost:
            self.state = "success"
        elif (final and not report_lost) or self.ti.try_number > self.ti.max_tries:
            self.state = "failed"
        else:
            self.state = "scheduled"

    def _check_kind(self, error: BaseException) -> None:
        if isinstance(error, Hang):
            raise ViolationError("3 hang", f"a process did not end within {BOUND:.0f} s")
        outage = type(error).__name__ == "AirflowRuntimeError" and self.step.outage is not None
        known = (AirflowException, WorkerKilled, AirflowTaskTimeout)
        if not isinstance(error, known) and not outage:
            raise ViolationError("3 traceback", f"{type(error).__name__}: {error}")
        for job_id in FAILED.findall(str(error)):
            if not any(s.jobs[job_id].state == "failed" for s in self.servers.values() if job_id in s.jobs):
                raise ViolationError("5 untrue", str(error))

    def _check_green(self, result: Any) -> None:
        if self.plan.kind == "sensor":
            job = self.servers[self.server].jobs.get(self.job_id)
            if not job or job.state != "succeeded":
                raise ViolationError("2 green", f"{self.job_id} is {job.state if job else 'unknown'} on {self.server}")
            return
        own = [copy for copy in self.copies() if copy.key in self.expected_keys]
        found = [copy for copy in own if copy.job_id == result]
        if not found:
            raise ViolationError("2 green", f"{result!r} is not a job of this task's upload, but {_ids(own)}")
        if self.plan.waits != "no" and not any(copy.state == "succeeded" for copy in found):
            raise ViolationError("2 green", f"{result} has not succeeded: {found}")
        if all(copy.resend_wanted for copy in found):
            raise ViolationError("2 green", f"{result} was sent before a user cleared the successful task")
        if all(copy.reported_failed for copy in found):
            raise ViolationError("2 green", f"the server has reported that {result} failed")


def _ids(copies: list[Copy]) -> list[str]:
    return [f"{copy.server}:{copy.job_id}" for copy in copies]


def _drop_frames(error: BaseException | None) -> None:
    """Release what a traceback keeps alive, such as sockets: a process that has ended keeps nothing open."""
    while error:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def execution_of(plan: Plan) -> Iterator[Execution]:
    """Return the execution of a plan, with two servers, crash points and short waits."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        folder = stack.enter_context(TemporaryDirectory())
        for name, value in {**SHORT_WAITS, **(LONG_GRACE if plan.must_succeed else {})}.items():
            patch.setattr(name, value)
        execution = Execution(plan, Path(folder), patch)
        for server in execution.servers.values():
            stack.enter_context(server)
        read = DatatileHook.get_connection

        def get_connection(cls: type, conn_id: str) -> Any:
            execution.read_connection()
            return read(conn_id)

        async def find_none(conn_id: str) -> Any:
            raise AirflowNotFoundException(conn_id)

        patch.setattr(DatatileHook, "get_connection", classmethod(get_connection))
        patch.setattr(ASYNC_CONNECTION, find_none)
        for name in ("connect", "sendall", "recv_into"):
            patch.setattr(socket.socket, name, _with_crash_points(execution, name, getattr(socket.socket, name)))

        def hang(number: int, frame: Any) -> None:
            raise Hang

        before = signal.signal(signal.SIGALRM, hang)
        stack.callback(signal.signal, signal.SIGALRM, before)
        stack.enter_context(_no_logging())
        yield execution


@contextlib.contextmanager
def _no_logging() -> Iterator[None]:
    """Disable logging: a long run would log too much."""
    # Airflow 2 does not install structlog.
    import structlog

    def drop(*event: Any) -> Any:
        raise structlog.DropEvent

    # Change the list in place, because existing loggers hold a reference to it.
    processors: list[Any] = structlog.get_config()["processors"]
    processors.insert(0, drop)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        processors.remove(drop)


def _with_crash_points(execution: Execution, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of a socket with a crash point before and after it, in the task's own thread."""

    def call_with_crash_points(sock: Any, *arguments: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            execution.crash_point()
            if name == "connect" and execution.down:
                execution.down -= 1
                execution.script.log.append("connection refused")
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            if name == "sendall" and bytes(arguments[0][:4]) == b"POST":
                execution.posted = execution.posting = True
        found = call(sock, *arguments)
        execution.crash_point()
        return found

    return call_with_crash_points


def play(plan: Plan) -> list[str]:
    """
    Play a plan, then continue without faults until the task has ended.

    :return: the log.
    :raises ViolationError: a rule was violated; the message holds the log.
    """
    with execution_of(plan) as execution:
        try:
            if plan.kind == "sensor":
                for server in execution.servers.values():
                    # On one server only: the other one does not know the job.
                    if server.name == "A" or not plan.others[1]:
                        execution.job_id = server.hold("theirs", "append", "watched", *plan.end).job_id
                        break
            for step in plan.steps:
                execution.run(step)
            _run_to_the_end(execution)
            if plan.kind == "rough":
                # A user clears the task: an upload that no error has reported is then sent twice.
                execution.run(Step())
                _run_to_the_end(execution)
            if plan.must_succeed and execution.state != "success":
                raise ViolationError("4 lost", f"{type(execution.errors[-1]).__name__}: {execution.errors[-1]}")
            if execution.state not in ("success", "failed"):
                raise ViolationError("3 hang", f"the task is still {execution.state}")
        except ViolationError as e:
            e.args = (f"{e.args[0]}\n  " + "\n  ".join(_without_repetitions(execution.script.log)),)
            raise
        return execution.script.log


def _run_to_the_end(execution: Execution) -> None:
    end = time.monotonic() + BOUND
    while execution.state not in ("success", "failed") and time.monotonic() < end:
        # The rest of the script applies to the polls of a deferred task as well.
        execution.run(Step(polls=tuple(execution.script.polls), uploads=tuple(execution.script.uploads)))


def _without_repetitions(log: list[str]) -> list[str]:
    found = [(line, len(list(lines))) for line, lines in itertools.groupby(log)]
    return [line if count == 1 else f"{line} ({count} times)" for line, count in found]


# The tests.


@pytest.fixture(autouse=True, scope="module")
def no_thread_is_left() -> Iterator[None]:
    threads = threading.active_count()
    yield
    assert threading.active_count() <= threads, threading.enumerate()


@pytest.mark.needs_airflow(">=3.3")
@pytest.mark.timeout(60, method="thread")  # SIGALRM is in use: it ends hanging processes.
@pytest.mark.parametrize("waits", ["no", "in the worker", "deferred"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in UNREADABLE])
def test_a_configured_dialect_is_read(shape: str, waits: str) -> None:
    """This also tests the model itself: a client can use its server."""
    dialects = (Dialect(shape, configured=True, job_path="tasks/{job_id}"), Dialect())
    play(Plan(kind="mild", waits=waits, dialects=dialects, steps=(Step(ends=(("succeeded", 3),)),)))


class Played:
    """
    Plays plans, and caches the failures.

    Hypothesis plays a failing plan again to report it. A failure that depends on timing must then be the same.
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


# Plans that are seldom drawn.
@example(Plan(steps=(Step(ends_at=-8), Step(changes=("action",)), Step(changes=("action",)))))
@example(Plan(steps=(Step(uploads=("errors and an unknown id field",)), Step())))
@example(Plan(steps=(Step(ends_at=-14), Step(changes=("file",), clear=True))))
@example(Plan(decorated=True, retries=1, steps=(Step(ends_at=-14), Step(("file",), ends_at=15), Step(clear=True))))
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
        steps=(Step(ends=(("succeeded", 4),)), Step(changes=("server",))),
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
    # The default backend mostly mutates earlier plans, and takes longer to find something new.
    backend="hypothesis-urandom" if EXAMPLES else "hypothesis",
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.needs_airflow(">=3.3")
@pytest.mark.timeout(EXAMPLES + SHRINKING + 120, method="thread")
def test_a_task_sends_once_or_fails_with_an_error(plan: Plan) -> None:
    PLAYED(plan)
