"""
Combines TaskFlow functions with uploads: one function returns the file to upload, another one waits for the job.

It needs a connection ``datatile_default``, and the hash of a folder in the Airflow variable
``datatile_folder``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator

DATA = Path(__file__).parent / "data"
# The finished job of a `create` reports the hash of the new database.
DATABASE = "{{ ti.xcom_pull(task_ids='job_of')['details']['database'] }}"

with DAG("datatile_taskflow", schedule=None, tags=["datatile"], doc_md=__doc__):

    @task.datatile_upload(action="create", target_hash="{{ var.value.datatile_folder }}")
    def first_wave() -> Path:
        return min(DATA.glob("wave*.zsav"))

    @task
    def job_of(job_id: Any) -> dict[str, Any]:
        return DatatileHook().wait_for_job(job_id, poll_interval=5, timeout=600).as_dict()

    @task
    def last_wave() -> str:
        return str(max(DATA.glob("wave*.zsav")))

    append = DatatileUploadOperator(
        task_id="append",
        action="append",
        target_hash=DATABASE,
        dataset=last_wave(),
        wait_for_completion=True,
    )
    job_of(first_wave()) >> append
