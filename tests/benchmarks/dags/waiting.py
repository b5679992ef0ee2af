"""Waits for the jobs in the run's configuration: a DAG per mode, and a small one to warm up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

COMMON: dict[str, Any] = {
    "poke_interval": float(os.environ.get("DATATILE_BENCHMARK_INTERVAL", "5")),
    "timeout": 3600,
    # On a slow machine, Airflow fails a task that is queued again before the end of its last poke is processed.
    "retries": 5,
    "retry_delay": timedelta(seconds=1),
}
MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
    "start_from_trigger": {"deferrable": True, "start_from_trigger": True},
}


def add_dags(prefix: str, modes: Iterable[str], wait: Callable[..., object]) -> None:
    """
    Add the DAGs of one kind of sensor.

    :param wait: makes the task that waits for a job, from the template of the job's id and the operator's arguments.
    """
    for size, waits in (("", int(os.environ["DATATILE_BENCHMARK_WAITS"])), ("_once", 1)):
        for mode in modes:
            with DAG(f"{prefix}_{mode}{size}", schedule=None):
                for n in range(waits):
                    wait(f"{{{{ dag_run.conf.jobs[{n}] }}}}", task_id=f"wait_{n}", **COMMON, **MODES[mode])
