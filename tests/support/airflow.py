"""A real Airflow for tests and the demo: each component is a process, on loopback, in a temporary home."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import requests

from tests.support import airflow2
from tests.support.airflow_api import AirflowApi, Run, TaskInstance
from tests.support.processes import Session, end
from tests.support.versions import AIRFLOW

if TYPE_CHECKING:
    from typing_extensions import Self

# The log servers of the scheduler's workers and of the triggerer bind to every interface, and cannot be configured
# otherwise. They are not needed here: all components share one log folder.
_AIRFLOW_3 = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}
COMPONENTS = airflow2.COMPONENTS if AIRFLOW.major == 2 else _AIRFLOW_3


class RealAirflow:
    """
    Airflow's components as processes; ``with`` starts and stops them.

    :param dags: the folder of the DAG files.
    :param env: more environment variables, such as connections and variables.
    :param home: an AIRFLOW_HOME that is kept; by default a temporary one, which is removed unless something failed.
    """

    #: The arguments of each component.
    components: ClassVar[Mapping[str, Sequence[str]]] = COMPONENTS

    def __init__(self, dags: Path, *, env: Mapping[str, str] | None = None, home: Path | None = None) -> None:
        self.dags = dags
        self._keep_home = home is not None
        self.home = home or Path(tempfile.mkdtemp(prefix="datatile-airflow-"))
        self.home.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.api = (airflow2.Airflow2Api if AIRFLOW.major == 2 else AirflowApi)(self.url)
        self._env = _environment(self.home, dags, port) | dict(env or {})
        self._sessions: dict[str, Session] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._keep_home = True
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._keep_home |= kind is not None and issubclass(kind, Exception)
        self.stop()

    def start(self, timeout: float = 120) -> None:
        """
        Migrate the database, start every component, and wait until all are healthy.

        :param timeout: seconds for the migration, and again for the components.
        :raises NotStartedError: a component did not start in time; the message names it and its log.
        """
        self.run_cli("db", "migrate", timeout=timeout)
        for name in self.components:
            self.start_component(name)
        self.wait_until_healthy(*self.components, timeout=timeout)

    def stop(self) -> None:
        """Stop every process, and remove the home unless it is kept."""
        end(self._sessions.values())
        self._sessions.clear()
        if not self._keep_home:
            shutil.rmtree(self.home, ignore_errors=True)

    def run_cli(self, *arguments: str, timeout: float = 120) -> str:
        """
        Return the output of ``airflow ARGUMENTS``.

        :param timeout: seconds.
        :raises NotStartedError: it failed, or took too long.
        """
        session = self._spawn(f"airflow {' '.join(arguments)}", arguments)
        try:
            status = session.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end([session])
        if status != 0:
            raise session.failure("failed")
        return session.log.read_text(errors="replace")

    def start_component(self, component: str, name: str | None = None) -> None:
        """
        Start a component, without waiting until it is healthy.

        :param component: a key of :attr:`components`.
        :param name: another name, for a second process of the same component.
        """
        self._sessions[name or component] = self._spawn(name or component, self.components[component])

    def wait_until_healthy(self, *names: str, timeout: float = 120) -> None:
        """
        Wait until each of these has had a heartbeat since its start.

        :param timeout: seconds.
        :raises NotStartedError: one ended, or had no heartbeat in time.
        """
        deadline = time.monotonic() + timeout
        while missing := [n for n in names if not self._is_healthy(n)]:
            for session in self._sessions.values():
                if not session.running:
                    raise session.failure("did not stay up")
            if time.monotonic() > deadline:
                raise self._sessions[missing[0]].failure(f"was not healthy within {timeout:.0f} s")
            time.sleep(0.2)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a component and its children, such as the scheduler's workers."""
        self._sessions[name].signal(number)

    def pids(self, name: str) -> list[int]:
        """Return the pids of a component: its own, then those of its children."""
        return [p.pid for p in self._sessions[name].processes()]

    def worker_pids(self, task: TaskInstance) -> list[int]:
        """Return the pids that run a task: that of its supervisor, and the task's own."""
        processes = self._sessions["scheduler"].processes_with
        if AIRFLOW.major == 2:
            # Its executor runs one task at a time. The names of its processes do not hold the map index.
            found = [processes(words) for words in ("airflow tasks run ", "airflow task runner: ")]
            return [one[-1].pid for one in found if one]
        return [p.pid for p in processes(str(task.id))]

    def files_with(self, text: str) -> set[str]:
        """Return the names of the files in the home, including the database, that contain a text."""
        # The file of the database may hold a text in two parts.
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db", timeout=30)) as database:
            found = {"airflow.db"} if any(text in statement for statement in database.iterdump()) else set()
        for folder, _, names in os.walk(self.home):
            for name in names:
                # Airflow is running: files may disappear.
                with contextlib.suppress(FileNotFoundError):
                    if text.encode() in Path(folder, name).read_bytes():
                        found.add(name)
        return found

    def assert_no_file_has(self, token: str, *known: str) -> None:
        """
        Assert that no log, XCom, rendered template or stored trigger holds a token: all of these are in the home.

        :param known: texts that the database and a log must hold. They show that the search works.
        """
        assert known
        for text in known:
            found = self.files_with(text)
            assert "airflow.db" in found, text
            assert any(name.startswith("attempt=") for name in found), text
        assert self.files_with(token) == set()

    def run_dag(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, timeout: float = 120) -> Run:
        """
        Run a DAG, and return the run when it has ended or after the timeout.

        :param conf: the run's configuration.
        :param timeout: seconds.
        """
        return self.api.wait_for_run(dag_id, self.api.trigger(dag_id, conf), timeout)

    def _spawn(self, name: str, arguments: Sequence[str]) -> Session:
        command = [sys.executable, "-m", "airflow", *arguments]
        log = self.home / f"{name.replace(' ', '-').replace('/', '-')}.log"
        return Session(name, command, log, env=self._env)

    def _is_healthy(self, name: str) -> bool:
        try:
            if name in ("api-server", "webserver"):
                self.api.log_in()
                return True
            beat = self.api.heartbeats().get(name)
        except requests.RequestException:
            return False
        return beat is not None and datetime.fromisoformat(beat).timestamp() > self._sessions[name].started


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment(home: Path, dags: Path, port: int) -> dict[str, str]:
    """Return the environment of the processes: this one's without its Airflow settings, and the tests' settings."""
    settings = {
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "8",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        # SQLite has one writer at a time: on a slow machine, its default timeout of 5 s is too short.
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=20",
        "API__EXPOSE_STACKTRACE": "True",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__SECRET_KEY": secrets.token_hex(),
        "API_AUTH__JWT_SECRET": secrets.token_hex(),
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        "LOGGING__COLORED_CONSOLE_LOG": "False",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    if AIRFLOW.major == 2:
        settings |= airflow2.settings(port)
        inherited |= airflow2.prepare(home)
    # Otherwise a proxy of the environment would be used for loopback addresses.
    return (
        inherited
        | {"AIRFLOW_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}
        | {f"AIRFLOW__{name}": value for name, value in settings.items()}
    )
