"""A client of the parts of Airflow's REST API that the tests and the demo use."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from packaging.version import Version
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.support.versions import AIRFLOW


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """A task instance from the API; ``seconds`` is None until it has ended, and ``id`` is None on Airflow 2."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    id: str | None
    state: str | None
    try_number: int
    seconds: float | None

    @property
    def name(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    @property
    def path(self) -> str:
        return f"dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{self.task_id}"


@dataclass(frozen=True, slots=True)
class Run:
    """A DAG run with its task instances, in the order in which they started."""

    dag_id: str
    run_id: str
    state: str
    tasks: tuple[TaskInstance, ...]

    @property
    def finished(self) -> bool:
        return self.state in ("success", "failed")

    def task(self, task_id: str, map_index: int = -1) -> TaskInstance:
        return next(t for t in self.tasks if (t.task_id, t.map_index) == (task_id, map_index))


class AirflowApi:
    """
    A client of the REST API of Airflow 3.

    :param url: the API server's address.
    """

    ROOT = "api/v2"
    HEALTH = "monitor/health"
    #: Query parameters for task instances and XComs. Pages are ordered by map index, which does not change.
    TASKS: Mapping[str, Any] = {"order_by": "map_index", "limit": 1000}
    XCOM: Mapping[str, Any] = {}

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = requests.Session()
        # Proxies of the environment cannot reach this loopback server.
        self._http.trust_env = False
        # The server may close an idle connection just as it is used again.
        self._http.mount("http://", HTTPAdapter(max_retries=Retry(connect=0, read=2)))

    def log_in(self) -> None:
        """Get a token. The simple auth manager gives one to anyone if all users are admins."""
        response = self._http.get(f"{self.url}/auth/token", timeout=10)
        response.raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def call(self, method: str, path: str, *, timeout: float = 30, **request: Any) -> Any:
        """
        Return the JSON response of a call under the API's root.

        :raises requests.HTTPError: the response is an error; the message holds its text.
        """
        for _ in range(3):
            response = self._http.request(method, f"{self.url}/{self.ROOT}/{path}", timeout=timeout, **request)
            # Rolled back, most likely because SQLite has only one writer.
            if response.status_code != 500 or "Database error" not in response.text:
                break
        if not response.ok:
            raise requests.HTTPError(
                f"{method} {path} got {response.status_code}: {response.text[:2000]}", response=response
            )
        return response.json() if response.content else None

    def heartbeats(self) -> dict[str, str]:
        """Return the last heartbeat (ISO time) of each component that has one, by the component's name."""
        health = self.call("GET", self.HEALTH, timeout=5)
        beats = {name: parts.get(f"latest_{name}_heartbeat") for name, parts in health.items()}
        return {name.replace("_", "-"): beat for name, beat in beats.items() if beat}

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> None:
        """Wait until the DAG processor has parsed the DAG."""
        deadline = time.monotonic() + timeout
        while True:
            if errors := self.call("GET", "importErrors")["import_errors"]:
                raise RuntimeError("\n".join(f"{e['filename']}: {e['stack_trace']}" for e in errors))
            try:
                self.call("GET", f"dags/{dag_id}")
                return
            except requests.HTTPError as e:
                if e.response.status_code != 404 or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG and return its id."""
        self.wait_for_dag(dag_id)
        body = {"logical_date": None, "conf": dict(conf or {})}
        run: dict[str, str] = self.call("POST", f"dags/{dag_id}/dagRuns", json=body)
        return run["dag_run_id"]

    def run(self, dag_id: str, run_id: str) -> Run:
        """Return the current state of a run."""
        path = f"dags/{dag_id}/dagRuns/{run_id}"
        state = self.call("GET", path)["state"]
        rows: list[dict[str, Any]] = []
        total = 1
        while len(rows) < total:
            # The size of a page is limited by `[api] maximum_page_limit`.
            page = self.call("GET", f"{path}/taskInstances", params={**self.TASKS, "offset": len(rows)})
            total = page["total_entries"]
            rows += page["task_instances"]
        rows.sort(key=lambda row: row["start_date"] or "~")
        tasks = tuple(
            TaskInstance(
                row["dag_id"],
                run_id,
                row["task_id"],
                row["map_index"],
                row.get("id"),
                row["state"],
                row["try_number"],
                row["duration"],
            )
            for row in rows
        )
        return Run(dag_id, run_id, state, tasks)

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float) -> Run:
        """
        Return the run when it has ended, or its current state after the timeout.

        :param timeout: seconds.
        """
        deadline = time.monotonic() + timeout
        while not (run := self.run(dag_id, run_id)).finished and time.monotonic() < deadline:
            time.sleep(0.3)
        return run

    def wait_for_task(self, task: TaskInstance, *states: str, timeout: float) -> TaskInstance:
        """
        Wait until the task is in one of these states, and return it.

        :param timeout: seconds.
        :raises TimeoutError: it did not reach one of them in time.
        """
        deadline = time.monotonic() + timeout
        while (now := self.run(task.dag_id, task.run_id).task(task.task_id, task.map_index)).state not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{now.name} is {now.state} after {timeout:.0f} s, not one of {states}")
            time.sleep(0.2)
        return now

    def set_state(self, task: TaskInstance, state: str) -> None:
        """Mark a task, as a user does in the UI."""
        self.call("PATCH", _of_map_index(task), json={"new_state": state})

    def clear(self, task: TaskInstance) -> None:
        """Clear a task, with its stored state kept, and queue its run, as a user does in the UI."""
        task_id = task.task_id if task.map_index < 0 else [task.task_id, task.map_index]
        body = {"dry_run": False, "only_failed": False, "dag_run_id": task.run_id, "task_ids": [task_id]}
        # The default of Airflow 3.
        body["reset_dag_runs"] = True
        if Version("3.4.0a0") <= AIRFLOW:
            # Older versions always keep it.
            body["keep_task_state"] = True
        self.call("POST", f"dags/{task.dag_id}/clearTaskInstances", json=body)

    def question(self, task: TaskInstance) -> dict[str, Any] | None:
        """Return the question that a task asks; None if there is none, or if it was answered."""
        try:
            found: dict[str, Any] = self.call("GET", self._question(task))
        except requests.HTTPError as e:
            if e.response.status_code != 404:
                raise
            return None
        return None if found["response_received"] else found

    def answer(self, task: TaskInstance, option: str, job_id: str = "") -> None:
        """Answer a task's question, as a user does in the UI."""
        body = {"chosen_options": [option], "params_input": {"job_id": job_id}}
        self.call("PATCH", self._question(task), json=body)

    @staticmethod
    def _question(task: TaskInstance) -> str:
        return f"{task.path}/{task.map_index}/hitlDetails"

    def state_store(self, task: TaskInstance, key: str) -> Any:
        """Return a value of a task's state store; None if there is none."""
        try:
            return self.call("GET", f"{task.path}/state-store/{key}", params={"map_index": task.map_index})["value"]
        except requests.HTTPError as e:
            if e.response.status_code != 404:
                raise
            return None

    def events(self, task: TaskInstance, event: str) -> int:
        """Return how often Airflow's audit log has an event of a task, such as ``running``."""
        params = {"dag_id": task.dag_id, "run_id": task.run_id, "event": event}
        entries = self.call("GET", "eventLogs", params=params)["event_logs"]
        return [entry["task_id"] for entry in entries].count(task.task_id)

    def log(self, task: TaskInstance, try_number: int | None = None) -> str:
        """Return the log of an attempt of a task, by default the last, as lines with all their fields."""
        return "\n".join(_line(entry) for entry in self._log(task, try_number or task.try_number))

    def error(self, task: TaskInstance) -> str:
        """Return the message of the last exception in a task's log."""
        details = [e["error_detail"] for e in self._log(task, task.try_number) if e.get("error_detail")]
        return str(details[-1][0]["exc_value"]) if details else "no error"

    def xcoms(self, task: TaskInstance) -> dict[str, Any]:
        """Return the XComs of a task, by key."""
        path, params = f"{task.path}/xcomEntries", {"map_index": task.map_index}
        keys = [entry["key"] for entry in self.call("GET", path, params=params)["xcom_entries"]]
        params |= self.XCOM
        return {key: self.call("GET", f"{path}/{key}", params=params)["value"] for key in keys}

    def _log(self, task: TaskInstance, try_number: int) -> list[dict[str, Any]]:
        params = {"map_index": task.map_index, "full_content": True}
        response = self.call("GET", f"{task.path}/logs/{try_number}", params=params)
        entries: list[dict[str, Any]] = response["content"]
        return entries


def _of_map_index(task: TaskInstance) -> str:
    return task.path if task.map_index < 0 else f"{task.path}/{task.map_index}"


def _line(entry: dict[str, Any]) -> str:
    rest = {k: v for k, v in entry.items() if k not in ("timestamp", "event") and v is not None}
    return f"{entry.get('timestamp') or ''} {entry['event']} {json.dumps(rest, ensure_ascii=False)}".strip()
