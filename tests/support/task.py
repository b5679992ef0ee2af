"""One task instance as Airflow runs it, attempt by attempt, with a state store and without a database."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, BaseOperator, TaskDeferred

from tests.support.reading import one_line
from tests.support.versions import HAS_STATE_STORE

try:
    from airflow.sdk.bases.operator import ExecutorSafeguard
except ImportError:  # Airflow 2
    from airflow.models.baseoperator import ExecutorSafeguard  # type: ignore[no-redef]  # another version of Airflow

TaskAwaitingInput: Any
try:
    from airflow.sdk.exceptions import TaskAwaitingInput
except ImportError:  # Airflow before 3.3 defers a task that waits for a person
    TaskAwaitingInput = TaskDeferred

# Airflow allows only its task runner to call ``execute``.
ExecutorSafeguard.test_mode = True


class WorkerKilled(BaseException):
    """The worker process was killed."""


class Store:
    """The task's state store, as in Airflow 3.3: JSON values that outlive an attempt."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.retentions: dict[str, timedelta | None] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.rows[key]) if key in self.rows else default

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        self.rows[key] = json.dumps(value)
        self.retentions[key] = retention

    def delete(self, key: str) -> None:
        self.rows.pop(key, None)


class FailingStore(Store):
    """
    A state store behind an API server with outages.

    :param crash_point: called before and after each call.
    :param outage: called once for each call; returns None, or whether the call fails ``before`` or ``after`` it has
        taken effect.
    """

    def __init__(self, crash_point: Callable[[], None], outage: Callable[[], str | None]) -> None:
        super().__init__()
        self._crash_point, self._outage = crash_point, outage

    def get(self, key: str, default: Any = None) -> Any:
        return self._call(super().get, key, default)

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        self._call(super().set, key, value, retention=retention)

    def delete(self, key: str) -> None:
        self._call(super().delete, key)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._crash_point()
        outage = self._outage()
        result = None if outage == "before" else method(*args, **kwargs)
        self._crash_point()
        if outage:
            # Airflow 2 does not have these modules.
            from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
            from airflow.sdk.execution_time.comms import ErrorResponse

            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))
        return result


class Instance:
    """The part of a task instance that operators use."""

    id = "0197a2a0-0000-7000-8000-000000000001"
    dag_id = "tracker"
    run_id = "manual__2026-01-05"
    task_id = "upload"
    map_index = -1
    next_method: str | None = None

    def __init__(self, max_tries: int) -> None:
        self.max_tries = max_tries
        self.try_number = 0
        self.start_date = datetime.now(timezone.utc)
        self.xcoms: dict[str, Any] = {}

    def begin_attempt(self) -> None:
        """Start an attempt. Like Airflow, delete the XComs of earlier attempts."""
        self.try_number += 1
        self.xcoms.clear()

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int) -> Any:
        return self.xcoms.get(key)


@dataclasses.dataclass
class Outcome:
    """
    The outcome of a task.

    :param state: its state at the end, such as ``success``.
    :param attempts: the number of attempts.
    :param result: what it returned.
    :param job_id: the job id that it pushed.
    :param errors: what each failed attempt raised.
    :param task: the task of the last attempt, with rendered templates.
    :param log: the logs of worker and triggerer, which all tasks of a DAG share; only of a DAG that Airflow runs.
    """

    state: str = "failed"
    attempts: int = 0
    result: Any = None
    job_id: Any = None
    errors: list[BaseException] = dataclasses.field(default_factory=list)
    task: Any = None
    log: str = dataclasses.field(default="", repr=False)

    @property
    def error(self) -> BaseException:
        """The error of the only failed attempt."""
        (error,) = self.errors
        return error

    def assert_failed(self, kind: type[Exception], *texts: str) -> None:
        """Assert that the first attempt failed for good, with these texts in its error, and no chained exception."""
        assert (self.state, self.attempts, self.result) == ("failed", 1, None), self
        assert type(self.error) is kind
        assert self.error.__cause__ is None
        assert self.error.__suppress_context__
        for text in texts:
            assert text in one_line(self.error), self


