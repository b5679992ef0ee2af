"""Uploads whose file and target the run configures, in two DAGs. They run on Airflow 2 too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from datatile_provider.operators.datatile import DatatileUploadOperator

UPLOAD: dict[str, Any] = {
    "action": "append",
    "target_hash": "{{ dag_run.conf['target'] }}",
    "dataset": "{{ dag_run.conf['dataset'] }}",
    "datatile_conn_id": "datatile_faulty",
}


@task
def uploads(**context: Any) -> list[dict[str, str]]:
    """Return the datasets and targets of the uploads."""
    return list(context["dag_run"].conf["uploads"])


for dag_id in ("repeats", "repeats_too"):
    with DAG(dag_id, schedule=None) as dag:
        DatatileUploadOperator(task_id="task", retries=1, retry_delay=timedelta(seconds=1), **UPLOAD)
    globals()[dag_id] = dag

with DAG("repeats_storm", schedule=None):
    DatatileUploadOperator.partial(
        task_id="upload",
        action="append",
        datatile_conn_id="datatile_faulty",
        accept_timeout=120,
        retries=4,
        retry_delay=timedelta(seconds=1),
        max_active_tis_per_dag=6,
    ).expand_kwargs(uploads())
