"""The modes to run a task in, and the outcome of a task."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from tests.support.reading import one_line

SENSOR_MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
}
OPERATOR_WAITS: dict[str, dict[str, Any]] = {
    "wait_in_worker": {"wait_for_completion": True, "deferrable": False},
    "wait_deferred": {"wait_for_completion": True, "deferrable": True},
}
OPERATOR_MODES: dict[str, dict[str, Any]] = {"fire_and_forget": {}, **OPERATOR_WAITS}


@dataclasses.dataclass
class Outcome:
    """
    The outcome of a task.

    :param state: the task instance's state at the end.
    :param attempts: the number of attempts.
    :param result: what it returned.
    :param job_id: the job id that it pushed.
    :param errors: what each failed attempt raised.
    :param task: the task of the last attempt, with rendered templates.
    :param log: the logs of worker and triggerer, which all tasks of a DAG share.
    """

    state: str
    attempts: int
    result: Any
    job_id: Any
    errors: list[BaseException]
    task: Any
    log: str = dataclasses.field(repr=False)

    def assert_failed(self, kind: type[Exception], *texts: str) -> None:
        """Assert that the first attempt failed for good, with these texts in its error, and no chained exception."""
        assert (self.state, self.attempts, self.result) == ("failed", 1, None), self
        (error,) = self.errors
        assert type(error) is kind
        assert error.__cause__ is None
        assert error.__suppress_context__
        for text in texts:
            assert text in one_line(error), self


class TaskRecorder:
    """
    Records the attempts of tasks and their errors, by wrapping the methods that run them.

    Airflow's callbacks are not enough: before 3.2, `dag.test()` does not call ``on_failure_callback``.
    """

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, int], Any] = {}
        self.errors: dict[tuple[str, int], list[BaseException]] = {}
        self.attempts: Counter[tuple[str, int]] = Counter()

    def record(self, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Record the tasks of an operator."""
        for name in ("execute", "resume_execution"):
            monkeypatch.setattr(kind, name, self._wrapped(getattr(kind, name)))

    def _wrapped(self, method: Any) -> Any:
        @functools.wraps(method)
        def wrapped(task: Any, *args: Any, **kwargs: Any) -> Any:
            ti = (kwargs.get("context") or args[-1])["ti"]
            key = ti.task_id, ti.map_index
            self.tasks[key] = task
            try:
                result = method(task, *args, **kwargs)
            except BaseException as e:
                if type(e).__name__ not in ("TaskDeferred", "AirflowRescheduleException"):
                    self.attempts[key] += 1
                    self.errors.setdefault(key, []).append(e)
                raise
            self.attempts[key] += 1
            return result

        return wrapped


def add_tasks(operator: type, modes: dict[str, dict[str, Any]], **arguments: Any) -> None:
    """Add one task for each mode to the DAG of the running ``with``."""
    for mode, options in modes.items():
        own = {k: v.replace("{mode}", mode) if isinstance(v, str) else v for k, v in arguments.items()}
        operator(**{"task_id": mode, "retries": 2, "retry_delay": timedelta(0), **own, **options})
