"""Throw-away PostgreSQL and Redis servers on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.airflow import free_port
from tests.support.processes import NotStartedError, Session, end

#: PostgreSQL refuses to run as root.
_NOT_ROOT = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups") if os.getuid() == 0 else ()


class PostgreSql:
    """
    A PostgreSQL server with an empty database; ``with`` starts and ends it.

    :param log: the file that its output is appended to.
    :param connections: its ``max_connections``.
    """

    def __init__(self, log: Path, connections: int = 200) -> None:
        self._log = log
        # A folder of pytest is closed to other users.
        self._folder = Path(tempfile.mkdtemp(prefix="datatile-postgresql-"))
        self._password, self.port = secrets.token_hex(), free_port()
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": connections,
            # A crash of the machine loses the data; a crash of the server does not.
            "fsync": "off",
        }
        self._session: Session | None = None

    def __enter__(self) -> PostgreSql:
        if _NOT_ROOT:
            shutil.chown(self._folder, "postgres", "postgres")
        password = self._folder / "password"
        password.write_text(self._password)
        password.chmod(0o644)
        try:
            options = ("--auth=scram-sha-256", "--username=airflow", f"--pwfile={password}", "--no-sync")
            _run(*_NOT_ROOT, _program("initdb"), *options, "-D", str(self._data))
            self.start()
            _run(_program("createdb"), "--maintenance-db", self._url("postgres"), "airflow")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return self._url("airflow")

    def start(self) -> None:
        """:raises NotStartedError: it does not accept connections in time."""
        settings = [word for item in self._settings.items() for word in ("-c", "{}={}".format(*item))]
        command = [*_NOT_ROOT, _program("postgres"), "-D", str(self._data), *settings]
        self._session = Session("postgresql", command, self._log, env=os.environ, cwd=self._folder)
        _wait_for(self._session, [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)])

    def stop(self) -> None:
        """End it at once, without waiting for its clients. The next start recovers its data."""
        if self._session and self._session.running:
            os.kill(self._session.pid, signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._session.wait(10)
            end([self._session])

    def dump(self) -> str:
        """Return all tables as SQL."""
        return _run(_program("pg_dump"), "--inserts", self.url)

    def _url(self, database: str) -> str:
        return f"postgresql://airflow:{self._password}@127.0.0.1:{self.port}/{database}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run a Redis server that keeps nothing on disk. Yield its URL, and a file with all commands that it receives."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    server = Session("redis", command, folder / "redis.log", env=os.environ, cwd=folder)
    sessions = [server]
    try:
        _wait_for(server, ["redis-cli", "-p", str(port), "ping"])
        commands = folder / "redis-commands.log"
        monitor = ["redis-cli", "-p", str(port), "monitor"]
        sessions.append(Session("monitor", monitor, commands, env=os.environ))
        yield f"redis://127.0.0.1:{port}/0", commands
    finally:
        end(sessions)


def _program(name: str) -> str:
    """Return the path of a program of PostgreSQL. Debian has most of them outside the PATH, in a folder per version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders[-1:]), os.environ["PATH"]]))
    if not found:
        raise NotStartedError(f"PostgreSQL's {name} is not installed")
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
    if done.returncode:
        raise NotStartedError(f"{' '.join(command[:5])} failed: {done.stderr}")
    return done.stdout


def _wait_for(server: Session, check: Sequence[str]) -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(check, capture_output=True, timeout=10).returncode:
        if not server.running or time.monotonic() > deadline:
            raise server.failure("did not start")
        time.sleep(0.1)
