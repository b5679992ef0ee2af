"""Reads an Airflow connection as often as uploads and waits need it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from datatile_provider.api import errors
from datatile_provider.api.polling import GRACE

if TYPE_CHECKING:
    from datatile_provider.api.settings import Settings

#: Seconds for which reading a connection is retried that was never read before.
FIRST_READ = 20.0
_PAUSE = 5.0


class ConnectionHook(BaseHook):
    """Reads and checks a connection."""

    conn_name_attr = "datatile_conn_id"
    default_conn_name = "datatile_default"
    conn_type = "datatile"
    hook_name = "DATATILE"

    def __init__(self, datatile_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.datatile_conn_id = datatile_conn_id

    def get_conn(self) -> Settings:
        """
        Return the connection's settings, checked.

        :raises AirflowNotFoundException: there is no such connection.
        :raises InvalidInputError: a field is missing or wrong.
        """
        return self._settings(self.get_connection(self.datatile_conn_id))

    async def get_conn_async(self) -> Settings:
        """Return the same as :meth:`get_conn`, for the triggerer."""
        from airflow.providers.common.compat.connection import get_async_connection
        from airflow.providers.common.compat.sdk import AirflowNotFoundException

        try:
            conn = await get_async_connection(self.datatile_conn_id)
        except AirflowNotFoundException:
            # `airflow dags test` (3.3.2) can't return a connection of its database asynchronously.
            conn = await asyncio.to_thread(self.get_connection, self.datatile_conn_id)
        # In a thread, as it may load a CA bundle.
        return await asyncio.to_thread(self._settings, conn)

    def _read_conn(self, server: str | None) -> Settings:
        """Return the same as :meth:`get_conn`, for a poll: the connection must still point to that server."""
        with self._unreadable():
            return self._at(server, self.get_conn())

    async def _read_conn_async(self, server: str | None) -> Settings:
        with self._unreadable():
            return self._at(server, await self.get_conn_async())

    @contextlib.contextmanager
    def _unreadable(self) -> Iterator[None]:
        try:
            yield
        except errors.DatatileError:
            raise
        except Exception as e:  # each secrets backend has its own errors
            raise errors.ConnectionUnreadableError(
                f"Airflow could not return the connection {self.datatile_conn_id!r}: {e or type(e).__name__}",
                hint="Check that it exists, and that Airflow's API server or secrets backend is up.",
            ) from e

    def _at(self, server: str | None, settings: Settings) -> Settings:
        if server in (None, settings.server.address):
            return settings
        raise errors.ConnectionChangedError(
            f"The job is at {server}.\n"
            f"The connection {self.datatile_conn_id!r} points to {settings.server.address} now",
            hint="Point the connection to the job's server until the job has finished.",
        )

    def first_conn(self, server: str | None = None, *, job_id: str = "", deadline: float = 0.0) -> Settings:
        """
        Return the same as :meth:`get_conn`, for a wait that starts: with retries.

        :param server: the address of the server that the connection must point to, if it was read before.
        :param job_id: the job that is waited for.
        :param deadline: the wait's, in seconds since the epoch.
        :raises JobTimeoutError: Airflow could not return the connection until the deadline.
        :raises TransientError: Airflow could not return it and it was never read before, so it may not exist.
        :raises InvalidInputError: a field is missing or wrong.
        """
        retry = _Retry(self.log, server, job_id, deadline)
        while True:
            try:
                return self._read_conn(server)
            except errors.DatatileError as e:
                time.sleep(retry.pause(e, time.time()))

    async def _first_conn_async(self, server: str | None, job_id: str, deadline: float) -> Settings:
        retry = _Retry(self.log, server, job_id, deadline)
        while True:
            try:
                return await self._read_conn_async(server)
            except errors.DatatileError as e:
                await asyncio.sleep(retry.pause(e, time.time()))

    def _settings(self, conn: Any) -> Settings:
        from datatile_provider.api.settings import Settings

        return Settings.of(
            self.datatile_conn_id,
            host=conn.host,
            schema=conn.schema,
            port=conn.port,
            token=conn.password,
            extra=conn.extra,
        )

    def newer_conn(self, settings: Settings) -> Settings | None:
        """Return the connection if it has another token for the same server by now."""
        found = None
        with self._old_token_is_reported():
            found = self._read_conn(settings.server.address)
        return found if found and found.token != settings.token else None

    async def _newer_conn_async(self, settings: Settings) -> Settings | None:
        found = None
        with self._old_token_is_reported():
            found = await self._read_conn_async(settings.server.address)
        return found if found and found.token != settings.token else None

    @contextlib.contextmanager
    def _old_token_is_reported(self) -> Iterator[None]:
        try:
            yield
        except errors.DatatileError as e:
            # The rejected token is the error to report.
            self.log.warning("%s", e)


@dataclass(slots=True)
class _Retry:
    """
    Decides how long a wait that starts retries to read its connection.

    :param deadline: the wait's, in seconds since the epoch.
    :param last_attempt: the time of the last attempt, in seconds of the monotonic clock; set at the first failure.
    """

    log: Any
    server: str | None
    job_id: str
    deadline: float
    last_attempt: float | None = None
    kind: type[errors.DatatileError] | None = None

    def pause(self, error: errors.DatatileError, now: float) -> float:
        """Return the seconds until the connection is read again. ``now`` is in seconds since the epoch."""
        final = not isinstance(error, errors.TransientError)
        if final and not self.server:
            raise error
        if self.last_attempt is None or self.kind is not type(error):
            self.log.warning("%s", error.report("trying again"))
            # One that was never read may not exist. One that is edited now may be wrong for a moment.
            patience = GRACE if final else self.deadline - now if self.server else FIRST_READ
            self.last_attempt, self.kind = time.monotonic() + patience, type(error)
        left = self.last_attempt - time.monotonic()
        if left > 0:
            return min(_PAUSE, left)
        if final or not self.server:
            raise error
        raise errors.JobTimeoutError(
            f"The job could not be polled before the deadline.\n{error.what}",
            subject=f"job {self.job_id}",
            hint=error.hint,
        )
