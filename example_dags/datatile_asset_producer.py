"""
Appends a wave to a database. That triggers the DAGs scheduled on the database, such as ``datatile_asset_consumer``.

It needs a connection ``datatile_default``. Replace the server's name and the database's hash below with yours.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.assets.datatile import database_asset
from datatile_provider.operators.datatile import DatatileUploadOperator

DATABASE = "0f3a9c2b7d4e5f61"
TRACKER = database_asset(DATABASE, server="datatile.example.com")

with DAG("datatile_asset_producer", schedule=None, tags=["datatile"], doc_md=__doc__):
    DatatileUploadOperator(
        task_id="append",
        action="append",
        target_hash=DATABASE,
        dataset=f"{Path(__file__).parent}/data/wave2.zsav",
        # The wave is in the database only when its job has succeeded.
        wait_for_completion=True,
        outlets=[TRACKER],
    )
