"""What is counted and timed, through Airflow's own metrics."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.polling import Wait

_JOB_ENDS: dict[type, str] = {
    errors.JobFailedError: "failed",
    errors.JobCancelledError: "cancelled",
    errors.JobTimeoutError: "timeout",
}


@contextmanager
def upload(size: int) -> Iterator[None]:
    """
    Count and time one try of an upload.

    :param size: the file's bytes.
    """
    started = time.monotonic()
    try:
        yield
    except errors.DatatileError as e:
        unknown = "unknown" if isinstance(e, errors.OutcomeUnknownError) else "refused"
        _emit("incr", f"upload.{'passing' if isinstance(e, errors.TransientError) else unknown}")
        raise
    _emit("incr", "upload.accepted")
    _emit("incr", "upload.bytes", size)
    _emit("timing", "upload.duration", timedelta(seconds=time.monotonic() - started))


def poll() -> None:
    """Count a look at a job."""
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
    """
    Time a job, from the moment its wait began.

    :param wait: the wait that saw its end.
    :param error: how it ended, if not well. One that tells no end of the job is not counted.
    """
    outcome = _JOB_ENDS.get(type(error)) if error else "succeeded"
    if outcome:
        _emit("timing", f"job.duration.{outcome}", timedelta(seconds=max(0.0, time.time() - wait.started)))


def _emit(kind: str, name: str, *args: Any, **kwargs: Any) -> None:
    # The file may be at the server: a metric must not end in an error.
    with suppress(Exception):
        getattr(_stats(), kind)(f"datatile.{name}", *args, **kwargs)


@cache
def _stats() -> Any:
    """Return the Stats that Airflow has set up in this process."""
    modules = ["airflow.sdk.observability.stats", "airflow.observability.stats", "airflow.stats"]
    # Airflow 3.2 and later set up the Task SDK's in tasks, and their own in the triggerer.
    if "airflow.jobs.triggerer_job_runner" in sys.modules:
        del modules[0]
    for module in modules:
        with suppress(ImportError):
            return import_module(module).Stats
    raise ImportError(f"None of {modules} is there")
