"""
Exactly once, or loud: the real operator under every interleaving of faults, deaths, retries and clears.

Only the wire, the clock and the state store are models. A death is an exception that no code catches, raised at one
of the points where the operator touches the world.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import requests
import urllib3
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
from datatile_provider.api.contract import Job
from datatile_provider.api.states import JobState
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.triggers.datatile import ended
from tests.reliability.task import Instance, Store

#: What may become of one upload: what the client sees, and the state of the server's job, if it makes one.
WIRE = {
    "accepted": (200, "running"),
    "accepted, and its job will fail": (200, "doomed"),
    "accepted, and the answer lost": ("nothing", "running"),
    "accepted, and the answer odd": ("odd", "running"),
    "accepted, and a gateway's 502": (502, "running"),
    "a gateway's 504, and nothing accepted": (504, None),
    "lost after the last byte": ("nothing", None),
    "refused at connecting": ("unreachable", None),
    "broken in the body": ("broken", None),
    "the file changes while it is read": ("changed", None),
    "busy": (409, None),
    "too fast": (429, None),
    "overloaded": (503, None),
    "accepted, and a gateway's 503": (503, "running"),
    "too large": (413, None),
}
#: A look at a job moves it on.
NEXT = {"running": "succeeded", "doomed": "failed"}


class Death(BaseException):
    """The worker is gone."""


class Clock:
    """A clock that a sleep moves; whoever sleeps may die."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._now = 1_800_000_000.0

    def time(self) -> float:
        return self._now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        self._world.point()

    def gmtime(self) -> Any:
        return datetime.fromtimestamp(self._now, timezone.utc).timetuple()

    @staticmethod
    def strftime(form: str, at: Any) -> str:
        return datetime(*at[:6]).strftime(form)


