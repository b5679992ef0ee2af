"""Counters, timers and gauges, sent through Airflow's own metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.polling import Wait
from datatile_provider.version_compat import stats

#: How a job or the wait for it ended, by the error that the wait raised; None if the job succeeded.
_JOB_ENDS: dict[type, str] = {
    type(None): "succeeded",
    errors.JobFailedError: "failed",
    errors.JobCancelledError: "cancelled",
    errors.JobTimeoutError: "timeout",
}


@contextmanager
def upload(size: int) -> Iterator[None]:
    """Count and time one attempt of an upload, of a file of ``size`` bytes."""
    started = time.monotonic()
    try:
        yield
    except errors.DatatileError as e:
        _emit("incr", f"upload.{_failed_upload(e)}")
        raise
    _emit("incr", "upload.accepted")
    _emit("incr", "upload.bytes", size)
    _emit("timing", "upload.duration", timedelta(seconds=time.monotonic() - started))


def _failed_upload(error: errors.DatatileError) -> str:
    if isinstance(error, errors.TransientError):
        return "transient"
    return "unknown" if isinstance(error, errors.OutcomeUnknownError) else "rejected"


def poll() -> None:
    _emit("incr", "polls")


@contextmanager
def in_flight() -> Iterator[None]:
    """Count a wait while it lasts."""
    _emit("gauge", "waits", 1, delta=True)
    try:
        yield
    finally:
        _emit("gauge", "waits", -1, delta=True)


@contextmanager
def waiting(wait: Wait) -> Iterator[None]:
    """Count a wait while it lasts, and time its job."""
    with in_flight():
        try:
            yield
        except errors.DatatileError as e:
            job_ended(wait, e)
            raise
        job_ended(wait)


def job_ended(wait: Wait, error: errors.DatatileError | None = None) -> None:
    """Time a job from the start of its wait, unless an error that is not in ``_JOB_ENDS`` ended the wait."""
    outcome = next((name for kind, name in _JOB_ENDS.items() if isinstance(error, kind)), "")
    if outcome:
        _emit("timing", f"job.duration.{outcome}", timedelta(seconds=max(0.0, time.time() - wait.started)))


def _emit(kind: str, name: str, *args: Any, **kwargs: Any) -> None:
    # The server may have accepted the file: a metric must not fail the task.
    with suppress(Exception):
        getattr(stats(), kind)(f"datatile.{name}", *args, **kwargs)
