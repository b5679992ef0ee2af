"""
No content is held twice unless a person or ``allow`` said so: real operators that share a ledger, under interleavings.

The tasks are of two runs of one DAG, of another DAG, and of a second Airflow with the same names. Transport, clock,
state store and the ledger's storage are models. A crash is raised at a crash point: each request, sleep, and call of a
store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    TaskDeferred,
)
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from datatile_provider.api import errors
from datatile_provider.api.models import Job
from datatile_provider.api.states import JobState
from datatile_provider.ledger.entry import Phase
from datatile_provider.ledger.ledger import Ledger, Stored
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.guard import ON_REPEAT_CONF
from datatile_provider.operators.question import Choice
from datatile_provider.triggers.datatile import ended
from datatile_provider.version_compat import AIRFLOW_2
from tests.reliability.test_state_machine import NEXT, TRANSPORT, Environment
from tests.support.clock import Clock
from tests.support.task import FailingStore, Instance, TaskAwaitingInput, WorkerKilled
from tests.support.versions import HAS_STATE_STORE

#: Deployment, DAG and run of each task.
TASKS = (("a", "tracker", "run-1"), ("a", "tracker", "run-2"), ("a", "another", "run-1"), ("b", "tracker", "run-1"))


class Server(Environment):
    """The environment, which also knows the content of each job, and whether it may hold that twice."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, str] = {}
        #: Whether a person or ``allow`` has said that the task at work may send what the server holds already.
        self.may_repeat = False
        self.repeated: list[str] = []

    def jobs_with(self, content: str) -> list[str]:
        """Return the jobs whose data the server holds, or will, with a content."""
        return [job_id for job_id in self.jobs if job_id in self.held() and self.contents[job_id] == content]

    def _upload(self, request: Any) -> Any:
        content = self.file.read_text()
        known, held = set(self.jobs), self.jobs_with(content)
        try:
            return super()._upload(request)
        finally:
            for job_id in set(self.jobs) - known:
                self.contents[job_id] = content
                if held and job_id in self.held() and not self.may_repeat:
                    self.repeated.append(job_id)


class Storage:
    """The ledger's storage: it outlives crashes, and may be away."""

    def __init__(self, server: Server) -> None:
        self.files: dict[str, bytes] = {}
        self.away = False
        self._server = server

    def _call(self) -> Iterator[None]:
        """A crash before or after the call, and an outage before or after it has taken effect."""
        self._server.crash_point()
        outage = self._server.store_outage()
        if self.away or outage == "before":
            raise OSError("the ledger is away")
        yield
        self._server.crash_point()
        if outage:
            raise OSError("no response of the ledger")

    def check(self) -> None:
        for _ in self._call():
            pass

    def create(self, name: str, content: bytes) -> None:
        for _ in self._call():
            if name in self.files:
                raise FileExistsError(name)
            self.files[name] = content

    def read(self, name: str) -> bytes | None:
        for _ in self._call():
            found = self.files.get(name)
        return found

    def replace(self, name: str, content: bytes) -> None:
        for _ in self._call():
            self.files[name] = content

    def delete(self, name: str) -> None:
        del self.files[name]

    def names(self) -> Iterator[str]:
        yield from sorted(self.files)


class TaskState:
    """One task instance as its Airflow knows it."""

    def __init__(self, number: int, retries: int, server: Server) -> None:
        self.deployment, dag_id, run_id = TASKS[number]
        self.ti = Instance(retries)
        self.ti.dag_id, self.ti.run_id = dag_id, run_id
        self.store = FailingStore(server.crash_point, server.store_outage)
        self.deferred: Any = None
        self.state = "scheduled"
        self.said_again = False  # Whether a person has, in this attempt.
        self.looked: list[str] = []  # What a person saw in DATATILE when the task asked.


