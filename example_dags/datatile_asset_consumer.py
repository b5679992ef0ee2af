"""
Runs when a wave was added to a DATATILE database, for example by ``datatile_asset_producer``.

Replace the server's name and the database's hash below with yours.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from datatile_provider.assets.datatile import database_asset

TRACKER = database_asset("0f3a9c2b7d4e5f61", server="datatile.example.com")

# Airflow 2 needs a start date.
START = datetime(2026, 1, 1, tzinfo=timezone.utc)

with DAG("datatile_asset_consumer", schedule=[TRACKER], start_date=START, tags=["datatile"], doc_md=__doc__):

    @task(inlets=[TRACKER])
    def report(inlet_events: Any = None) -> str:
        wave = inlet_events[TRACKER][-1].extra
        return f"Job {wave['job_id']} ({wave['action']}): {wave.get('rows', 'an unknown number of')} interviews"

    report()
