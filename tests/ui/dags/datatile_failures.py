"""
Uploads and waits that all fail, each for another reason.

Each reason has a connection `datatile_<reason>`. The Airflow variable `failures` holds its target and its job.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor

DATA = Path(__file__).parent / "data"
WAIT: dict[str, Any] = {"wait_for_completion": True, "deferrable": True}
UPLOADS: dict[str, dict[str, Any]] = {
    "token_refused": {},
    "role_missing": {},
    "not_found": {},
    "invalid_input": {"dataset": "/data/surveys/wave2.zsav"},
    "server_unreachable": {"accept_timeout": 4},
    "file_too_large": {},
    "destination_busy": {"accept_timeout": 4},
    "outcome_unknown": {},
    "repeated_upload": {},
    "job_failed": {"dataset": f"{DATA}/wave3.zsav", **WAIT},
    "job_timed_out": {"timeout": 8, **WAIT},
}
SENSORS: dict[str, dict[str, Any]] = {
    "token_refused": {},
    "role_missing": {},
    "not_found": {},
    "server_unreachable": {"timeout": 8},
    "job_failed": {},
    "job_timed_out": {"timeout": 8},
}

with DAG("datatile_failures", schedule=None, tags=["datatile"], doc_md=__doc__, default_args={"retries": 0}):
    for reason, arguments in UPLOADS.items():
        DatatileUploadOperator(
            task_id=f"{reason}_upload",
            datatile_conn_id=f"datatile_{reason}",
            action="append",
            target_hash=f"{{{{ var.json.failures.{reason}.target }}}}",
            **{"dataset": f"{DATA}/wave2.zsav", **arguments},
        )
    for reason, arguments in SENSORS.items():
        for mode, deferrable in (("sensor", True), ("sensor_in_worker", False)):
            DatatileJobSensor(
                task_id=f"{reason}_{mode}",
                datatile_conn_id=f"datatile_{reason}",
                job_id=f"{{{{ var.json.failures.{reason}.job }}}}",
                deferrable=deferrable,
                **arguments,
            )
