"""Many uploads of a run's configuration, with what limits them; two DAGs of each, for waves that meet."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from datatile_provider.operators.datatile import DatatileUploadOperator

COMMON: dict[str, Any] = {
    "task_id": "upload",
    "action": "append",
    "datatile_conn_id": "{{ dag_run.conf.conn_id }}",
    "accept_timeout": 900,
    "poll_interval": 2,
    "retries": 5,
    "retry_delay": timedelta(seconds=1),
}
WAIT: dict[str, Any] = {"wait_for_completion": True, "deferrable": True}
#: The arguments of the uploads, by what limits them.
LIMITS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "deferrable": {"deferrable": True},
    "tis_per_dag": {"max_active_tis_per_dag": 2},
    "pool": {"pool": "datatile"},
    "waits": WAIT,
    "waits_in_turn": {**WAIT, "max_active_tis_per_dagrun": 1},
    "waits_in_pool": {**WAIT, "pool": "datatile"},
}


@task
def uploads(**context: Any) -> list[dict[str, str]]:
    """Return the datasets and targets of the uploads."""
    return list(context["dag_run"].conf["uploads"])


for name, arguments in LIMITS.items():
    for copy in ("a", "b"):
        with DAG(f"{name}_{copy}", schedule=None, max_active_tasks=64):
            DatatileUploadOperator.partial(**COMMON, **arguments).expand_kwargs(uploads())
