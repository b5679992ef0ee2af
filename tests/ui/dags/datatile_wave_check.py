"""Checks a wave in which a scale was turned round, and asks a person about another one."""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.wave_check import DatatileWaveCheckOperator

DATA = Path(__file__).parent / "data"

with DAG("datatile_wave_check", schedule=None, tags=["datatile"], doc_md=__doc__):
    for on_error in ("fail", "ask"):
        DatatileWaveCheckOperator(
            task_id=f"check_or_{on_error}",
            dataset=f"{DATA}/wave_with_errors.zsav",
            reference=f"{DATA}/wave1.zsav",
            key="respondent",
            report=f"{DATA}/report_{on_error}.html",
            on_error=on_error,
        )