class Repeats(RuleBasedStateMachine):
    """Four tasks with the same file and database, one server, one ledger, and persons who clear, answer and forget."""

    @initialize(
        waits=st.sampled_from(["no", "in the worker", "deferred"]),
        on_unknown=st.sampled_from(["fail", "ask"]),
        on_repeat=st.sampled_from(["fail", "fail", "ask", "allow"]),
        retries=st.integers(0, 2),
        remembers=st.booleans(),
    )
    def start(self, waits: str, on_unknown: str, on_repeat: str, retries: int, remembers: bool) -> None:
        self.server = Server()
        self.storage = Storage(self.server)
        self.retries, self.remembers = retries, remembers and HAS_STATE_STORE
        self.arguments: dict[str, Any] = {
            "task_id": "upload",
            "action": "append",
            "target_hash": "f00d",
            "dataset": str(self.server.file),
            "wait_for_completion": waits != "no",
            "deferrable": waits == "deferred",
            "on_unknown": on_unknown,
            "on_repeat": on_repeat,
            "accept_timeout": 120,
        }
        self.tasks = [TaskState(number, retries, self.server) for number in range(len(TASKS))]
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("requests.adapters.HTTPAdapter.send", lambda *a, **kw: self.server.send(*a, **kw))
        if not AIRFLOW_2:
            self.patch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", self, raising=False)
        self.patch.setattr("datatile_provider.ledger.store.store_of", lambda uri: self.storage)
        clock = Clock(on_sleep=lambda: self.server.crash_point())
        modules = ("hooks.connection", "hooks.datatile", "hooks.upload", "state_store", "triggers.datatile")
        for module in (*modules, "operators.datatile", "operators.attempt", "operators.answered", "operators.claim"):
            self.patch.setattr(f"datatile_provider.{module}.time", clock)
        extra = json.dumps({"ledger": "file:///ledger"})
        host = "http://127.0.0.1:9"
        connection = {"conn_type": "datatile", "host": host, "password": self.server.token, "extra": extra}
        self.patch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", json.dumps(connection))

    def send(self, message: Any) -> Any:
        """Take a question, as Airflow's API server does, and ignore other messages."""
        if type(message).__name__ == "CreateHITLDetailPayload":
            self.server.crash_point()
        return message

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            self.server.folder.cleanup()

    @rule(
        number=st.integers(0, len(TASKS) - 1),
        clear=st.sampled_from([False, False, True]),
        transport=st.lists(st.sampled_from([*TRANSPORT, "accepted", "accepted"]), max_size=3),
        crash_at=st.one_of(st.none(), st.integers(1, 12), st.integers(1, 40)),
        crash=st.sampled_from([WorkerKilled, AirflowTaskTimeout]),
        outage=st.one_of(st.just(range(0)), st.builds(range, st.integers(1, 9), st.sampled_from([2, 6, 10, 99]))),
        outage_is_after=st.booleans(),
        report_lost=st.sampled_from([False, False, False, True]),
        answer=st.sampled_from(["truth", "truth", "what was true", "fail", "again"]),
        conf=st.sampled_from([{}, {}, {}, {ON_REPEAT_CONF: "allow"}]),
    )
    def work(
        self,
        number: int,
        clear: bool,
        transport: list[str],
        crash_at: int | None,
        crash: type[BaseException],
        outage: range,
        outage_is_after: bool,
        report_lost: bool,
        answer: str,
        conf: dict[str, str],
    ) -> None:
        """A worker starts or resumes a task. A person may have cleared it, and must have if it had ended."""
        task = self.tasks[number]
        if clear or task.state != "scheduled":
            task.ti.max_tries = task.ti.try_number + self.retries
            task.state, task.deferred = "scheduled", None
        self.patch.setenv("AIRFLOW__API__BASE_URL", f"https://{task.deployment}.example.com")
        fresh = not self._in_the_way() and not task.store.rows and not task.deferred
        undisturbed = fresh and not (transport or crash_at or outage or self.storage.away or clear)
        undisturbed = undisturbed and not task.ti.try_number
        self.server.begin(transport, crash_at, crash, outage, outage_is_after)
        operator = DatatileUploadOperator(**self.arguments)
        context: Any = {"ti": task.ti, "dag_run": SimpleNamespace(conf=conf)}
        if self.remembers:
            context["task_state_store"] = task.store
        deferred, task.deferred, on_repeat = task.deferred, None, self.arguments["on_repeat"]
        task.said_again &= bool(deferred)
        result, error = None, None
        try:
            if deferred:
                kwargs = json.loads(json.dumps(deferred.kwargs or {}))
                if deferred.method_name == "resume_answered":
                    kwargs["event"] = self._answer(answer, kwargs["question"], task)
                else:
                    kwargs["event"] = self._event(deferred)
                self.server.may_repeat = task.said_again or "allow" in (conf.get(ON_REPEAT_CONF), on_repeat)
                result = operator.resume_execution(deferred.method_name, kwargs, context)
            else:
                task.ti.begin_attempt()
                self.server.may_repeat = "allow" in (conf.get(ON_REPEAT_CONF), on_repeat)
                result = operator.execute(context)
        except (TaskDeferred, TaskAwaitingInput) as e:
            task.deferred = e
            task.looked = self.server.jobs_with(self.server.file.read_text())
            event(f"deferred to {e.method_name}")
            return
        except (Exception, WorkerKilled, AirflowTaskTimeout) as e:
            error = e
            event(f"raised {type(e).__name__} {str(e).splitlines()[0] if str(e) else ''}")
        assert result or not undisturbed, error
        if result is not None:
            event("succeeded")
        final = isinstance(error, (AirflowFailException, AirflowSensorTimeout))
        if result is not None and not report_lost:
            task.state = "success"
        elif (final and not report_lost) or task.ti.try_number > task.ti.max_tries:
            task.state = "failed"

    def _in_the_way(self) -> list[Stored]:
        found = [stored for stored in Ledger(_Quiet(self.storage)).entries() if isinstance(stored, Stored)]
        return [stored for stored in found if stored.entry.phase is not Phase.RELEASED]

    def _answer(self, name: str, question: dict[str, Any], task: TaskState) -> Any:
        """Return what a person answers who has looked into DATATILE, now or when the task asked."""
        held = self.server.jobs_with(self.server.file.read_text())
        if name == "what was true":
            held = task.looked
        if name == "fail":
            choice = Choice.FAIL
        elif question["repeat"]:
            choice = Choice.AGAIN if name == "again" or not held else Choice.THERE
        else:
            choice = Choice.THERE if held else Choice.NOT_THERE
        event(f"answer: {choice.value}")
        task.said_again = choice is Choice.AGAIN
        return {
            "chosen_options": [choice.value],
            "params_input": {"job_id": held[-1] if held and choice is Choice.THERE else ""},
            "responded_at": "2026-01-05T06:00:00+00:00",
            "responded_by_user": {"id": "1", "name": "Ada"},
        }

    def _event(self, deferred: TaskDeferred) -> dict[str, Any]:
        """Return the event of the triggerer at the end of the wait."""
        job_id = getattr(deferred.trigger, "job_id", None)
        if job_id is None:
            return {"version": 1, "retry": True}
        if self.server.jobs[job_id] == "running":
            return ended(errors.JobTimeoutError(f"Job {job_id} was not finished"))
        if self.server.jobs[job_id] in ("doomed", "failed"):
            return ended(errors.JobFailedError(f"Job {job_id} failed"))
        return {"job": Job(job_id, JobState.SUCCEEDED).as_dict()}

    @rule(change=st.sampled_from(["jobs", "jobs", "file", "ledger", "forget"]))
    def time_passes(self, change: str) -> None:
        if change == "jobs":
            self.server.jobs = {job_id: NEXT.get(state, state) for job_id, state in self.server.jobs.items()}
        elif change == "file":
            self.server.change_file()
        elif change == "ledger":
            self.storage.away = not self.storage.away
        elif not self.server.jobs_with(content := self.server.file.read_text()):
            # A person who has looked into DATATILE, and found nothing.
            for stored in self._in_the_way():
                if stored.entry.sha256 == hashlib.sha256(content.encode()).hexdigest():
                    Ledger(_Quiet(self.storage)).change(stored.name, Phase.RELEASED)

    @invariant()
    def nothing_is_held_twice(self) -> None:
        if hasattr(self, "server"):
            assert not self.server.repeated, (self.server.jobs, self.server.contents, self.storage.files)


class _Quiet(Storage):
    """The same files, without crashes and outages."""

    def __init__(self, storage: Storage) -> None:
        self.files = storage.files

    def _call(self) -> Iterator[None]:
        yield


TestRepeats = pytest.mark.timeout(400)(Repeats.TestCase)  # Shrinking takes up to 300 s.
TestRepeats.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
