"""DatatileHook: uploads and jobs over an Airflow connection."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from datatile_provider.api import contract, errors
from datatile_provider.api.contract import Action, Job, Upload
from datatile_provider.api.polling import GRACE, Wait, seconds

if TYPE_CHECKING:
    from datetime import timedelta

    from datatile_provider.api.multipart import Dataset
    from datatile_provider.api.settings import Settings
    from datatile_provider.hooks.content import Sha256
    from datatile_provider.hooks.dataset import DatasetLike

#: Seconds within which the server must accept an upload.
ACCEPT_TIMEOUT = 3600.0
#: Seconds between polls of a job, after a few quick first ones.
POLL_INTERVAL = 30.0
#: Seconds after which a wait for a job times out.
JOB_TIMEOUT = 24 * 3600.0
#: Seconds for which reading a connection is retried that was never read before.
FIRST_READ = 20.0
_PAUSE = 5.0


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
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import BooleanField, IntegerField, StringField
        from wtforms.validators import Optional

        from datatile_provider.hooks.form import OPTIONS

        def field(label: str, schema: Any, description: str) -> Any:
            kind = schema["type"][0]
            if kind == "boolean":
                return BooleanField(label, description=description)
            # Airflow accepts no class for other numbers: they are parsed from text.
            made = IntegerField if kind == "integer" else StringField
            return made(label, [Optional()], description=description, widget=BS3TextFieldWidget())

        return {name: field(**option) for name, option in OPTIONS.items()}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return which fields the connection form shows, and how, for Airflow before 3.2."""
        from datatile_provider.hooks.form import HIDDEN_FIELDS, PLACEHOLDERS, RELABELING
        from datatile_provider.version_compat import AIRFLOW_2

        # The script of Airflow 2's form breaks at a click on "Test" when it has no editor for the extra.
        shown = {"extra"} if AIRFLOW_2 else set()
        hidden = [name for name in HIDDEN_FIELDS if name not in shown]
        return {"hidden_fields": hidden, "relabeling": RELABELING, "placeholders": PLACEHOLDERS}

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
        try:
            found = self.get_conn()
        except errors.DatatileError:
            raise
        except Exception as e:  # each secrets backend has its own errors
            raise self._unreadable(e) from e
        return self._at(server, found)

    async def _read_conn_async(self, server: str | None) -> Settings:
        try:
            found = await self.get_conn_async()
        except errors.DatatileError:
            raise
        except Exception as e:  # each secrets backend has its own errors
            raise self._unreadable(e) from e
        return self._at(server, found)

    def _at(self, server: str | None, settings: Settings) -> Settings:
        if server in (None, settings.server.address):
            return settings
        raise errors.ConnectionChangedError(
            f"The job is at {server}.\n"
            f"The connection {self.datatile_conn_id!r} points to {settings.server.address} now",
            hint="Point the connection to the job's server until the job has finished.",
        )

    def _unreadable(self, error: Exception) -> errors.ConnectionUnreadableError:
        return errors.ConnectionUnreadableError(
            f"Airflow could not return the connection {self.datatile_conn_id!r}: {error or type(error).__name__}",
            hint="Check that it exists, and that Airflow's API server or secrets backend is up.",
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
        retry = _ConnectionRetry(self.log, server, job_id, deadline)
        while True:
            try:
                return self._read_conn(server)
            except errors.DatatileError as e:
                time.sleep(retry.pause(e, time.time()))

    async def _first_conn_async(self, server: str | None, job_id: str, deadline: float) -> Settings:
        retry = _ConnectionRetry(self.log, server, job_id, deadline)
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
        failures: int = 0,
        version: str | None = None,
        content: Sha256 | None = None,
        before_attempt: Callable[[Attempts], None] = lambda attempts: None,
        before_retry: Callable[[Attempts, errors.DatatileError, float], None] = lambda attempts, error, delay: None,
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
        :param failures: the number of attempts that failed before this call.
        :param version: the version of the file that those attempts sent; the file must still have it.
        :param content: takes the hash of what is sent.
        :param before_attempt: called before the first byte of each attempt, after all input was checked.
        :param before_retry: called with the error and the seconds until the next attempt. What either of these two
            raises ends the upload.
        :raises InvalidInputError: bad input; nothing was sent.
        :raises TransientError: not accepted within the timeout.
        :raises PermanentError: not accepted, and another attempt would change nothing.
        :raises OutcomeUnknownError: the server may have the file.
        """
        from datatile_provider.api.retry import Retry
        from datatile_provider.hooks.dataset import dataset_of
        from datatile_provider.hooks.lineage import collect_lineage

        kind = Action.of(action)
        contract.check_hash(target_hash)
        contract.check_callback_url(callback_url)
        settings = self.get_conn()
        file = dataset_of(dataset, settings.max_upload_bytes)
        upload = Upload(kind, target_hash, file.name, file.size)
        if version not in (None, file.version):
            raise file.changed(version, file.version)
        file = content.of(file) if content else file
        retry = Retry(kind, time.monotonic() + seconds("timeout", timeout), resend_unknown, failures)
        self.log.info("Uploading: %s", upload)
        self.log.info("From %s to %s", file.location, settings.server.url)
        token_renewed = False
        while True:
            try:
                if retry.failures:
                    file.check_unchanged()
                before_attempt(Attempts(upload, settings.server, retry.failures, file.version))
                job = self._attempt(settings, upload, file, callback_url)
                collect_lineage(self, settings.server, upload, dataset)
                return job
            except errors.TokenRefusedError as e:
                newer = self._newer_conn(settings)
                if token_renewed or newer is None:
                    raise e from None
                settings, token_renewed = newer, True
                self.log.warning("The server rejected the token. The connection has a newer one: trying it once")
            except errors.DatatileError as e:
                delay = retry.after(e, time.monotonic())
                before_retry(Attempts(upload, settings.server, retry.failures, file.version), e, delay)
                self.log.warning("%s", e.report(f"next attempt in {math.ceil(delay)} s"))
                time.sleep(delay)

    def _newer_conn(self, settings: Settings) -> Settings | None:
        """Return the connection if it has another token for the same server by now."""
        try:
            found = self._read_conn(settings.server.address)
        except errors.DatatileError as e:
            # The rejected token is the error to report.
            self.log.warning("%s", e)
            return None
        return found if found.token != settings.token else None

    async def _newer_conn_async(self, settings: Settings) -> Settings | None:
        try:
            found = await self._read_conn_async(settings.server.address)
        except errors.DatatileError as e:
            self.log.warning("%s", e)
            return None
        return found if found.token != settings.token else None

    def _attempt(self, settings: Settings, upload: Upload, file: Dataset, callback_url: str | None) -> Job:
        from datatile_provider import metrics
        from datatile_provider.api.client import DatatileClient

        started = time.monotonic()
        progress = Progress(started)

        def on_progress(sent: int, size: int) -> None:
            if progress.is_due(sent / size, time.monotonic()):
                self.log.info("Sent %s of %s bytes (%.0f %%)", f"{sent:,}", f"{size:,}", 100 * sent / size)

        with metrics.upload(file.size):
            job = DatatileClient(settings).upload(upload, file, callback_url, on_progress)
        took = time.monotonic() - started
        # The rate of a short upload says nothing.
        rate = f" after {took:,.1f} s ({file.size / 1e6 / took:,.1f} MB/s)" if took >= 1 else ""
        self.log.info("Accepted as job %s%s", job.id, rate)
        self.log.info("Processing log: %s", settings.server.page_url(job.id))
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
        settings = self.first_conn(server, job_id=contract.check_job_id(job_id), deadline=deadline)
        wait = self.new_wait(settings.server, job_id, poll_interval, timeout, started)
        with metrics.waiting(wait):
            while True:
                result: Job | errors.DatatileError
                metrics.poll()
                sent = now()
                try:
                    result = DatatileClient(settings).get_job(job_id)
                except errors.TokenRefusedError as e:
                    result = e
                    if newer := self._newer_conn(settings):
                        settings = newer
                        continue
                except errors.DatatileError as e:
                    result = e
                if job := wait.update(result, now(), sent):
                    return job
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
                    result: Job | errors.DatatileError
                    metrics.poll()
                    try:
                        left = wait.deadline - now()
                        result = await client.get_job(wait.job_id, max_age=wait.gap / 2, left=left)
                    except errors.TokenRefusedError as e:
                        result = e
                        if newer := await self._newer_conn_async(settings):
                            settings = newer
                            break
                    except errors.DatatileError as e:
                        result = e
                    received_at = now()
                    if job := wait.update(result, received_at, received_at - client.sent_ago):
                        return job
                    # Counted from the response, so that waits for the same job share their polls.
                    await asyncio.sleep(max(0.0, wait.delay(now()) - client.age))

    def new_wait(
        self,
        server: contract.Server,
        job_id: str,
        poll_interval: float | timedelta,
        timeout: float | timedelta,
        started: float,
        status: str = "",
    ) -> Wait:
        """Return a wait that logs to this hook's log; see :class:`Wait` for the parameters."""
        return Wait(
            server,
            contract.check_job_id(job_id),
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


@dataclass(slots=True)
class _ConnectionRetry:
    """
    Decides how long a wait that starts retries to read its connection.

    :param deadline: the wait's, in seconds since the epoch.
    :param last_attempt: the time of the last attempt, in seconds of the monotonic clock; set at the first failure.
    :param kind: the kind of the last error.
    """

    log: Any
    server: str | None
    job_id: str
    deadline: float
    last_attempt: float | None = None
    kind: type[errors.DatatileError] | None = None

    def pause(self, error: errors.DatatileError, now: float) -> float:
        """
        Return the seconds until the connection is read again.

        :param now: the time, in seconds since the epoch.
        """
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


@dataclass(frozen=True, slots=True)
class Attempts:
    """
    The attempts of one upload so far.

    :param upload: the upload.
    :param server: the server.
    :param failures: the number of attempts that failed.
    :param version: the version of the file that they sent.
    """

    upload: Upload
    server: contract.Server
    failures: int
    version: str


@dataclass(slots=True)
class Progress:
    """
    Decides when the progress of a long upload is logged: each 10 %, or each 30 s.

    :param last_time: when the upload began, in seconds.
    """

    last_time: float
    last_share: float = 0.0

    def is_due(self, share: float, now: float) -> bool:
        """Return whether to log that this share of the body has been sent by now."""
        # Ten lines within a second are of no use.
        due = now - self.last_time >= (3.0 if share - self.last_share >= 0.1 else 30.0)
        if due:
            self.last_time, self.last_share = now, share
        return due
