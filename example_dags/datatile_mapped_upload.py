"""
Several files by one mapped task, each into a new database of the same folder.

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
        # A folder takes one upload at a time, until its job is done. On Airflow before 3.2 a deferred task
        # would not count as active.
        wait_for_completion=True,
        deferrable=False,
        max_active_tis_per_dagrun=1,
        # What the UI calls each of the mapped tasks, instead of 0 and 1.
        map_index_template="{{ task.dataset.rsplit('/', 1)[-1] }}",
    ).expand(dataset=[f"{WAVES}/wave1.zsav", f"{WAVES}/wave2.zsav"])
