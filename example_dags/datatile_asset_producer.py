"""
Appends a wave to a database, and tells whoever is scheduled on that database, as ``datatile_asset_consumer`` is.

It needs a connection ``datatile_default``. Put your server's name and your database's hash below.
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
        # Only then is the wave in the database.
        wait_for_completion=True,
        outlets=[TRACKER],
    )
