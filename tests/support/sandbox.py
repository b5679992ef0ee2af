"""The sandbox as a process that can be killed, and restarted with its state."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from datatile_provider.sandbox import Sandbox
from tests.support.airflow import free_port
from tests.support.processes import Session, end


class SandboxProcess:
    """
    A sandbox whose address, token and folder stay the same when it is restarted.

    :param home: the folder of its state, uploads and log.
    :param processing_seconds: how long a job takes.
    :param uploads_per_minute: its rate limit; 0 for none.
    """

    def __init__(self, home: Path, processing_seconds: float = 1.0, uploads_per_minute: float = 0) -> None:
        self.token, self.folder = secrets.token_hex(20), secrets.token_hex(8)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = home / "sandbox.log"
        self._options = {
            "--port": port,
            "--folder": self.folder,
            "--state-dir": home / "state",
            "--processing-seconds": processing_seconds,
            "--uploads-per-minute": uploads_per_minute,
        }
        self._http = _session()
        self._http.headers["X-Requested-With"] = "tests"

    def __enter__(self) -> SandboxProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end([self._session])

    def connection(self, url: str = "") -> str:
        """Return the Airflow connection as JSON, to the sandbox or to the address of a proxy."""
        return json.dumps(connection_to(url or self.url, self.token))

    def start(self) -> None:
        """:raises NotStartedError: it does not respond in time."""
        words = [str(word) for option in (self._options | {"--token": self.token}).items() for word in option]
        command = [sys.executable, "-m", "datatile_provider.sandbox", *words]
        self._session = Session("sandbox", command, self._log, env=os.environ)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.state()
                return
            except requests.ConnectionError:
                if not self._session.running or time.monotonic() > deadline:
                    raise self._session.failure("did not start") from None
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it with its child processes."""
        self._session.signal(signal.SIGKILL)
        self._session.wait(10)

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections stay open, without a response."""
        self._session.signal(signal.SIGSTOP)

    def state(self) -> dict[str, Any]:
        """Return its state."""
        response = self._http.get(f"{self.url}/sandbox/state", timeout=30)
        response.raise_for_status()
        state: dict[str, Any] = response.json()
        return state

    def jobs(self, filename: str) -> list[dict[str, Any]]:
        """Return the jobs of the accepted uploads of a file, oldest first."""
        return [job for job in self.state()["jobs"] if job["filename"] == filename]

    def rows(self, database: str) -> int:
        """Return the number of rows of a database."""
        return next(int(d["rows"]) for d in self.state()["databases"] if d["hash"] == database)

    def add_database(self) -> str:
        """Return the hash of a new, empty database."""
        return str(self._post("sandbox/databases", json={})["hash"])

    def regenerate_token(self) -> str:
        """Replace the token by a new one, as a user does on the Profile page, and return the new one."""
        self.token = str(self._post("sandbox/token")["token"])
        return self.token

    def hold(self, job_id: str, status: str = "running") -> None:
        """Report this status for a job, until it is released."""
        self._post(f"sandbox/jobs/{job_id}/status", json={"status": status})

    def release(self, job_id: str) -> None:
        """Report the job's real status again."""
        self._post(f"sandbox/jobs/{job_id}/status", json={"status": None})

    def _post(self, path: str, **request: Any) -> dict[str, Any]:
        response = self._http.post(f"{self.url}/{path}", timeout=30, **request)
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found


def upload(sandbox: Sandbox | SandboxProcess, action: str, target: str, file: Path) -> str:
    """Upload a file without Airflow, and return the job's id."""
    url = f"{sandbox.url}/api/v2/upload/{action}/{target}"
    with file.open("rb") as content:
        files = {"dataset": (file.name, content)}
        response = _session().post(url, headers={"token": sandbox.token}, files=files, timeout=30)
    response.raise_for_status()
    return str(response.json()["job_id"])


def connection_to(url: str, token: str) -> dict[str, Any]:
    """Return the Airflow connection to a sandbox, or to a server in front of it."""
    extra = {"processing_log_url": f"{url}/processing-log/{{job_id}}"}
    return {"conn_type": "datatile", "host": url, "password": token, "extra": extra}


def _session() -> requests.Session:
    session = requests.Session()
    # Proxies of the environment cannot reach a loopback server.
    session.trust_env = False
    return session
