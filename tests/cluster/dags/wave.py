"""A wave of appends: half wait for their job themselves, a quarter have a sensor, and a quarter do not wait."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task, task_group

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor

RETRIES: dict[str, Any] = {"retries": 8, "retry_delay": timedelta(seconds=2)}
UPLOAD: dict[str, Any] = {"action": "append", "accept_timeout": 400, **RETRIES}
WAIT: dict[str, Any] = {"deferrable": True, "timeout": 900}


def uploads(way: str) -> Any:
    """Return a task that returns the datasets and targets of the uploads that wait in one way."""

    @task(task_id=f"uploads_{way}", **RETRIES)
    def of_the_run(**context: Any) -> list[dict[str, str]]:
        found: list[dict[str, str]] = context["dag_run"].conf[way]
        return found

    return of_the_run()


@task_group
def with_sensor(target_hash: str, dataset: str) -> None:
    append = DatatileUploadOperator(
        task_id="append", target_hash=target_hash, dataset=dataset, deferrable=True, **UPLOAD
    )
    DatatileJobSensor(task_id="wait", job_id=append.output, poke_interval=4, **WAIT, **RETRIES)


with DAG("wave", schedule=None, max_active_tasks=64):
    DatatileUploadOperator.partial(
        task_id="append_and_wait", wait_for_completion=True, poll_interval=4, **WAIT, **UPLOAD
    ).expand_kwargs(uploads("waiting"))
    DatatileUploadOperator.partial(task_id="append", deferrable=True, **UPLOAD).expand_kwargs(uploads("alone"))
    with_sensor.expand_kwargs(uploads("sensed"))
