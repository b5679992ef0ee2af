"""A wait that Airflow itself ended, because no triggerer had told anything by then."""

from __future__ import annotations

from typing import Any

from datatile_provider.api import errors
from datatile_provider.triggers.datatile import ended


def resumed_with(
    next_method: str, next_kwargs: dict[str, Any] | None, job_id: str, timeout: float
) -> tuple[str, dict[str, Any] | None]:
    """
    Return what to resume a task with, so that a passed deadline is one on every version.

    Airflow 2 would take it for a broken trigger and try again, and 3.0 would not let a sensor skip it.

    :param next_method: what Airflow resumes the task with.
    :param next_kwargs: its arguments.
    :param job_id: the job that was waited for.
    :param timeout: seconds for which it was.
    """
    # "Trigger timeout", on Airflow 2 "Trigger/execution timeout".
    if next_method != "__fail__" or "timeout" not in str((next_kwargs or {}).get("error")):
        return next_method, next_kwargs
    error = errors.JobTimeout(
        f"Job {job_id} was not finished within {timeout:,.10g} s, and no triggerer told anything of it",
        advice="Make sure that a triggerer runs. The job may have ended well: look in DATATILE's processing log.",
    )
    return "execute_complete", {"event": ended(error)}
