"""One task instance as Airflow runs it, try after try, with a state store and without a database."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, BaseOperator, TaskDeferred

from tests.support.faults import Played
from tests.support.versions import HAS_STATE_STORE

try:
    from airflow.sdk.bases.operator import ExecutorSafeguard
except ImportError:  # Airflow 2
    from airflow.models.baseoperator import ExecutorSafeguard

# Airflow lets nobody but its task runner call a task.
ExecutorSafeguard.test_mode = True


class Store:
    """The task's state store, as Airflow 3.3 gives it: JSON values that outlive a try."""

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


class Instance:
    """What an operator sees of its task instance."""

    map_index = -1

    def __init__(self, max_tries: int) -> None:
        self.max_tries = max_tries
        self.try_number = 0
        self.start_date = datetime.now(timezone.utc)
        self.xcoms: dict[str, Any] = {}

    def begin_attempt(self) -> None:
        """Begin as Airflow does, which forgets what an earlier try pushed."""
        self.try_number += 1
        self.xcoms.clear()

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int) -> Any:
        return self.xcoms.get(key)


@dataclasses.dataclass
class Outcome:
    """
    What became of a task.

    :param state: ``success`` or ``failed``.
    :param result: what it returned.
    :param errors: what each failed try raised.
    :param reported: all that Airflow stores of it meanwhile: triggers, events, and what the task is resumed with.
    """

    state: str = "failed"
    result: Any = None
    errors: list[BaseException] = dataclasses.field(default_factory=list)
    reported: list[Any] = dataclasses.field(default_factory=list)

    @property
    def error(self) -> BaseException:
        (error,) = self.errors
        return error


class Task:
    """
    A task instance.

    :param make: makes the operator: once for each process that Airflow would start.
    :param retries: how often Airflow tries again.
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
        """Let it be run once more, as a person does in the UI."""
        self.ti.max_tries += self.ti.try_number

    def run(self, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        """
        Run it to its end.

        :param meanwhile: called each time that it is deferred.
        """
        outcome = Outcome()
        while True:
            self.ti.begin_attempt()
            try:
                outcome.result = self._attempt(outcome, meanwhile)
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

    def _attempt(self, outcome: Outcome, meanwhile: Callable[[], None]) -> Any:
        operator = self._make()
        try:
            # In a thread of its own, Airflow 2 would not find out whether it may.
            return type(operator).execute.__wrapped__(operator, self.context)
        except TaskDeferred as e:
            deferred = e
        while True:
            self.deferrals.append(deferred.method_name)
            self.limits.append(deferred.timeout)
            meanwhile()
            path, kwargs = deferred.trigger.serialize()
            stored = json.loads(json.dumps({"trigger": [path, kwargs], "kwargs": deferred.kwargs or {}}))
            event = asyncio.run(_first_event(*stored["trigger"]))
            outcome.reported += [stored, event]
            try:
                return self._make().resume_execution(
                    deferred.method_name, {**stored["kwargs"], "event": event}, self.context
                )
            except TaskDeferred as e:
                deferred = e


@dataclasses.dataclass
class Run:
    """
    One task, at its end.

    :param accepted: how many uploads the server accepted.
    :param log: what the proxy saw.
    """

    task: Task
    outcome: Outcome
    accepted: int
    log: list[Played]
    target: str

    @property
    def result(self) -> str:
        if self.outcome.state == "success":
            return f"succeeds; {self.accepted} accepted"
        last = self.outcome.errors[-1]
        known = "unknown" if "It is unknown whether" in str(last) else "refused"
        kind = known if isinstance(last, AirflowFailException) else type(last).__name__
        return f"fails: {kind}; {self.accepted} accepted"

    def uploads(self) -> list[Played]:
        return [played for played in self.log if played.method == "POST"]


async def _first_event(path: str, kwargs: dict[str, Any]) -> Any:
    module, _, name = path.rpartition(".")
    trigger = getattr(import_module(module), name)(**kwargs)

    async def first() -> Any:
        async for event in trigger.run():
            return json.loads(json.dumps(event.payload))

    return await asyncio.wait_for(first(), 30)