class Task:
    """
    A task instance.

    ``deferrals`` holds the methods that it was to be resumed with, ``limits`` the timeouts of its triggers, and
    ``stored`` what Airflow stores meanwhile: triggers, events, and the arguments that the task is resumed with.

    :param make: makes the operator; called for each process that Airflow would start.
    :param retries: how often Airflow retries the task.
    :param answer: returns the event of a person's answer, each time that the task has asked.
    """

    def __init__(
        self, make: Callable[[], BaseOperator], retries: int = 0, answer: Callable[[], Any] = lambda: None
    ) -> None:
        self._make = make
        self._answer = answer
        self.ti = Instance(retries)
        self.conf: dict[str, Any] = {}
        self.store = Store()
        self.deferrals: list[str] = []
        self.limits: list[timedelta | None] = []
        self.stored: list[Any] = []

    @property
    def context(self) -> Any:
        context: Any = {"ti": self.ti, "dag_run": SimpleNamespace(conf=self.conf)}
        return {**context, "task_state_store": self.store} if HAS_STATE_STORE else context

    def clear(self) -> None:
        """Clear the task, as a user does in the UI."""
        self.ti.max_tries += self.ti.try_number

    def run(self, while_deferred: Callable[[], None] = lambda: None) -> Outcome:
        """
        Run the task until it has ended.

        :param while_deferred: called each time the task is deferred.
        """
        outcome = Outcome()
        while True:
            self.ti.begin_attempt()
            outcome.attempts += 1
            try:
                outcome.result = self._attempt(outcome, while_deferred)
            except (AirflowFailException, AirflowSensorTimeout) as e:
                outcome.errors.append(e)
                return outcome
            except (Exception, WorkerKilled) as e:
                outcome.errors.append(e)
                if self.ti.try_number > self.ti.max_tries:
                    return outcome
            else:
                outcome.state = "success"
                return outcome
            finally:
                outcome.job_id = self.ti.xcoms.get("job_id")

    def _attempt(self, outcome: Outcome, while_deferred: Callable[[], None]) -> Any:
        outcome.task = operator = self._make()
        try:
            # Airflow 2 checks per thread whether ``execute`` may be called; the tests run tasks in other threads.
            return inspect.unwrap(type(operator).execute)(operator, self.context)
        except (TaskDeferred, TaskAwaitingInput) as e:
            deferred: Any = e
        while True:
            self.deferrals.append(deferred.method_name)
            self.limits.append(deferred.timeout)
            while_deferred()
            if deferred.method_name == "resume_answered":
                stored = json.loads(json.dumps({"kwargs": deferred.kwargs}))
                event = self._answer()
            else:
                path, kwargs = deferred.trigger.serialize()
                stored = json.loads(json.dumps({"trigger": [path, kwargs], "kwargs": deferred.kwargs or {}}))
                event = first_event(*stored["trigger"])
            self.stored += [stored, event]
            outcome.task = self._make()
            try:
                return outcome.task.resume_execution(
                    deferred.method_name, {**stored["kwargs"], "event": event}, self.context
                )
            except (TaskDeferred, TaskAwaitingInput) as e:
                deferred = e


def first_event(path: str, kwargs: dict[str, Any], *, timeout: float | None = 30.0) -> Any:
    """Run a stored trigger as a triggerer does, and return what Airflow stores of its event."""
    module, _, name = path.rpartition(".")
    trigger = getattr(import_module(module), name)(**kwargs)

    async def first() -> Any:
        async for event in trigger.run():
            return json.loads(json.dumps(event.payload))
        # Airflow then fails the task.
        raise AssertionError(f"{path} ended without an event")

    return asyncio.run(asyncio.wait_for(first(), timeout))
