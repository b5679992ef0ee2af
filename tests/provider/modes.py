"""The modes to run a task in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

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


def add_tasks(operator: type, modes: dict[str, dict[str, Any]], **arguments: Any) -> None:
    """Add one task for each mode to the DAG of the running ``with``."""
    for mode, options in modes.items():
        own = {k: v.replace("{mode}", mode) if isinstance(v, str) else v for k, v in arguments.items()}
        operator(**{"task_id": mode, "retries": 2, "retry_delay": timedelta(0), **own, **options})
