"""
Exactly once, or an error: the real operator under interleavings of faults, crashes, retries and clears.

Only the transport, the clock and the state store are models. A crash is an exception that no code catches. It is
raised at one of the crash points: each request, sleep and call of the state store.
"""

from __future__ import annotations

import json
import re
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
from datatile_provider.api.models import Job
from datatile_provider.api.states import JobState
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.question import Choice
from datatile_provider.triggers.datatile import ended
from tests.support.clock import Clock
from tests.support.task import FailingStore, Instance, TaskAwaitingInput, WorkerKilled

#: The possible outcomes of an upload: what the client sees, and the state of the server's job, if it accepts one.
TRANSPORT = {
    "accepted": (200, "running"),
    "accepted, and the job will fail": (200, "doomed"),
    "accepted, and the response lost": ("nothing", "running"),
    "accepted, and the response not JSON": ("html", "running"),
    "accepted, and a gateway's 502": (502, "running"),
    "a gateway's 504, and not accepted": (504, None),
    "lost after the last byte": ("nothing", None),
    "connection refused": ("unreachable", None),
    "reset in the body": ("reset", None),
    "the file changes while it is read": ("changed", None),
    "busy": (409, None),
    "too fast": (429, None),
    "overloaded": (503, None),
    "accepted, and a gateway's 503": (503, "running"),
    "too large": (413, None),
}
#: The next state of a job, after a poll.
NEXT = {"running": "succeeded", "doomed": "failed"}


