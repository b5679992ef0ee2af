"""An Airflow with the CeleryExecutor: each process has a folder of its own, and is restarted when it ends."""

from __future__ import annotations

import collections
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import requests
from cryptography.fernet import Fernet

from tests.support.airflow import RealAirflow
from tests.support.processes import Session, end

#: The tasks that a worker runs at once.
SLOTS = 4
#: Settings with which Airflow notices within half a minute that a process has died.
SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CORE__PARALLELISM": "32",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(SLOTS),
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "32",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "3",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    # Fewer than the waits that last until the end, so that both triggerers have some.
    "AIRFLOW__TRIGGERER__CAPACITY": "20",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "12",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "60",
    "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "30",
}


class Cluster(RealAirflow):
    """
    Two workers, two triggerers, two schedulers, an API server and a DAG processor.

    :param dags: the folder of the DAG files, as a deployment has it on each machine.
    :param home: the folder that holds the folder of each process.
    :param env: the broker, the database, and more settings.
    """

    components: ClassVar[Mapping[str, Sequence[str]]] = {
        "api-server": ["api-server"],
        "dag-processor": ["dag-processor"],
        **{f"scheduler-{n}": ["scheduler", "--skip-serve-logs"] for n in (1, 2)},
        **{f"triggerer-{n}": ["triggerer", "--skip-serve-logs"] for n in (1, 2)},
        **{f"worker-{n}": ["celery", "worker", "--skip-serve-logs", "--celery-hostname", f"w{n}@%h"] for n in (1, 2)},
    }

    def __init__(self, dags: Path, *, home: Path, env: Mapping[str, str]) -> None:
        super().__init__(dags, home=home, env=SETTINGS | dict(env))
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep_up, daemon=True)
        #: How often each process was started again.
        self.restarts: collections.Counter[str] = collections.Counter()

    def start(self, timeout: float = 180) -> None:
        super().start(timeout)
        self._keeper.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._keeper.is_alive():
            self._keeper.join()
        super().stop()

    def decrypt(self, text: str) -> str:
        """Return the arguments of a trigger in the database. Airflow encrypts those that a task has made."""
        if text.startswith("{"):
            return text
        return Fernet(self._env["AIRFLOW__CORE__FERNET_KEY"]).decrypt(text.encode()).decode()

    def pause(self, name: str) -> None:
        """Stop a process with its children, as a machine that swaps or is migrated does."""
        self.kill(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.kill(name, signal.SIGCONT)

    def count(self, text: str) -> int:
        """Return how often the schedulers have logged this."""
        return sum(log.read_text(errors="replace").count(text) for log in self.home.glob("scheduler-*/process.log"))

    def task_processes(self) -> set[str]:
        """Return the ids of the task instances for which a worker has a process."""
        processes = [p for name in ("worker-1", "worker-2") for p in self._sessions[name].processes(("cmdline",))]
        titles = [" ".join(process.info["cmdline"] or ()) for process in processes]
        return {found[1] for title in titles if (found := re.match(r"airflow worker -- (\S+)", title))}

    def _keep_up(self) -> None:
        # As Kubernetes or systemd would.
        while not self._stopped.wait(1):
            for name, session in list(self._sessions.items()):
                if not session.running:
                    # A container ends with its main process.
                    end([session], within=0)
                    self.restarts[name] += 1
                    self.start_component(name)

    def _spawn(self, name: str, arguments: Sequence[str]) -> Session:
        home = self.home / name.replace(" ", "-")
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        env = self._env | {"AIRFLOW_HOME": str(home), "TMPDIR": str(home / "tmp")}
        # Workers and tasks run the same code from an unlike working folder.
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), env.get("PYTHONPATH", "")]))
        return Session(name, [sys.executable, "-m", "airflow", *arguments], home / "process.log", env=env, cwd=home)

    def _is_healthy(self, name: str) -> bool:
        if name.startswith("worker"):
            return " ready." in self._sessions[name].log.read_text(errors="replace")
        if name == "api-server":
            return super()._is_healthy(name)
        try:
            # Of two processes of a kind, the API has the later heartbeat.
            return name.removesuffix("-1").removesuffix("-2") in self.api.heartbeats()
        except requests.RequestException:
            return False