class World:
    """The wire with the server at its end, and the deaths and outages of one try."""

    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        self.file = Path(self.folder.name) / "wave.csv"
        self.file.write_text("respondent,vote\n1,2\n")
        self.jobs: dict[str, str] = {}
        self.targets: dict[str, str] = {}
        self.token = "token-1"

    def begin(
        self,
        wire: list[str],
        last_point: int | None,
        end: type[BaseException],
        outage: range,
        outage_is_after: bool,
    ) -> None:
        """
        Begin a try.

        :param wire: what becomes of its uploads.
        :param last_point: the point at which it ends before its time.
        :param end: how it does.
        :param outage: which of its calls of the store fail.
        :param outage_is_after: they fail after they have done what they were to do.
        """
        self.wire, self.last_point, self.end = list(wire), last_point, end
        self.outage, self.outage_is_after = outage, outage_is_after
        self.points = self.store_calls = 0

    def point(self) -> None:
        """A point at which the process may die."""
        self.points += 1
        if self.points == self.last_point:
            raise self.end

    def change_file(self) -> None:
        self.file.write_text(self.file.read_text() + "1,2\n")

    def held(self) -> set[str]:
        """The jobs whose data the server holds, or will."""
        return {job_id for job_id, state in self.jobs.items() if state in ("running", "succeeded")}

    def send(self, adapter: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Stand in for the transport of requests."""
        self.point()
        if request.method == "POST":
            return self._upload(request)
        if request.headers["token"] != self.token:
            return response(401)
        job_id = request.path_url.rpartition("/")[2]
        self.jobs[job_id] = NEXT.get(self.jobs[job_id], self.jobs[job_id])
        return response(200, {"job_id": job_id, "status": self.jobs[job_id]})

    def _upload(self, request: requests.PreparedRequest) -> requests.Response:
        name = self.wire.pop(0) if self.wire else "accepted"
        seen, state = WIRE[name]
        event(f"wire: {name}")
        if seen == "unreachable":
            raise requests.ConnectionError("refused")
        for number, _ in enumerate(request.body):
            if number == 1:
                self.point()
                if seen == "changed":
                    self.change_file()
                if seen == "broken":
                    raise requests.ConnectionError("reset")
        if request.headers["token"] != self.token:
            return response(401)
        job_id = f"job-{len(self.jobs) + 1}"
        if state:
            self.jobs[job_id] = state
            self.targets[job_id] = request.path_url.rpartition("/")[2]
        self.point()
        if seen == "nothing":
            raise requests.ConnectionError("reset")
        if seen == "odd":
            return response(200, "<html>")
        return response(seen, {"job_id": job_id} if seen == 200 else {"error": "no"})


def response(status: int, body: Any = None) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    if status == 429:
        response.headers["Retry-After"] = "30"
    response.raw = urllib3.HTTPResponse(BytesIO(json.dumps(body).encode()), preload_content=False)
    return response


class FailingStore(Store):
    """The state store behind an API server that may be down, before or after it has done what it was asked."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def _call(self, do: Any, *arguments: Any) -> Any:
        world = self._world
        world.point()
        world.store_calls += 1
        down = world.store_calls in world.outage
        found = None if down and not world.outage_is_after else do(*arguments)
        world.point()
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


class Uploads(RuleBasedStateMachine):
    """One task instance of Airflow, one server, and a person who looks and clears."""

    @initialize(
        action=st.sampled_from(["create", "append", "append", "reload"]),
        waits=st.sampled_from(["no", "in the worker", "deferred", "deferred"]),
        resend=st.sampled_from([False, False, True]),
        retries=st.integers(0, 3),
    )
    def start(self, action: str, waits: str, resend: bool, retries: int) -> None:
        self.world = World()
        self.once = action != "reload" and not resend
        self.retries = retries
        self.arguments = {
            "task_id": "upload",
            "action": action,
            "target_hash": "f00d",
            "dataset": str(self.world.file),
            "wait_for_completion": waits != "no",
            "deferrable": waits == "deferred",
            "resend_unknown": resend,
            "accept_timeout": 120,
        }
        self.ti = Instance(retries)
        self.store = FailingStore(self.world)
        self.deferred: TaskDeferred | None = None
        self.state = "scheduled"
        # Jobs that a failure or a success told of; of a success that a person cleared; from before the last clear.
        self.reported: set[str] = set()
        self.over: set[str] = set()
        self.before: set[str] = set()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("requests.adapters.HTTPAdapter.send", lambda *a, **kw: self.world.send(*a, **kw))
        clock = Clock(self.world)
        for module in ("hooks", "operators", "triggers"):
            self.patch.setattr(f"datatile_provider.{module}.datatile.time", clock)
        self.patch.setattr("datatile_provider.operators.upload_state.time", clock)
        self._connect()

    def _connect(self) -> None:
        connection = {"conn_type": "datatile", "host": "http://127.0.0.1:9", "password": self.world.token}
        self.patch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", json.dumps(connection))
        self.token = self.world.token

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            self.world.folder.cleanup()

    @rule(
        clear=st.sampled_from([False, False, False, True]),
        mended=st.sampled_from([False, False, False, True]),
        wire=st.lists(st.sampled_from([*WIRE, "accepted", "accepted"]), max_size=3),
        last_point=st.one_of(st.none(), st.integers(1, 12), st.integers(1, 30)),
        end=st.sampled_from([Death, AirflowTaskTimeout]),
        outage=st.one_of(st.just(range(0)), st.builds(range, st.integers(1, 5), st.sampled_from([2, 4, 6, 99]))),
        outage_is_after=st.booleans(),
        report_lost=st.sampled_from([False, False, False, True]),
        trigger_breaks=st.sampled_from([False] * 5 + [True]),
    )
    def work(
        self,
        clear: bool,
        mended: bool,
        wire: list[str],
        last_point: int | None,
        end: type[BaseException],
        outage: range,
        outage_is_after: bool,
        report_lost: bool,
        trigger_breaks: bool,
    ) -> None:
        """A worker takes the task, or takes it up again; a person may have cleared it, and must when it has ended."""
        if clear or self.state != "scheduled":
            self._clear(mended=mended)
        undisturbed = not (wire or last_point or outage or self.deferred or self.store.rows)
        undisturbed = undisturbed and self.token == self.world.token
        self.world.begin(wire, last_point, end, outage, outage_is_after)
        operator = DatatileUploadOperator(**self.arguments)
        context: Any = {"ti": self.ti, "task_state_store": self.store}
        deferred, self.deferred = self.deferred, None
        result, error = None, None
        try:
            if deferred:
                method, kwargs = deferred.method_name, json.loads(json.dumps(deferred.kwargs or {}))
                if trigger_breaks:
                    method, kwargs = "__fail__", {"error": "Trigger failure"}
                else:
                    kwargs["event"] = self._event(deferred)
                result = operator.resume_execution(method, kwargs, context)
            else:
                self.ti.begin_attempt()
                result = operator.execute(context)
        except TaskDeferred as e:
            self.deferred = e
            event(f"deferred to {e.method_name}")
            return
        except (Exception, Death, AirflowTaskTimeout) as e:
            error = e
            event(f"raised {type(e).__name__}")
        assert result or not undisturbed, error
        if result:
            assert self.world.jobs[result] == "succeeded" or not self.arguments["wait_for_completion"]
            assert self.world.targets[result] == self.arguments["target_hash"]
            assert result not in self.over, "success, and nothing was uploaded since a person cleared the last one"
            event("succeeded")
        # Whatever nobody was told of yet is what an unknown outcome tells of. What the record calls done or told stands
        # in the log of a try that died right after.
        text = str(error or result)
        if record := self.store.rows.get("datatile_upload"):
            text += record if json.loads(record)["phase"] in ("done", "reported") else ""
        self.reported |= self.world.held() if "It is unknown whether" in text else set(re.findall(r"job-\d+", text))
        self._report(result, error, report_lost)

    def _clear(self, *, mended: bool) -> None:
        self.ti.max_tries = self.ti.try_number + self.retries
        self.before = set(self.world.jobs)
        if self.state == "success":
            self.over.add(self.result)
        self.state, self.deferred = "scheduled", None
        if mended:
            # Who lets the task be about another target has decided what becomes of the last one.
            self.arguments["target_hash"] = "beef" if self.arguments["target_hash"] == "f00d" else "f00d"
            self.reported |= self.world.held()

    def _report(self, result: str | None, error: BaseException | None, lost: bool) -> None:
        """Airflow hears how the try ended, or only that its worker is gone."""
        final = isinstance(error, (AirflowFailException, AirflowSensorTimeout))
        if result and not lost:
            self.state, self.result = "success", result
        elif (final and not lost) or self.ti.try_number > self.ti.max_tries:
            self.state = "failed"

    def _event(self, deferred: TaskDeferred) -> dict[str, Any]:
        """What the triggerer tells when the wait is over."""
        job_id = getattr(deferred.trigger, "job_id", None)
        if job_id is None:
            return {"version": 1, "retry": True}
        if self.world.jobs[job_id] == "running":
            return ended(errors.JobTimeoutError(f"Job {job_id} was not finished"))
        if self.world.jobs[job_id] in ("doomed", "failed"):
            return ended(errors.JobFailedError(f"Job {job_id} failed"))
        return {"job": Job(job_id, JobState.SUCCEEDED).as_dict()}

    @rule(what=st.sampled_from(["job", "file", "token", "connection"]))
    def time_passes(self, what: str) -> None:
        if what == "job":
            self.world.jobs = {job_id: NEXT.get(state, state) for job_id, state in self.world.jobs.items()}
        elif what == "file":
            self.world.change_file()
        elif what == "token":
            self.world.token += "1"
        else:
            self._connect()

    @invariant()
    def never_two_between_clears(self) -> None:
        if getattr(self, "once", False):
            assert len(self.world.held() - self.before) <= 1, self.world.jobs

    @invariant()
    def never_two_in_silence(self) -> None:
        """Nor over clears: a person who clears a task that nobody said anything of has decided nothing."""
        if getattr(self, "once", False):
            assert len(self.world.held() - self.reported) <= 1, self.world.jobs


TestUploads = pytest.mark.needs_airflow(">=3.3")(Uploads.TestCase)
TestUploads = pytest.mark.timeout(400)(TestUploads)  # To find the shortest example takes up to 300 s.
TestUploads.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
