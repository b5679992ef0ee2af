"""
Uploads several files with one mapped task, each into a new database of the same folder.

It needs a connection ``datatile_default``, and the hash of a folder in the Airflow variable
``datatile_folder``.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator

WAVES = Path(__file__).parent / "data"

with DAG("datatile_mapped_upload", schedule=None, tags=["datatile"], doc_md=__doc__):
    DatatileUploadOperator.partial(
        task_id="upload",
        action="create",
        target_hash="{{ var.value.datatile_folder }}",
        # A folder accepts the next upload only when the job of the previous one is finished. Before Airflow 3.2, a
        # deferred task does not count towards max_active_tis_per_dagrun.
        wait_for_completion=True,
        deferrable=False,
        max_active_tis_per_dagrun=1,
    ).expand(dataset=[f"{WAVES}/wave1.zsav", f"{WAVES}/wave2.zsav"])
