"""
One task that uploads a file and waits for its job. It occupies no worker slot while it waits.

It needs a connection ``datatile_default``, and the hash of a folder in the Airflow variable
``datatile_folder``.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator

with DAG("datatile_upload_and_wait", schedule=None, tags=["datatile"], doc_md=__doc__):
    DatatileUploadOperator(
        task_id="upload",
        action="create",
        target_hash="{{ var.value.datatile_folder }}",
        dataset=f"{Path(__file__).parent}/data/whole.zsav",
        wait_for_completion=True,
        deferrable=True,
    )
