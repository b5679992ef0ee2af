"""DatatileHook: uploads and jobs over an Airflow connection."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from datatile_provider.api import errors
from datatile_provider.api.models import Job, ServerConfig
from datatile_provider.api.polling import Wait
from datatile_provider.api.validation import check_job_id, seconds
from datatile_provider.hooks.connection_retry import ConnectionRetry

if TYPE_CHECKING:
    from datetime import timedelta

    from datatile_provider.api.settings import Settings
    from datatile_provider.hooks.dataset import DatasetLike

#: Seconds within which the server must accept an upload.
ACCEPT_TIMEOUT = 3600.0
#: Seconds between polls of a job, after a few quick first ones.
POLL_INTERVAL = 30.0
#: Seconds after which a wait for a job times out.
JOB_TIMEOUT = 24 * 3600.0


class DatatileHook(BaseHook):
    """
    Talks to the DATATILE server of an Airflow connection.

    :param datatile_conn_id: the connection: the server in its host, the API token in its password, options in its
        extra. It is read for each call, so a new token is used at once.
    """

    conn_name_attr = "datatile_conn_id"
    default_conn_name = "datatile_default"
    conn_type = "datatile"
    hook_name = "DATATILE"

    def __init__(self, datatile_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.datatile_conn_id = datatile_conn_id

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the connection form's fields for the extra, for Airflow before 3.2."""
        from datatile_provider.hooks.form import widgets

        return widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return which fields the connection form shows, and how, for Airflow before 3.2."""
        from datatile_provider.hooks.form import behaviour

        return behaviour()

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
        """
        Return the same as :meth:`get_conn`, for a poll.

        :param server: the address of the server that the connection must still point to.
        :raises ConnectionUnreadableError: Airflow could not return the connection.
        :raises ConnectionChangedError: it points to another server now.
        """
        with self._unreadable():
            found = self.get_conn()
        return self._at(server, found)

    async def _read_conn_async(self, server: str | None) -> Settings:
        with self._unreadable():
            found = await self.get_conn_async()
        return self._at(server, found)

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
        retry = ConnectionRetry(self.log, server, job_id, deadline)
        while True:
            try:
                return self._read_conn(server)
            except errors.DatatileError as e:
                time.sleep(retry.pause(e, time.time()))

    async def _first_conn_async(self, server: str | None, job_id: str, deadline: float) -> Settings:
        retry = ConnectionRetry(self.log, server, job_id, deadline)
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

    def upload(
        self,
        action: str,
        target_hash: str,
        dataset: DatasetLike,
        *,
        callback_url: str | None = None,
        timeout: float | timedelta = ACCEPT_TIMEOUT,
        resend_unknown: bool = False,
    ) -> Job:
        """
        Upload a file and return the job that processes it.

        An attempt after whose failure the server can't have the file is retried until the timeout. One of unknown
        outcome is retried for ``reload`` only.

        :param action: ``create`` (a database in a folder), ``reload`` or ``append``.
        :param target_hash: the hash of the folder (create) or of the database.
        :param dataset: a local path, ``file://`` URI, object storage path or URI, or an open binary file.
        :param callback_url: the URL that DATATILE sends the job's transitions to.
        :param timeout: seconds (or a ``timedelta``) within which the server must accept the file.
        :param resend_unknown: send a create or append again too when its outcome is unknown. The server may then have
            the data twice.
        :raises InvalidInputError: bad input; nothing was sent.
        :raises TransientError: not accepted within the timeout.
        :raises PermanentError: not accepted, and another attempt would change nothing.
        :raises OutcomeUnknownError: the server may have the file.
        """
        from datatile_provider.hooks.upload import Uploader

        uploader = Uploader(
            self,
            action,
            target_hash,
            dataset,
            callback_url=callback_url,
            timeout=timeout,
            resend_unknown=resend_unknown,
        )
        while not (job := uploader.attempt()):
            uploader.pause()
        return job

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

    def get_job(self, job_id: str, *, server: str | None = None) -> Job:
        """
        Poll a job once.

        :param server: the address of the server that the job is on, if it is known: the connection may point to
            another one by now.
        :raises InvalidInputError: the job id or the connection is wrong.
        :raises TransientError: no usable response, or Airflow could not return the connection.
        :raises PermanentError: the server will not report the job.
        """
        from datatile_provider import metrics
        from datatile_provider.api.client import DatatileClient

        metrics.poll()
        return DatatileClient(self._read_conn(server)).get_job(job_id)

    async def get_job_async(self, job_id: str) -> Job:
        """Poll as :meth:`get_job` does, without blocking the event loop."""
        from datatile_provider.api.async_client import connected

        async with connected(await self._read_conn_async(None)) as client:
            return await client.get_job(job_id)

    def wait_for_job(
        self,
        job_id: str,
        *,
        poll_interval: float | timedelta = POLL_INTERVAL,
        timeout: float | timedelta = JOB_TIMEOUT,
        server: str | None = None,
    ) -> Job:
        """
        Wait until a job has succeeded, and return it.

        :param poll_interval: seconds between polls, after a few quick first ones.
        :param timeout: seconds after which the wait times out.
        :param server: as for :meth:`get_job`.
        :raises JobFailedError: the job failed.
        :raises JobCancelledError: it was cancelled.
        :raises JobTimeoutError: it was not finished in time.
        :raises PermanentError: the server will not report it (wrong token, no such job).
        """
        from datatile_provider import metrics
        from datatile_provider.api.client import DatatileClient

        started = time.time()
        now = _steady_clock(started, started)
        deadline = started + seconds("timeout", timeout)
        settings = self.first_conn(server, job_id=check_job_id(job_id), deadline=deadline)
        wait = self.new_wait(settings.server, job_id, poll_interval, timeout, started)
        with metrics.waiting(wait):
            while True:
                metrics.poll()
                with wait.poll(now) as poll:
                    try:
                        poll.result = DatatileClient(settings).get_job(job_id)
                    except errors.TokenRefusedError:
                        newer = self.newer_conn(settings)
                        if not newer:
                            raise
                        settings = newer
                        continue
                if poll.succeeded:
                    return poll.succeeded
                time.sleep(wait.delay(now()))

    async def wait_for_job_async(
        self,
        job_id: str,
        *,
        poll_interval: float,
        timeout: float,
        started: float,
        status: str = "",
        server: str | None = None,
    ) -> Job:
        """
        Wait as :meth:`wait_for_job` does, without blocking the event loop.

        :param started: when the wait started, in seconds since the epoch. That may have been in another process.
        :param status: the status that was seen, and logged, there.
        :param server: as for :meth:`get_job`.
        """
        from datatile_provider import metrics

        deadline = started + timeout
        # The system clock may have been changed since.
        now = _steady_clock(started, min(max(started, time.time()), deadline))
        settings = await self._first_conn_async(server, job_id, time.time() + deadline - now())
        wait = self.new_wait(settings.server, job_id, poll_interval, timeout, started, status)
        with metrics.waiting(wait):
            return await self._poll_until_done(settings, wait, now)

    async def _poll_until_done(self, settings: Settings, wait: Wait, now: Callable[[], float]) -> Job:
        from datatile_provider import metrics
        from datatile_provider.api.async_client import connected

        while True:
            async with connected(settings) as client:
                while True:
                    metrics.poll()
                    with wait.poll(now) as poll:
                        try:
                            left = wait.deadline - now()
                            poll.result = await client.get_job(wait.job_id, max_age=wait.gap / 2, left=left)
                        except errors.TokenRefusedError:
                            newer = await self._newer_conn_async(settings)
                            if not newer:
                                raise
                            settings = newer
                            break
                        finally:
                            # It may have been in the queue before, or be the poll of another wait.
                            poll.sent = now() - client.sent_ago
                    if poll.succeeded:
                        return poll.succeeded
                    # Counted from the response, so that waits for the same job share their polls.
                    await asyncio.sleep(max(0.0, wait.delay(now()) - client.age))

    def new_wait(
        self,
        server: ServerConfig,
        job_id: str,
        poll_interval: float | timedelta,
        timeout: float | timedelta,
        started: float,
        status: str = "",
    ) -> Wait:
        """Return a wait that logs to this hook's log; see :class:`Wait` for the parameters."""
        return Wait(
            server,
            check_job_id(job_id),
            seconds("poll_interval", poll_interval),
            seconds("timeout", timeout),
            started,
            lambda level, text: self.log.log(level, "%s", text),
            status,
        )

    def test_connection(self) -> tuple[bool, str]:
        """
        Check whether uploads and waits would work, without sending a file or changing anything.

        :return: whether they would, and what was found.
        """
        from airflow.providers.common.compat.sdk import AirflowNotFoundException

        from datatile_provider.api.client import DatatileClient

        try:
            settings = self.get_conn()
            DatatileClient(settings).probe()
        except errors.DatatileError as e:
            # The form shows no line breaks.
            return False, e.paragraph
        except AirflowNotFoundException as e:
            return False, str(e)
        return True, f"{settings.server.url} accepts the token."


def _steady_clock(started: float, now: float) -> Callable[[], float]:
    """
    Return a clock for a wait that is not affected when the system clock is changed.

    :param started: when the wait started, in seconds since the epoch.
    :param now: the time from which it continues, in seconds since the epoch.
    """
    begun = time.monotonic() - (now - started)
    return lambda: started + (time.monotonic() - begun)
