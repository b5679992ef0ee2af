"""What differs between the Airflow versions that this package supports. No other module asks for the version."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from datetime import timedelta
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow import __version__
from airflow.providers.common.compat.sdk import conf

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context

#: The installed Airflow's major and minor version.
AIRFLOW_VERSION = tuple(int(part) for part in __version__.split(".")[:2])
AIRFLOW_2 = AIRFLOW_VERSION < (3, 0)
#: Whether a person's clear deletes what a task has stored, unless Airflow is told to keep it.
CLEAR_DISCARDS_STATE = AIRFLOW_VERSION >= (3, 4)
#: Whether the triggerer renders a trigger's templates and can store XComs.
TRIGGERER_RENDERS = AIRFLOW_VERSION >= (3, 3)
#: Whether a plugin can add a page to the menu of the UI.
HAS_PAGES = AIRFLOW_VERSION >= (3, 1)

#: The path of this package's pages below Airflow's own.
ROUTE = "datatile"


def page_path() -> str:
    """Return the path of this package's pages. Airflow may be served below a path of its own."""
    return f"{urlsplit(conf.get('api', 'base_url', fallback='')).path.rstrip('/')}/{ROUTE}/"


if AIRFLOW_VERSION >= (3, 2):
    from airflow.sdk.exceptions import AirflowTaskTerminated as AirflowTaskTerminated
else:
    from airflow.exceptions import AirflowTaskTerminated as AirflowTaskTerminated  # type: ignore[no-redef]  # the other version


def first_poke_time(context: Context, retries: int) -> datetime | None:
    """
    Return when a rescheduled sensor poked for the first time, in an earlier process; None if this is its first poke.

    Its timeout counts from there. On Airflow 3 a retry starts a new timeout; on Airflow 2 it keeps that of the first
    attempt.
    """
    ti: Any = context["ti"]
    found: datetime | None
    if AIRFLOW_2:
        # Airflow 3 computes it in the same way. Airflow 2 has no public name for it.
        first_attempt = (ti.max_tries or 0) - retries + 1
        found = import_module("airflow.sensors.base")._orig_start_date(
            ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_attempt
        )
    else:
        found = ti.get_first_reschedule_date(context)
    return found


def resumed_method(ti: Any) -> str:
    """Return the method that Airflow 2 resumes a deferred task with; ``""`` if it starts, and on Airflow 3."""
    return (ti.next_method or "") if AIRFLOW_2 else ""


def trigger_timed_out(next_method: str, next_kwargs: dict[str, Any] | None) -> bool:
    """
    Return whether Airflow resumes a deferred task because its trigger timed out.

    Airflow 2 would treat that as a broken trigger and retry, and 3.0 would not let a sensor skip.
    """
    # "Trigger timeout", on Airflow 2 "Trigger/execution timeout".
    return next_method == "__fail__" and "timeout" in str((next_kwargs or {}).get("error"))


def resume_pause(deferred_for: float) -> float:
    """
    Return the seconds for which a trigger holds back its event, so that its task is not resumed at a bad moment.

    On Airflow 3 (seen on 3.3.2), the process that supervises a task may live for ``min_heartbeat_interval`` after the
    task was deferred. If it ends while the resumed task is queued or runs, the scheduler takes that for the end of the
    resumed task, reports a state mismatch, and fails or retries it.

    :param deferred_for: seconds since the task was deferred.
    """
    if AIRFLOW_2:
        return 0.0
    lives = conf.getint("workers", "min_heartbeat_interval", fallback=5)
    # The resumed task needs up to 2.5 s, and the scheduler reads the end of the old process up to 2 s late.
    return lives + 2.0 - deferred_for if lives - 2.5 < deferred_for < lives + 2.0 else 0.0


def cannot_ask() -> str:
    """Return why this Airflow can't ask a person; ``""`` if it can."""
    if AIRFLOW_VERSION < (3, 1):
        return "Airflow can ask from version 3.1 on"
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms

    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if comms is None or isinstance(comms, InProcessSupervisorComms):
        return "dag.test() does not ask"
    return ""


def file_question(ti: Any, **question: Any) -> str:
    """
    File a question for a person, and return the text that Airflow shows.

    Airflow keeps the text of a task instance's first question, also for its later attempts, and its own function for
    this hides that.

    :param question: the fields of Airflow's ``CreateHITLDetailPayload`` besides the task instance.
    """
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import CreateHITLDetailPayload

    comms: Any = task_runner.SUPERVISOR_COMMS
    return str(comms.send(CreateHITLDetailPayload(ti_id=ti.id, **question)).body or "")


def wait_for_answer(
    ti: Any,
    question: Mapping[str, Any],
    *,
    timeout: float | None,
    method_name: str,
    kwargs: dict[str, Any],
) -> BaseException:
    """
    Return the exception with which a task waits for the answer to its question.

    :param question: as for :func:`file_question`.
    :param timeout: seconds until Airflow gives the default answer; None to wait without end.
    :param method_name: what the task is resumed in, with ``kwargs`` and the answer as ``event``.
    """
    limit = None if timeout is None else timedelta(seconds=timeout)
    if AIRFLOW_VERSION >= (3, 3):
        from airflow.sdk.exceptions import TaskAwaitingInput

        return TaskAwaitingInput(method_name=method_name, kwargs=kwargs, timeout=limit)
    from airflow.providers.common.compat.sdk import TaskDeferred
    from airflow.providers.standard.triggers.hitl import HITLTrigger
    from airflow.sdk.timezone import utcnow

    trigger = HITLTrigger(
        ti_id=ti.id,
        options=question["options"],
        # The trigger changes them.
        params=deepcopy(question["params"]),
        defaults=question["defaults"],
        timeout_datetime=utcnow() + limit if limit else None,
    )
    return TaskDeferred(trigger=trigger, method_name=method_name, kwargs=kwargs)


async def push_xcom(ti: Any, key: str, value: Any) -> None:
    """Store an XCom from the triggerer, where ``TRIGGERER_RENDERS``."""
    from airflow.sdk.execution_time.xcom import XCom

    await XCom.aset(key, value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index)


@cache
def stats() -> Any:
    """Return the ``Stats`` that Airflow has initialized in this process."""
    module = "airflow.stats"
    if AIRFLOW_VERSION >= (3, 2):
        # Tasks initialize the Task SDK's, and the triggerer Airflow core's.
        in_triggerer = "airflow.jobs.triggerer_job_runner" in sys.modules
        module = "airflow.observability.stats" if in_triggerer else "airflow.sdk.observability.stats"
    return import_module(module).Stats
