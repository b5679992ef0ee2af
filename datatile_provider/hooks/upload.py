"""One upload, attempt by attempt. :meth:`.DatatileHook.upload` and the upload operator are built on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datatile_provider import metrics
from datatile_provider.api import errors
from datatile_provider.api.client import DatatileClient
from datatile_provider.api.models import Action, Job, ServerConfig, Upload
from datatile_provider.api.retry import Retry
from datatile_provider.api.validation import check_callback_url, check_hash, seconds
from datatile_provider.assets.uris import database_uri, file_uri
from datatile_provider.hooks.dataset import dataset_of

if TYPE_CHECKING:
    from datetime import timedelta

    from datatile_provider.api.settings import Settings
    from datatile_provider.hooks.content import Sha256
    from datatile_provider.hooks.dataset import DatasetLike
    from datatile_provider.hooks.datatile import DatatileHook


class Uploader:
    """
    One upload of one file. All input is checked here, before the first attempt.

    :param hook: the hook that reads the connection and logs.
    :param failures: the number of attempts of this upload that failed in an earlier process.
    :param version: the version of the file that those attempts sent; the file must still have it.
    :param content: takes the hash of what is sent.

    The other parameters, and the errors, are those of :meth:`.DatatileHook.upload`.
    """

    def __init__(
        self,
        hook: DatatileHook,
        action: str,
        target_hash: str,
        dataset: DatasetLike,
        *,
        callback_url: str | None,
        timeout: float | timedelta,
        resend_unknown: bool,
        failures: int = 0,
        version: str | None = None,
        content: Sha256 | None = None,
    ) -> None:
        kind = Action.of(action)
        check_hash(target_hash)
        self._hook, self._given, self._callback_url = hook, dataset, check_callback_url(callback_url)
        self._settings, self._token_renewed = hook.get_conn(), False
        self.file = dataset_of(dataset, self._settings.max_upload_bytes)
        self.upload = Upload(kind, target_hash, self.file.name, self.file.size)
        if version not in (None, self.file.version):
            raise self.file.changed(version, self.file.version)
        self.file = content.of(self.file) if content else self.file
        self._retry = Retry(kind, time.monotonic() + seconds("timeout", timeout), resend_unknown, failures)
        self.error: errors.DatatileError | None = None
        self.delay = 0.0
        hook.log.info("Uploading: %s", self.upload)
        hook.log.info("From %s to %s", self.file.location, self._settings.server.url)

    @property
    def settings(self) -> Settings:
        """The connection."""
        return self._settings

    @property
    def server(self) -> ServerConfig:
        """The server that the file is sent to."""
        return self._settings.server

    @property
    def failures(self) -> int:
        """The number of attempts that have failed."""
        return self._retry.failures

    def attempt(
        self, before: Callable[[], None] = lambda: None, before_end: Callable[[], None] = lambda: None
    ) -> Job | None:
        """
        Send the file once. Return its job, or None when another attempt may follow ``error`` after ``delay`` seconds.

        :param before: called before the first byte, after the file was checked.
        :param before_end: called before the last bytes, when the whole file was read. Raises to abort the upload.
        """
        try:
            if self._retry.failures:
                self.file.check_unchanged()
            before()
            job = self._send(before_end)
        except errors.DatatileError as e:
            self.error, self.delay = e, self._retry.after(e, time.monotonic())
            return None
        collect_lineage(self._hook, self.server, self.upload, self._given)
        return job

    def pause(self) -> None:
        """Log the error of the last attempt, and wait until the next one."""
        if self.error:
            self._hook.log.warning("%s", self.error.report(f"next attempt in {math.ceil(self.delay)} s"))
        time.sleep(self.delay)

    def _send(self, before_end: Callable[[], None]) -> Job:
        try:
            return self._request(before_end)
        except errors.TokenRefusedError:
            newer = None if self._token_renewed else self._hook.newer_conn(self._settings)
            if newer is None:
                raise
        self._settings, self._token_renewed = newer, True
        self._hook.log.warning("The server rejected the token. The connection has a newer one: trying it once")
        return self._request(before_end)

    def _request(self, before_end: Callable[[], None]) -> Job:
        started = time.monotonic()
        progress = Progress(started)

        def on_progress(sent: int, size: int) -> None:
            if progress.is_due(sent / size, time.monotonic()):
                self._hook.log.info("Sent %s of %s bytes (%.0f %%)", f"{sent:,}", f"{size:,}", 100 * sent / size)

        with metrics.upload(self.file.size):
            client = DatatileClient(self._settings)
            job = client.upload(self.upload, self.file, self._callback_url, on_progress, before_end)
        took = time.monotonic() - started
        # The rate of a short upload says nothing.
        rate = f" after {took:,.1f} s ({self.file.size / 1e6 / took:,.1f} MB/s)" if took >= 1 else ""
        self._hook.log.info("Accepted as job %s%s", job.id, rate)
        self._hook.log.info("Processing log: %s", self.server.page_url(job.id))
        return job


def collect_lineage(hook: DatatileHook, server: ServerConfig, upload: Upload, dataset: DatasetLike) -> None:
    """Report the file and the database of an accepted upload to Airflow's hook lineage collector."""
    # The server has accepted the file, so an error here must not fail the task.
    with suppress(Exception):
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        collector: Any = get_hook_lineage_collector()  # type: ignore[no-untyped-call]  # Airflow's own
        if source := file_uri(dataset):
            collector.add_input_asset(context=hook, uri=source)
        # The hash of a new database is not known yet.
        if upload.action is not Action.CREATE:
            collector.add_output_asset(context=hook, uri=database_uri(server.url, upload.target_hash))


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
