"""
The sandbox: a fake DATATILE server, to demonstrate and test DAGs without an account.

``python -m datatile_provider.sandbox`` runs it as a process; :class:`Sandbox` runs it inside a Python process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from datatile_provider.sandbox.options import Options
from datatile_provider.sandbox.server import Server
from datatile_provider.sandbox.store import RejectedError, Store

__all__ = ["Options", "RejectedError", "Sandbox"]

T = TypeVar("T")


class Sandbox:
    """
    The sandbox in its own thread, until the ``with`` block ends. It listens on this machine only.

    .. code-block:: python

        with Sandbox(processing_seconds=0.1) as sandbox:
            requests.post(f"{sandbox.url}/api/v2/upload/create/{sandbox.folder}", ...)

    :param options: the options of :class:`Options`.
    :raises ValueError: an option is invalid; the message names it.
    """

    #: The sandbox's URL, without a trailing slash.
    url: str

    def __init__(self, **options: Any) -> None:
        self._options = Options(**options)

    def __enter__(self) -> Sandbox:
        """
        Start the sandbox.

        :raises OSError: the port is in use, or a file cannot be read or written.
        """
        with ExitStack() as cleanup:
            directory = self._options.state_dir or Path(
                cleanup.enter_context(TemporaryDirectory(prefix="datatile-sandbox-"))
            )
            directory.mkdir(parents=True, exist_ok=True)
            self._store = Store(self._options, directory)
            self._loop = asyncio.new_event_loop()
            cleanup.callback(self._loop.close)
            thread = threading.Thread(target=self._loop.run_forever, name="datatile-sandbox", daemon=True)
            thread.start()
            cleanup.callback(thread.join)
            cleanup.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            self._server = self._call(Server, self._options, self._store, directory / "uploads")
            cleanup.callback(lambda: self._run(self._server.stop()))
            self.url = self._run(self._server.start())
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    @property
    def token(self) -> str:
        """The user's current API token."""
        return self._store.token

    @property
    def folder(self) -> str:
        """Hash of a folder that accepts ``create``."""
        return self._store.folder

    @property
    def root(self) -> str:
        """Hash of the root folder, which rejects ``create``."""
        return self._store.root

    @property
    def connection(self) -> dict[str, Any]:
        """The Airflow connection to this sandbox; as JSON, a value for ``AIRFLOW_CONN_…``."""
        extra = {"processing_log_url": f"{self.url}/processing-log/{{job_id}}"}
        return {"conn_type": "datatile", "host": self.url, "password": self.token, "extra": extra}

    def state(self) -> dict[str, Any]:
        """Return the whole state, as in the response to ``GET /sandbox/state``."""
        return self._call(self._store.snapshot)

    def databases(self) -> list[dict[str, Any]]:
        """Return the databases: hash, name, folder, rows, variables, …"""
        return list(self.state()["databases"])

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs, oldest first: job_id, action, hash, filename, state, transitions, …"""
        return list(self.state()["jobs"])

    def mails(self) -> list[dict[str, str]]:
        """Return the emails that DATATILE would have sent: to, subject, body, time."""
        return list(self.state()["mails"])

    def uploads(self) -> list[dict[str, Any]]:
        """Return the accepted uploads: action, hash, filename, size, job_id, time."""
        return list(self.state()["uploads"])

    def callbacks(self) -> list[dict[str, Any]]:
        """Return the callbacks that were sent: job_id, url, state, time, and the response's status or the error."""
        return list(self.state()["callbacks"])

    def add_database(self, name: str = "Database", rows: int = 0, variables: Sequence[str] = ()) -> str:
        """
        Create a database without an upload, and return its hash.

        :param name: the database's name.
        :param rows: the number of its rows.
        :param variables: the names of its variables.
        """
        return self._call(self._store.add_database, name, rows, variables)

    def regenerate_token(self) -> str:
        """Generate a new token and return it. The old one becomes invalid."""
        return self._call(self._store.regenerate_token)

    def set_permission(self, target_hash: str, can_edit: bool) -> None:
        """
        Set whether the user may edit a folder or database.

        :param target_hash: the hash of the folder or database.
        :param can_edit: whether the user may edit it.
        :raises RejectedError: there is no such folder or database.
        """
        self._call(self._store.set_permission, target_hash, can_edit)

    def set_roles(self, *roles: str) -> None:
        """
        Give the user these roles and no others.

        :param roles: ``database-creator``, ``data-collector``, both or none.
        :raises ValueError: a role is unknown.
        """
        self._call(self._store.set_roles, roles)

    def cancel(self, job_id: str) -> None:
        """
        Cancel a job, as a user does in the Drive.

        :param job_id: the job's id.
        :raises RejectedError: there is no such job, or it is finished.
        """
        self._run(self._server.queue.cancel(job_id))

    def set_status(self, job_id: str, status: str | None) -> None:
        """
        Report a status for a job, whatever its state.

        :param job_id: the job's id.
        :param status: the status in responses; None reports the job's state again.
        :raises RejectedError: there is no such job.
        """
        self._call(lambda: self._store.set_status(self._store.find_job(job_id), status))

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the sandbox's thread, the only one that may access the store."""

        async def call() -> T:
            return function(*arguments)

        return self._run(call())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
