"""What is different about a real Airflow 2: its components, its settings, and its REST API."""

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
    """Return Airflow 2's settings besides those that both have."""
    return {
        # It refuses the LocalExecutor with SQLite.
        "CORE__EXECUTOR": "SequentialExecutor",
        "API__AUTH_BACKENDS": "airflow.providers.fab.auth_manager.api.auth.backend.basic_auth",
        "SCHEDULER__DAG_DIR_LIST_INTERVAL": "5",
        "SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "5",
        "WEBSERVER__BASE_URL": f"http://127.0.0.1:{port}",
        "WEBSERVER__SECRET_KEY": secrets.token_hex(),
        "WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
        "WEBSERVER__WEB_SERVER_PORT": str(port),
        "WEBSERVER__WORKERS": "1",
        # Its own default makes it warn, in the midst of what it prints.
        "METRICS__TIMER_UNIT_CONSISTENCY": "True",
    }


def prepare(home: Path) -> dict[str, str]:
    """Make whoever asks the API an admin, and return what the executor needs to find the command ``airflow``."""
    (home / "webserver_config.py").write_text('AUTH_ROLE_PUBLIC = "Admin"\n')
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


class Airflow2Api(AirflowApi):
    """A client of the REST API of Airflow 2."""

    ROOT = "api/v1"
    HEALTH = "health"
    TASKS: Mapping[str, Any] = {"limit": 100}
    XCOM: Mapping[str, Any] = {"stringify": "false"}

    def log_in(self) -> None:
        """Make sure that it answers; nobody needs to log in."""
        self.call("GET", "dags", timeout=10)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG and return its id."""
        self.wait_for_dag(dag_id)
        run: dict[str, str] = self.call("POST", f"dags/{dag_id}/dagRuns", json={"conf": dict(conf or {})})
        return run["dag_run_id"]

    def log(self, task: TaskInstance, try_number: int | None = None) -> str:
        """Return the log of a try of a task, the last unless told."""
        params = {"map_index": task.map_index, "full_content": "true"}
        path = f"{task.path}/logs/{try_number or task.try_number}"
        response = self.call("GET", path, params=params, headers={"Accept": "application/json"})
        return "\n".join(text for _, text in ast.literal_eval(response["content"]))

    def error(self, task: TaskInstance) -> str:
        """Return what the last exception in a task's log says."""
        found = re.findall(r"^Traceback .*\n(?:[ \t].*\n)*[\w.]+: (.*)", self.log(task), re.MULTILINE)
        return str(found[-1]) if found else "nothing of an error"
