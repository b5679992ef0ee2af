"""The ways to run a task, and what became of it."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

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
    What became of a task.

    :param state: the task instance's state at the end.
    :param attempts: how often it was tried.
    :param result: what it returned.
    :param job_id: the job id that it pushed besides.
    :param errors: what each try raised.
    :param task: the task as it was last executed, its templates rendered.
    :param log: what a person reads in the logs of worker and triggerer; all tasks of a DAG share it.
    """

    state: str
    attempts: int
    result: Any
    job_id: Any
    errors: list[BaseException]
    task: Any
    log: str = dataclasses.field(repr=False)

    def assert_failed(self, kind: type[Exception], *texts: str) -> None:
        """Make sure that it failed at once, in words that hold these texts, and that no other error is behind them."""
        assert (self.state, self.attempts, self.result) == ("failed", 1, None), self
        (error,) = self.errors
        assert type(error) is kind
        assert error.__cause__ is None
        assert error.__suppress_context__
        for text in texts:
            assert text in str(error), self


class Witness:
    """
    Sees what tasks do in each try, one for each call that ends it.

    Airflow's callbacks would tell less: before 3.2, `dag.test()` does not call those of a failure.
    """

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, int], Any] = {}
        self.errors: dict[tuple[str, int], list[BaseException]] = {}
        self.attempts: Counter[tuple[str, int]] = Counter()

    def watch(self, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watch the tasks of an operator."""
        for name in ("execute", "resume_execution"):
            monkeypatch.setattr(kind, name, self._watched(getattr(kind, name)))

    def _watched(self, method: Any) -> Any:
        @functools.wraps(method)
        def watched(task: Any, *args: Any, **kwargs: Any) -> Any:
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

        return watched


def add_tasks(operator: type, modes: dict[str, dict[str, Any]], **arguments: Any) -> None:
    """Add one task for each mode to the DAG of the running ``with``."""
    for mode, options in modes.items():
        own = {k: v.replace("{mode}", mode) if isinstance(v, str) else v for k, v in arguments.items()}
        operator(**{"task_id": mode, "retries": 2, "retry_delay": timedelta(0), **own, **options})
