"""DAGs with one upload, configured by the run, with each mode of waiting."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator

MODES: dict[str, dict[str, Any]] = {
    "upload": {},
    "upload_and_wait": {"wait_for_completion": True},
    # Airflow counts a start while its API server is down as an attempt, so the retry must come after the outage.
    "upload_and_defer": {"wait_for_completion": True, "deferrable": True, "retry_delay": timedelta(seconds=15)},
    # Airflow may lose the first attempt, and a retry must be left after it.
    "upload_and_wait_20_s": {"wait_for_completion": True, "timeout": 20, "retries": 2},
    "upload_and_defer_20_s": {"wait_for_completion": True, "deferrable": True, "timeout": 20, "retries": 2},
    "upload_and_wait_execution_timeout": {"wait_for_completion": True, "execution_timeout": timedelta(seconds=20)},
    "upload_and_defer_execution_timeout": {
        "wait_for_completion": True,
        "deferrable": True,
        "execution_timeout": timedelta(seconds=20),
    },
}


def hold(name: str) -> Any:
    """Make a hook that pauses the task, if the run's configuration says so, until there is a file named ``go``."""

    def wait(context: Any, result: Any = None) -> None:
        folder = context["dag_run"].conf.get("hold", {}).get(name)
        if folder is None:
            return
        Path(folder, "reached").touch()
        deadline = time.monotonic() + 120
        while not Path(folder, "go").exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    return wait


for dag_id, mode in MODES.items():
    with DAG(dag_id, schedule=None):
        DatatileUploadOperator(
            task_id="task",
            action="{{ dag_run.conf.action }}",
            target_hash="{{ dag_run.conf.target }}",
            dataset="{{ dag_run.conf.dataset }}",
            datatile_conn_id="{{ dag_run.conf.get('connection', 'datatile_default') }}",
            poll_interval=1,
            pre_execute=hold("before"),
            post_execute=hold("after"),
            **{"retries": 1, "retry_delay": timedelta(seconds=1), **mode},
        )
