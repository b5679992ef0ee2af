"""
A weekly wave, added to a tracker's database. This week's file was cut short on its way.

It needs a connection `datatile_default`, and the hash of the database in the Airflow variable `tracker_database`.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator

with DAG("datatile_weekly_wave", schedule=None, tags=["datatile"], doc_md=__doc__):
    DatatileUploadOperator(
        task_id="append_wave",
        action="append",
        target_hash="{{ var.value.tracker_database }}",
        dataset=f"{Path(__file__).parent}/data/wave3.zsav",
        wait_for_completion=True,
        deferrable=True,
    )
