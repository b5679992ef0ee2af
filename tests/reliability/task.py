"""One task instance as Airflow runs it, attempt by attempt, with a state store and without a database."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, BaseOperator, TaskDeferred

from tests.support.faults import LoggedRequest
from tests.support.versions import HAS_STATE_STORE

try:
    from airflow.sdk.bases.operator import ExecutorSafeguard
except ImportError:  # Airflow 2
    from airflow.models.baseoperator import ExecutorSafeguard

# Airflow allows only its task runner to call ``execute``.
ExecutorSafeguard.test_mode = True


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

    map_index = -1

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

    :param state: ``success`` or ``failed``.
    :param result: what it returned.
    :param errors: what each failed attempt raised.
    :param stored: what Airflow stores meanwhile: triggers, events, and the arguments that the task is resumed with.
    """

    state: str = "failed"
    result: Any = None
    errors: list[BaseException] = dataclasses.field(default_factory=list)
    stored: list[Any] = dataclasses.field(default_factory=list)

    @property
    def error(self) -> BaseException:
        (error,) = self.errors
        return error


class Task:
    """
    A task instance.

    :param make: makes the operator; called for each process that Airflow would start.
    :param retries: how often Airflow retries the task.
    """

    def __init__(self, make: Callable[[], BaseOperator], retries: int = 0) -> None:
        self._make = make
        self.ti = Instance(retries)
        self.store = Store()
        self.deferrals: list[str] = []
        self.limits: list[timedelta | None] = []

    @property
    def context(self) -> Any:
        return {"ti": self.ti, "task_state_store": self.store} if HAS_STATE_STORE else {"ti": self.ti}

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
            try:
                outcome.result = self._attempt(outcome, while_deferred)
            except (AirflowFailException, AirflowSensorTimeout) as e:
                outcome.errors.append(e)
                return outcome
            except Exception as e:
                outcome.errors.append(e)
                if self.ti.try_number > self.ti.max_tries:
                    return outcome
            else:
                outcome.state = "success"
                return outcome

    def _attempt(self, outcome: Outcome, while_deferred: Callable[[], None]) -> Any:
        operator = self._make()
        try:
            # Airflow 2 checks per thread whether ``execute`` may be called; the tests run tasks in other threads.
            return type(operator).execute.__wrapped__(operator, self.context)
        except TaskDeferred as e:
            deferred = e
        while True:
            self.deferrals.append(deferred.method_name)
            self.limits.append(deferred.timeout)
            while_deferred()
            path, kwargs = deferred.trigger.serialize()
            stored = json.loads(json.dumps({"trigger": [path, kwargs], "kwargs": deferred.kwargs or {}}))
            event = asyncio.run(_first_event(*stored["trigger"]))
            outcome.stored += [stored, event]
            try:
                return self._make().resume_execution(
                    deferred.method_name, {**stored["kwargs"], "event": event}, self.context
                )
            except TaskDeferred as e:
                deferred = e


@dataclasses.dataclass
class Run:
    """
    One task that has ended.

    :param accepted: how many uploads the server accepted.
    :param log: the requests that the proxy received.
    """

    task: Task
    outcome: Outcome
    accepted: int
    log: list[LoggedRequest]
    target: str

    @property
    def result(self) -> str:
        if self.outcome.state == "success":
            return f"succeeds; {self.accepted} accepted"
        last = self.outcome.errors[-1]
        known = "unknown" if "OUTCOME UNKNOWN" in str(last) else "rejected"
        kind = known if isinstance(last, AirflowFailException) else type(last).__name__
        return f"fails: {kind}; {self.accepted} accepted"

    def uploads(self) -> list[LoggedRequest]:
        return [request for request in self.log if request.method == "POST"]


async def _first_event(path: str, kwargs: dict[str, Any]) -> Any:
    module, _, name = path.rpartition(".")
    trigger = getattr(import_module(module), name)(**kwargs)

    async def first() -> Any:
        async for event in trigger.run():
            return json.loads(json.dumps(event.payload))
        # Airflow then fails the task.
        raise AssertionError(f"{path} ended without an event")

    return await asyncio.wait_for(first(), 30)