class Environment:
    """The transport with the server behind it, and the crashes and outages of one attempt."""

    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        self.file = Path(self.folder.name) / "wave.csv"
        self.file.write_text("respondent,vote\n1,2\n")
        self.jobs: dict[str, str] = {}
        self.targets: dict[str, str] = {}
        self.token = "token-1"

    def begin(
        self,
        transport: list[str],
        crash_at: int | None,
        crash: type[BaseException],
        outage: range,
        outage_is_after: bool,
    ) -> None:
        """
        Start an attempt.

        :param transport: the outcomes of its uploads.
        :param crash_at: the crash point at which it ends early.
        :param crash: the exception that ends it.
        :param outage: which of its calls of the state store fail.
        :param outage_is_after: they fail after they have taken effect.
        """
        self.transport, self.crash_at, self.crash = list(transport), crash_at, crash
        self.outage, self.outage_is_after = outage, outage_is_after
        self.crash_points = self.store_calls = 0

    def crash_point(self) -> None:
        """A point at which the process may end early."""
        self.crash_points += 1
        if self.crash_points == self.crash_at:
            raise self.crash

    def store_outage(self) -> str | None:
        """Return whether this call of the state store fails, and whether before or after it has taken effect."""
        self.store_calls += 1
        if self.store_calls not in self.outage:
            return None
        return "after" if self.outage_is_after else "before"

    def change_file(self) -> None:
        self.file.write_text(self.file.read_text() + "1,2\n")

    def held(self) -> set[str]:
        """The jobs whose data the server has stored, or will."""
        return {job_id for job_id, state in self.jobs.items() if state in ("running", "succeeded")}

    def send(self, adapter: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Replace the transport adapter of requests."""
        self.crash_point()
        if request.method == "POST":
            return self._upload(request)
        if request.headers["token"] != self.token:
            return response(401)
        job_id = request.path_url.rpartition("/")[2]
        if job_id not in self.jobs:
            return response(404, {"error": "no such job"})
        self.jobs[job_id] = NEXT.get(self.jobs[job_id], self.jobs[job_id])
        return response(200, {"job_id": job_id, "status": self.jobs[job_id]})

    def _upload(self, request: requests.PreparedRequest) -> requests.Response:
        name = self.transport.pop(0) if self.transport else "accepted"
        seen, state = TRANSPORT[name]
        event(f"transport: {name}")
        if seen == "unreachable":
            raise requests.ConnectionError("refused")
        body: Any = request.body
        for number, _ in enumerate(body):
            if number == 1:
                self.crash_point()
                if seen == "changed":
                    self.change_file()
                if seen == "reset":
                    raise requests.ConnectionError("reset")
        if request.headers["token"] != self.token:
            return response(401)
        job_id = f"job-{len(self.jobs) + 1}"
        if state:
            self.jobs[job_id] = state
            self.targets[job_id] = request.path_url.rpartition("/")[2]
        self.crash_point()
        if seen == "nothing":
            raise requests.ConnectionError("reset")
        if seen == "html":
            return response(200, "<html>")
        assert isinstance(seen, int)
        return response(seen, {"job_id": job_id} if seen == 200 else {"error": "no"})


def response(status: int, body: Any = None) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    if status == 429:
        response.headers["Retry-After"] = "30"
    response.raw = urllib3.HTTPResponse(BytesIO(json.dumps(body).encode()), preload_content=False)
    return response


class Uploads(RuleBasedStateMachine):
    """One task instance of Airflow, one server, and a user who clears the task."""

    @initialize(
        action=st.sampled_from(["create", "append", "append", "reload"]),
        waits=st.sampled_from(["no", "in the worker", "deferred", "deferred"]),
        on_unknown=st.sampled_from(["fail", "fail", "ask", "ask", "ask", "resend"]),
        retries=st.integers(0, 3),
    )
    def start(self, action: str, waits: str, on_unknown: str, retries: int) -> None:
        self.environment = Environment()
        self.once = action != "reload" and on_unknown != "resend"
        self.retries = retries
        self.arguments: dict[str, Any] = {
            "task_id": "upload",
            "action": action,
            "target_hash": "f00d",
            "dataset": str(self.environment.file),
            "wait_for_completion": waits != "no",
            "deferrable": waits == "deferred",
            "on_unknown": on_unknown,
            "accept_timeout": 120,
        }
        self.ti = Instance(retries)
        self.store = FailingStore(self.environment.crash_point, self.environment.store_outage)
        self.deferred: Any = None  # The TaskDeferred or TaskAwaitingInput that the task waits with.
        self.state = "scheduled"
        # Jobs that a failure or a success reported; jobs of a cleared success; jobs from before the last clear.
        self.reported: set[str] = set()
        self.cleared_successes: set[str] = set()
        self.before_clear: set[str] = set()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("requests.adapters.HTTPAdapter.send", lambda *a, **kw: self.environment.send(*a, **kw))
        self.patch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", self, raising=False)
        # A sleep is a crash point.
        clock = Clock(on_sleep=lambda: self.environment.crash_point())
        for module in (
            "hooks.connection",
            "hooks.datatile",
            "hooks.upload",
            "operators.datatile",
            "operators.attempt",
            "operators.answered",
            "triggers.datatile",
            "state_store",
        ):
            self.patch.setattr(f"datatile_provider.{module}.time", clock)
        self._connect()

    def send(self, message: Any) -> Any:
        """Take a question, as Airflow's API server does, and ignore other messages."""
        if type(message).__name__ == "CreateHITLDetailPayload":
            self.environment.crash_point()
        return message

    def _connect(self) -> None:
        connection = {"conn_type": "datatile", "host": "http://127.0.0.1:9", "password": self.environment.token}
        self.patch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", json.dumps(connection))
        self.token = self.environment.token

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            self.environment.folder.cleanup()

    @rule(
        clear=st.sampled_from([False, False, False, True]),
        changed=st.sampled_from([False, False, False, True]),
        transport=st.lists(st.sampled_from([*TRANSPORT, "accepted", "accepted"]), max_size=3),
        crash_at=st.one_of(st.none(), st.integers(1, 12), st.integers(1, 30)),
        crash=st.sampled_from([WorkerKilled, AirflowTaskTimeout]),
        outage=st.one_of(st.just(range(0)), st.builds(range, st.integers(1, 5), st.sampled_from([2, 4, 6, 99]))),
        outage_is_after=st.booleans(),
        report_lost=st.sampled_from([False, False, False, True]),
        trigger_fails=st.sampled_from([False] * 5 + [True]),
        answer=st.sampled_from(["truth", "truth", "truth, without a job", "fail", "timeout", "wrong job", "garbage"]),
    )
    def work(
        self,
        clear: bool,
        changed: bool,
        transport: list[str],
        crash_at: int | None,
        crash: type[BaseException],
        outage: range,
        outage_is_after: bool,
        report_lost: bool,
        trigger_fails: bool,
        answer: str,
    ) -> None:
        """A worker starts or resumes the task. A user may have cleared it, and must have if it had ended."""
        if clear or self.state != "scheduled":
            self._clear(changed=changed)
        undisturbed = not (transport or crash_at or outage or self.deferred or self.store.rows)
        undisturbed = undisturbed and self.token == self.environment.token
        self.environment.begin(transport, crash_at, crash, outage, outage_is_after)
        operator = DatatileUploadOperator(**self.arguments)
        context: Any = {"ti": self.ti, "task_state_store": self.store}
        deferred, self.deferred = self.deferred, None
        result, error = None, None
        try:
            if deferred:
                method, kwargs = deferred.method_name, json.loads(json.dumps(deferred.kwargs or {}))
                if trigger_fails:
                    method, kwargs = "__fail__", {"error": "Trigger failure"}
                elif method == "resume_answered":
                    kwargs["event"] = self._answer(answer)
                else:
                    kwargs["event"] = self._event(deferred)
                result = operator.resume_execution(method, kwargs, context)
            else:
                self.ti.begin_attempt()
                result = operator.execute(context)
        except (TaskDeferred, TaskAwaitingInput) as e:
            self.deferred = e
            event(f"deferred to {e.method_name}")
            return
        except (Exception, WorkerKilled, AirflowTaskTimeout) as e:
            error = e
            event(f"raised {type(e).__name__}")
        assert result or not undisturbed, error
        if result == "":
            event("succeeded without a job")
        elif result:
            assert self.environment.jobs[result] == "succeeded" or not self.arguments["wait_for_completion"]
            assert self.environment.targets[result] == self.arguments["target_hash"]
            assert result not in self.cleared_successes, (
                "success, but nothing was uploaded since a user cleared the last one"
            )
            event("succeeded")
        # An error of unknown outcome reports every job that was not reported yet. A record of phase done or reported
        # is in the log of an attempt that crashed right after.
        text = str(error or result)
        if record := self.store.rows.get("datatile_upload"):
            text += record if json.loads(record)["phase"] in ("done", "reported") else ""
        self.reported |= self.environment.held() if "OUTCOME UNKNOWN" in text else set(re.findall(r"job-\d+", text))
        self._report(result, error, report_lost)

    def _clear(self, *, changed: bool) -> None:
        self.ti.max_tries = self.ti.try_number + self.retries
        self.before_clear = set(self.environment.jobs)
        if self.state == "success" and self.result:
            self.cleared_successes.add(self.result)
        self.state, self.deferred = "scheduled", None
        if changed:
            # A user who changes the target has checked the jobs of the old one.
            self.arguments["target_hash"] = "beef" if self.arguments["target_hash"] == "f00d" else "f00d"
            self.reported |= self.environment.held()

    def _report(self, result: str | None, error: BaseException | None, report_lost: bool) -> None:
        """Airflow learns how the attempt ended, or only that its worker is gone."""
        final = isinstance(error, (AirflowFailException, AirflowSensorTimeout))
        if result is not None and not report_lost:
            self.state, self.result = "success", result
        elif (final and not report_lost) or self.ti.try_number > self.ti.max_tries:
            self.state = "failed"

    def _answer(self, name: str) -> Any:
        """Return what a person answers who has looked for the upload, or has not understood the question."""
        event(f"answer: {name}")
        doubtful = sorted(self.environment.held() - self.reported)
        self.reported |= self.environment.held()
        if name == "garbage":
            return {"chosen_options": ["Maybe"]}
        choice = {"fail": Choice.FAIL, "timeout": Choice.FAIL, "wrong job": Choice.THERE}.get(
            name, Choice.THERE if doubtful else Choice.NOT_THERE
        )
        job = {"truth": doubtful[-1] if doubtful else "", "wrong job": "job-99"}.get(name, "")
        return {
            "chosen_options": [choice.value],
            "params_input": {"job_id": job},
            "responded_at": "2026-01-05T06:00:00+00:00",
            "responded_by_user": None if name == "timeout" else {"id": "1", "name": "Ada"},
        }

    def _event(self, deferred: TaskDeferred) -> dict[str, Any]:
        """Return the event of the triggerer at the end of the wait."""
        job_id = getattr(deferred.trigger, "job_id", None)
        if job_id is None:
            return {"version": 1, "retry": True}
        if self.environment.jobs[job_id] == "running":
            return ended(errors.JobTimeoutError(f"Job {job_id} was not finished"))
        if self.environment.jobs[job_id] in ("doomed", "failed"):
            return ended(errors.JobFailedError(f"Job {job_id} failed"))
        return {"job": Job(job_id, JobState.SUCCEEDED).as_dict()}

    @rule(change=st.sampled_from(["job", "file", "token", "connection"]))
    def time_passes(self, change: str) -> None:
        if change == "job":
            self.environment.jobs = {job_id: NEXT.get(state, state) for job_id, state in self.environment.jobs.items()}
        elif change == "file":
            self.environment.change_file()
        elif change == "token":
            self.environment.token += "1"
        else:
            self._connect()

    @invariant()
    def never_two_between_clears(self) -> None:
        if getattr(self, "once", False):
            assert len(self.environment.held() - self.before_clear) <= 1, self.environment.jobs

    @invariant()
    def never_two_without_a_report(self) -> None:
        """Nor across clears: a user who clears a task without a report has not decided anything."""
        if getattr(self, "once", False):
            assert len(self.environment.held() - self.reported) <= 1, self.environment.jobs


@pytest.mark.needs_airflow(">=3.3")
def test_a_worker_dies_before_the_error_of_its_wait_is_in_the_log(monkeypatch):
    """A person who then clears the task with a new file has not read of the first one's job."""
    monkeypatch.setitem(globals(), "event", lambda name: None)  # It needs a test of Hypothesis.
    machine = Uploads()
    machine.start(action="create", waits="deferred", on_unknown="fail", retries=0)
    try:
        attempt = {
            "clear": False,
            "changed": False,
            "transport": [],
            "crash": WorkerKilled,
            "outage": range(0),
            "outage_is_after": False,
            "report_lost": False,
            "trigger_fails": False,
            "answer": "truth",
        }
        machine.work(**attempt, crash_at=None)
        machine.time_passes(change="file")
        for crash_at in (4, None):
            machine.work(**attempt, crash_at=crash_at)
            machine.never_two_without_a_report()
    finally:
        machine.teardown()


TestUploads = pytest.mark.needs_airflow(">=3.3")(Uploads.TestCase)
TestUploads = pytest.mark.timeout(400)(TestUploads)  # Shrinking takes up to 300 s.
TestUploads.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
