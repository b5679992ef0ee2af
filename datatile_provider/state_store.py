"""What a task stores for its next attempt or poke, where Airflow has a state store (3.3 and later)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_PAUSE = 3.0


class StateStore:
    """
    One key of the task's state store. Where Airflow has no store, nothing is stored.

    :param never_expires: whether the value stays for good. Otherwise Airflow deletes it after 30 days.
    :param retry_for: seconds for which a call is retried while Airflow's API server does not respond.
    """

    def __init__(self, context: Context, key: str, *, never_expires: bool = False, retry_for: float = 0.0) -> None:
        self._store: Any = context.get("task_state_store")
        self._key = key
        self._never_expires = never_expires
        self._retry_for = retry_for

    @property
    def lasts(self) -> bool:
        """Whether the next attempt or poke can read what this one stores."""
        return self._store is not None

    def get(self) -> Any:
        """Return the stored value; None if there is none."""
        return self._call("get")

    def set(self, value: Any) -> None:
        """Store a value of plain JSON types."""
        retention = {}
        if self.lasts and self._never_expires:
            from airflow.sdk.execution_time.context import NEVER_EXPIRE

            retention = {"retention": NEVER_EXPIRE}
        self._call("set", value, **retention)

    def delete(self) -> None:
        self._call("delete")

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self._store is None:
            return None
        deadline = time.monotonic() + self._retry_for
        while True:
            try:
                return getattr(self._store, method)(self._key, *args, **kwargs)
            except Exception as e:
                from airflow.sdk.exceptions import AirflowRuntimeError

                if not isinstance(e, AirflowRuntimeError) or time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE)
