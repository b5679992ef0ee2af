"""DAGs whose uploads ask a person if their outcome is unknown."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseNotifier, task

from datatile_provider.operators.datatile import DatatileUploadOperator


class FileNotifier(BaseNotifier):
    """Writes the question into a file beside the dataset."""

    template_fields = ("message",)

    def __init__(self) -> None:
        super().__init__()
        self.message = "{{ task.question }}"

    def notify(self, context: Any) -> None:
        Path(context["task"].dataset).with_suffix(".question").write_text(self.message)


MODES: dict[str, dict[str, Any]] = {
    "ask": {},
    "ask_and_wait": {"wait_for_completion": True},
    "ask_and_defer": {"wait_for_completion": True, "deferrable": True},
    "ask_20_s": {"ask_timeout": 20},
    "ask_ada": {"ask_users": {"id": "ada", "name": "Ada"}},
    "ask_and_notify": {"ask_notifiers": FileNotifier()},
}
COMMON: dict[str, Any] = {
    "action": "append",
    "target_hash": "{{ dag_run.conf.target }}",
    "datatile_conn_id": "datatile_faulty",
    "poll_interval": 1,
    "on_unknown": "ask",
    "retries": 1,
    "retry_delay": timedelta(seconds=1),
}

for dag_id, mode in MODES.items():
    with DAG(dag_id, schedule=None):
        DatatileUploadOperator(task_id="task", dataset="{{ dag_run.conf.dataset }}", **COMMON, **mode)


@task
def files(**context: Any) -> list[str]:
    found: list[str] = context["dag_run"].conf["dataset"]
    return found


with DAG("ask_mapped", schedule=None):
    # One after the other, because the server accepts one upload to a database at a time.
    DatatileUploadOperator.partial(
        task_id="task", **COMMON, wait_for_completion=True, max_active_tis_per_dagrun=1
    ).expand(dataset=files())


with DAG("ask_decorated", schedule=None):

    @task.datatile_upload(task_id="task", **COMMON)
    def written(**context: Any) -> str:
        # Another file each time that it is called.
        given = Path(context["dag_run"].conf["dataset"])
        copy = given.with_name(f"{given.stem}-{context['ti'].try_number}-{time.time_ns()}.csv")
        copy.write_text(given.read_text())
        return str(copy)

    written()
