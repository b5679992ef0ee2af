"""DatatileHook: uploads and jobs over an Airflow connection."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from datatile_provider.api import errors
from datatile_provider.api.models import Job, OnUnknown, ServerConfig
from datatile_provider.api.polling import Wait
from datatile_provider.api.validation import check_hash, check_job_id, seconds
from datatile_provider.hooks.connection import ConnectionHook

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


class DatatileHook(ConnectionHook):
    """
    Talks to the DATATILE server of an Airflow connection.

    :param datatile_conn_id: the connection: the server in its host, the API token in its password, options in its
        extra. It is read for each call, so a new token is used at once.
    """

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

    def upload(
        self,
        action: str,
        target_hash: str,
        dataset: DatasetLike,
        *,
        callback_url: str | None = None,
        timeout: float | timedelta = ACCEPT_TIMEOUT,
        on_unknown: Literal["fail", "resend"] = "fail",
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
        :param on_unknown: what follows when the outcome of a create or append is unknown: ``fail`` (an error) or
            ``resend`` (send it again; the server may then have the data twice).
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
            resend_unknown=OnUnknown.of(on_unknown, OnUnknown.FAIL, OnUnknown.RESEND) is OnUnknown.RESEND,
        )
        while not (job := uploader.attempt()):
            uploader.pause()
        return job

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

    def get_codebook(self, database_hash: str, path: str | os.PathLike[str]) -> None:
        """
        Write the codebook of a database to a local file: an Excel file with its variables and labels (documented).

        :param database_hash: the hash of the database.
        :param path: the file. An existing one is replaced at the end, so an error leaves it as it was.
        :raises InvalidInputError: the hash or the connection is wrong, or the file can't be written.
        :raises TransientError: no usable response, or Airflow could not return the connection.
        :raises PermanentError: the server will not return it.
        """
        from datatile_provider.api.client import DatatileClient
        from datatile_provider.hooks.codebook import replacing

        check_hash(database_hash)
        client = DatatileClient(self._read_conn(None))
        with replacing(path) as write:
            client.get_codebook(database_hash, write)

    def import_codebook(self, database_hash: str, path: DatasetLike) -> None:
        """
        Send a codebook to a database. It is a patch: what it does not declare comes from the data file (documented).

        :param database_hash: the hash of the database.
        :param path: an Excel file (``.dtcb.xlsx``): a path, a ``file://`` URI, an object storage path or URI.
        :raises InvalidInputError: the hash, the file or the connection is wrong; nothing was sent.
        :raises TransientError: no usable response; it may be sent again.
        :raises PermanentError: the server has rejected it.
        """
        from datatile_provider.api.client import DatatileClient
        from datatile_provider.hooks.dataset import dataset_of

        check_hash(database_hash)
        DatatileClient(self._read_conn(None)).import_codebook(database_hash, dataset_of(path))

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
        now = _steady_clock(started)
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
        now = _steady_clock(min(max(started, time.time()), deadline))
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
                            wait.on_queue(*client.queued)
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


def _steady_clock(now: float) -> Callable[[], float]:
    """Return a clock, in seconds since the epoch, that starts at ``now`` and ignores changes of the system clock."""
    begun = time.monotonic()
    return lambda: now + (time.monotonic() - begun)
