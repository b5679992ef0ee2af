"""
Uploads a file, and sends an email with the reason if the task fails.

It needs a connection ``datatile_default``, a connection ``smtp_default`` to a mail server, and the hash of a
database in the Airflow variable ``datatile_database``.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.smtp.notifications.smtp import SmtpNotifier

from datatile_provider.operators.datatile import DatatileUploadOperator

with DAG("datatile_notify", schedule=None, tags=["datatile"], doc_md=__doc__):
    DatatileUploadOperator(
        task_id="reload",
        action="reload",
        target_hash="{{ var.value.datatile_database }}",
        dataset=f"{Path(__file__).parent}/data/whole.zsav",
        wait_for_completion=True,
        on_failure_callback=SmtpNotifier(
            from_email="airflow@example.com",
            to="fieldwork@example.com",
            subject="{{ ti.task_id }} has failed in {{ ti.dag_id }}",
            # The exception names the file, the target, the job and the server's reason.
            html_content="<p>{{ exception }}</p>",
        ),
    )
