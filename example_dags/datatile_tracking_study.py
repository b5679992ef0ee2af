"""
A tracking study: creates a database from the first wave, appends the second wave, and then replaces all its data.

It needs a connection ``datatile_default``, and the hash of a folder in DATATILE's Drive (not the root) in the
Airflow variable ``datatile_folder`` or as the run's parameter ``folder``.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG, Param

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor

WAVES = Path(__file__).parent / "data"
FOLDER = "{{ params.folder or var.value.datatile_folder }}"
# The finished job of a `create` reports the hash of the new database.
DATABASE = "{{ ti.xcom_pull(task_ids='wait_for_create')['details']['database'] }}"

with DAG(
    "datatile_tracking_study",
    schedule=None,
    params={"folder": Param("", type="string", description="Hash of the folder for the new database")},
    tags=["datatile"],
    doc_md=__doc__,
):
    create = DatatileUploadOperator(
        task_id="create", action="create", target_hash=FOLDER, dataset=f"{WAVES}/wave1.zsav"
    )
    wait_for_create = DatatileJobSensor(task_id="wait_for_create", job_id=create.output, deferrable=True)

    append = DatatileUploadOperator(
        task_id="append", action="append", target_hash=DATABASE, dataset=f"{WAVES}/wave2.zsav"
    )
    wait_for_append = DatatileJobSensor(task_id="wait_for_append", job_id=append.output, deferrable=True)

    reload = DatatileUploadOperator(
        task_id="reload", action="reload", target_hash=DATABASE, dataset=f"{WAVES}/whole.zsav"
    )
    wait_for_reload = DatatileJobSensor(task_id="wait_for_reload", job_id=reload.output, deferrable=True)

    wait_for_create >> append
    wait_for_append >> reload
