"""The setup of the system tests: a real Airflow, the sandbox behind a fault proxy, and files to upload."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import requests

from tests.support import waiting
from tests.support.airflow import RealAirflow
from tests.support.airflow_api import TaskInstance
from tests.support.faults import FaultProxy
from tests.support.sandbox import SandboxProcess, upload

#: Settings with which Airflow detects a dead worker after 10 s, not 5 min.
FAST = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
}
#: Seconds in which Airflow detects a dead task and retries it, on a slow machine.
TIMEOUT = 90.0
until = functools.partial(waiting.until, timeout=TIMEOUT)


class Lab:
    """
    One Airflow and one sandbox for all tests of a module.

    :param faults: the proxy of ``datatile_faulty``; the connection ``datatile_default`` bypasses it.
    :param folder: the folder of the files to upload.
    """

    def __init__(self, airflow: RealAirflow, sandbox: SandboxProcess, faults: FaultProxy, folder: Path) -> None:
        self.airflow = airflow
        self.api = airflow.api
        self.sandbox = sandbox
        self.faults = faults
        self._folder = folder
        self._numbers = itertools.count(1)

    def make_file(self, rows: int = 7, width: int = 8) -> Path:
        """Make a file with a unique name, by which its jobs are found in the sandbox."""
        path = self._folder / f"wave{next(self._numbers)}.csv"
        path.write_text("id,answer\n" + "".join(f"{n},{'x' * width}\n" for n in range(rows)))
        return path

    def make_hold(self) -> Path:
        """Make a folder through which a paused task and the test that resumes it signal each other."""
        path = self._folder / f"hold{next(self._numbers)}"
        path.mkdir()
        return path

    def make_target(self, action: str) -> str:
        """Return the hash of a valid target for an action."""
        return self.sandbox.folder if action == "create" else self.sandbox.add_database()

    def start(self, dag_id: str, **conf: Any) -> TaskInstance:
        """Start a run of a DAG and return its task, named ``task``."""
        run_id = self.api.trigger(dag_id, conf)
        return until(
            lambda: next((t for t in self.api.run(dag_id, run_id).tasks if t.task_id == "task"), None),
            f"{dag_id} has its task",
        )

    def start_upload(self, dag_id: str, file: Path, action: str, target: str, **conf: Any) -> TaskInstance:
        """Start a run of a DAG that uploads a file."""
        return self.start(dag_id, dataset=str(file), action=action, target=target, **conf)

    def running_job(self, **options: Any) -> str:
        """Return a new job whose status is running until it is released."""
        job_id = upload(self.sandbox, "append", self.sandbox.add_database(), self.make_file(**options))
        self.sandbox.hold(job_id)
        return job_id

    def held_job(self, file: Path) -> str:
        """Wait for the job of a file's upload, hold it, and return its id."""
        (job,) = until(lambda: self.sandbox.jobs(file.name), f"{file.name} was accepted")
        self.sandbox.hold(job["job_id"])
        return str(job["job_id"])

    def phase(self, task: TaskInstance) -> str | None:
        """Return the phase of the upload in the task's state store."""
        record = self.api.state_store(task, "datatile_upload")
        return record and str(record["phase"])

    def kill(self, task: TaskInstance, victims: str = "both") -> None:
        """
        Kill the processes that run a task.

        :param victims: the ``task``'s own process, the ``worker`` that supervises it, or ``both``.
        """
        # The worker is the older process.
        worker, own = until(lambda: self._pids(task), f"{task.name} runs")
        for pid in {"task": [own], "worker": [worker], "both": [worker, own]}[victims]:
            os.kill(pid, signal.SIGKILL)

    def ended(self, task: TaskInstance, timeout: float = TIMEOUT) -> TaskInstance:
        """Wait until the task and its run have ended, and return the task."""
        task = self.api.wait_for_task(task, "success", "failed", timeout=timeout)
        until(lambda: self.api.run(task.dag_id, task.run_id).finished, f"the run of {task.dag_id} is over")
        return task

    def wait_for_log(self, task: TaskInstance, text: str, try_number: int = 1) -> None:
        """Wait until an attempt of a task has logged this."""

        def has_logged() -> bool:
            try:
                return text in self.api.log(task, try_number)
            except requests.HTTPError as e:
                # There is no log yet.
                if e.response.status_code != 404:
                    raise
                return False

        until(has_logged, f"{task.dag_id} has logged {text!r}")

    def _pids(self, task: TaskInstance) -> list[int]:
        found = self.airflow.worker_pids(self.api.run(task.dag_id, task.run_id).task(task.task_id, task.map_index))
        return found if len(found) == 2 else []
