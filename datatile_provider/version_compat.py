"""What differs between the Airflow versions that this package supports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context


def first_poke_time(context: Context, retries: int) -> datetime | None:
    """
    Return when a rescheduled sensor poked for the first time, in an earlier process; None if this is its first poke.

    Its timeout counts from there. On Airflow 3 a retry starts a new timeout; on Airflow 2 it keeps that of the first
    attempt.

    :param retries: the sensor's ``retries``.
    """
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        found: datetime | None = ti.get_first_reschedule_date(context)
        return found
    # Airflow 2 computes it in the same way, and has no public name for it.
    first_attempt = (ti.max_tries or 0) - retries + 1
    found = import_module("airflow.sensors.base")._orig_start_date(
        ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_attempt
    )
    return found


def resume_arguments(
    next_method: str, next_kwargs: dict[str, Any] | None, job_id: str, timeout: float
) -> tuple[str, dict[str, Any] | None]:
    """
    Return what to resume a deferred task with, so that a trigger timeout means the same on every version.

    Airflow 2 would treat it as a broken trigger and retry, and 3.0 would not let a sensor skip.

    :param next_method: the method that Airflow resumes the task with.
    :param next_kwargs: its arguments.
    :param job_id: the job that the trigger waited for.
    :param timeout: the wait's timeout in seconds.
    """
    # "Trigger timeout", on Airflow 2 "Trigger/execution timeout".
    if next_method != "__fail__" or "timeout" not in str((next_kwargs or {}).get("error")):
        return next_method, next_kwargs
    from datatile_provider.api import errors
    from datatile_provider.triggers.datatile import ended

    error = errors.JobTimeoutError(
        f"The job was not finished within {timeout:,.10g} s. No triggerer reported its status",
        subject=f"job {job_id}",
        hint="Make sure that a triggerer runs. The job may have succeeded: look in DATATILE's processing log.",
    )
    return "execute_complete", {"event": ended(error)}
