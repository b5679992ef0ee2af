"""Waits for the jobs that the run's configuration names: a DAG a way to wait, and for each a small one to warm up."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor
from airflow.sdk import DAG

from datatile_provider.sensors.datatile import DatatileJobSensor

COMMON: dict[str, Any] = {
    "poke_interval": 5,
    "timeout": 600,
    # Airflow fails a task that is queued again before the end of its last poke was taken in, as on a busy machine.
    "retries": 5,
    "retry_delay": timedelta(seconds=1),
}
OURS: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferrable": {"deferrable": True},
    "start_from_trigger": {"deferrable": True, "start_from_trigger": True},
}

for size, waits in (("", int(os.environ["DATATILE_BENCHMARK_WAITS"])), ("_once", 1)):
    for way, given in OURS.items():
        with DAG(f"ours_{way}{size}", schedule=None):
            for n in range(waits):
                DatatileJobSensor(
                    task_id=f"wait_{n}",
                    job_id=f"{{{{ dag_run.conf.jobs[{n}] }}}}",
                    **COMMON,
                    **given,
                )
        if way == "start_from_trigger":
            continue
        with DAG(f"dbt_{way}{size}", schedule=None):
            for n in range(waits):
                DbtCloudJobRunSensor(
                    task_id=f"wait_{n}",
                    run_id=f"{{{{ dag_run.conf.jobs[{n}] }}}}",
                    account_id=1,
                    **COMMON,
                    **given,
                )
