"""Twelve waves of a tracking study, an upload by a subclass with its wait, and a file name that is HTML."""

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
