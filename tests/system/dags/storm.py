"""Many uploads, of what the run's configuration says, to a server behind faults."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from datatile_provider.operators.datatile import DatatileUploadOperator


@task
def uploads(**context: Any) -> list[dict[str, str]]:
    """Return what is uploaded where."""
    return list(context["dag_run"].conf["uploads"])


with DAG("storm", schedule=None):
    DatatileUploadOperator.partial(
        task_id="upload",
        action="append",
        datatile_conn_id="datatile_faulty",
        accept_timeout=120,
        retries=4,
        retry_delay=timedelta(seconds=1),
        max_active_tis_per_dag=6,
    ).expand_kwargs(uploads())
