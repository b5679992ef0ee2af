"""
Twelve waves of a tracking study, and an upload by a subclass with its wait, of a file whose name is HTML.

The response to the last wave is lost, so it asks a person.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor

DATA = Path(__file__).parent / "data"
TRACKER, FOLDER = os.environ["TRACKER"], os.environ["FOLDER"]
SCRIPT = "<img src=x onerror=alert(1)>.csv"


class UploadOfTheTeam(DatatileUploadOperator):
    """A subclass, as users write them."""


with DAG("tracker", schedule=None):
    before = None
    for number in range(1, 13):
        wave = DatatileUploadOperator(
            task_id=f"wave_{number:02}",
            action="append",
            target_hash=TRACKER,
            datatile_conn_id="datatile_losing" if number == 12 else "datatile_default",
            on_unknown="ask",
            dataset=f"{DATA}/wave_{number:02}.csv",
            wait_for_completion=True,
            poll_interval=0.2,
            # The next wave is sent although this one failed.
            trigger_rule="all_done",
        )
        if before:
            before >> wave
        before = wave

with DAG("by_hand", schedule=None):
    upload = UploadOfTheTeam(task_id="upload", action="create", target_hash=FOLDER, dataset=f"{DATA}/{SCRIPT}")
    wait = DatatileJobSensor(task_id="wait", job_id=upload.output, deferrable=True, poke_interval=0.2)
