"""Many uploads, configured by the run, to a server behind a fault proxy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from datatile_provider.operators.datatile import DatatileUploadOperator


@task
def uploads(**context: Any) -> list[dict[str, str]]:
    """Return the datasets and targets of the uploads."""
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
