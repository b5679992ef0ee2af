"""An upload through a gateway that loses responses. A person is asked what became of it."""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from datatile_provider.operators.datatile import DatatileUploadOperator

with DAG("datatile_question", schedule=None, tags=["datatile"], doc_md=__doc__):
    DatatileUploadOperator(
        task_id="append_wave",
        datatile_conn_id="datatile_question",
        action="append",
        target_hash="{{ var.value.question_database }}",
        dataset=f"{Path(__file__).parent}/data/wave2.zsav",
        wait_for_completion=True,
        deferrable=True,
        on_unknown="ask",
    )
