"""The differences of a real Airflow 2: its components, its settings, and its REST API."""

from __future__ import annotations

import ast
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.airflow_api import AirflowApi, TaskInstance

COMPONENTS = {
    "webserver": ["webserver"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}


def settings(port: int) -> dict[str, str]:
    """Return the settings that only Airflow 2 has."""
    return {
        # Airflow 2 does not allow the LocalExecutor with SQLite.
        "CORE__EXECUTOR": "SequentialExecutor",
        "API__AUTH_BACKENDS": "airflow.providers.fab.auth_manager.api.auth.backend.basic_auth",
        "SCHEDULER__DAG_DIR_LIST_INTERVAL": "5",
        "SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "5",
        "WEBSERVER__BASE_URL": f"http://127.0.0.1:{port}",
        "WEBSERVER__SECRET_KEY": secrets.token_hex(),
        "WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
        "WEBSERVER__WEB_SERVER_PORT": str(port),
        "WEBSERVER__WORKERS": "1",
        # With the default, Airflow prints a warning into the output that tests read.
        "METRICS__TIMER_UNIT_CONSISTENCY": "True",
    }


def prepare(home: Path) -> dict[str, str]:
    """Make every client of the API an admin, and return the PATH on which the executor finds ``airflow``."""
    (home / "webserver_config.py").write_text('AUTH_ROLE_PUBLIC = "Admin"\n')
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


class Airflow2Api(AirflowApi):
    """A client of the REST API of Airflow 2."""

    ROOT = "api/v1"
    HEALTH = "health"
    TASKS: Mapping[str, Any] = {"limit": 100}
    XCOM: Mapping[str, Any] = {"stringify": "false"}

    def log_in(self) -> None:
        """Check that the API responds; no login is needed."""
        self.call("GET", "dags", timeout=10)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG and return its id."""
        self.wait_for_dag(dag_id)
        run: dict[str, str] = self.call("POST", f"dags/{dag_id}/dagRuns", json={"conf": dict(conf or {})})
        return run["dag_run_id"]

    def log(self, task: TaskInstance, try_number: int | None = None) -> str:
        """Return the log of an attempt of a task, by default the last."""
        params = {"map_index": task.map_index, "full_content": "true"}
        path = f"{task.path}/logs/{try_number or task.try_number}"
        response = self.call("GET", path, params=params, headers={"Accept": "application/json"})
        return "\n".join(text for _, text in ast.literal_eval(response["content"]))

    def error(self, task: TaskInstance) -> str:
        """Return the message of the last exception in a task's log."""
        # The message goes on until the next line of the log, which begins with its time.
        message = r"^Traceback .*\n(?:[ \t].*\n)*[\w.]+: (.*(?:\n(?!\[\d{4}-).*)*)"
        found = re.findall(message, self.log(task), re.MULTILINE)
        return str(found[-1]) if found else "no error"
