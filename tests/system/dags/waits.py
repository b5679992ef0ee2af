"""DAGs that wait for the jobs in the run's configuration."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor

WITHOUT_WORKER: dict[str, Any] = {"deferrable": True, "start_from_trigger": True}
MODES: dict[str, dict[str, Any]] = {
    "wait": {},
    "wait_20_s": {"timeout": 20},
    # If a task is queued again too soon, Airflow assumes that its state was changed externally.
    "wait_rescheduled_20_s": {"timeout": 20, "mode": "reschedule", "poke_interval": 4},
    "wait_deferred_20_s": {"timeout": 20, "deferrable": True},
    "wait_deferred_45_s": {"timeout": 45, "deferrable": True},
    "wait_deferred": {"deferrable": True},
    "wait_without_worker": WITHOUT_WORKER,
    "wait_without_worker_20_s": {**WITHOUT_WORKER, "timeout": 20},
    "wait_without_worker_soft_fail": {**WITHOUT_WORKER, "soft_fail": True},
    "wait_execution_timeout": {"execution_timeout": timedelta(seconds=20)},
    "wait_deferred_execution_timeout": {"execution_timeout": timedelta(seconds=20), "deferrable": True},
}

for dag_id, mode in MODES.items():
    with DAG(dag_id, schedule=None):
        DatatileJobSensor(
            task_id="task",
            job_id="{{ dag_run.conf.job_id }}",
            retries=1,
            retry_delay=timedelta(seconds=1),
            **{"poke_interval": 1, **mode},
        )


@task
def jobs(**context: Any) -> list[str]:
    """Return the ids of the jobs to wait for."""
    return list(context["dag_run"].conf["job_ids"])


with DAG("many_waits", schedule=None, max_active_tasks=64):
    DatatileJobSensor.partial(task_id="task", poke_interval=2, timeout=600, deferrable=True).expand(job_id=jobs())

with DAG("upload_and_wait_without_worker", schedule=None):
    upload = DatatileUploadOperator(
        task_id="upload",
        action="append",
        target_hash="{{ dag_run.conf.target }}",
        dataset="{{ dag_run.conf.dataset }}",
    )
    wait = DatatileJobSensor(task_id="task", job_id=upload.output, poke_interval=1, **WITHOUT_WORKER)

    @task
    def rows(job: Any) -> Any:
        """Return a value of the job, to show that the XCom is a dict."""
        return job["details"]["rows"]

    rows(wait.output)
