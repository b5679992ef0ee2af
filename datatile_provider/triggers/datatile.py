"""DatatileJobTrigger: waits for a job in the triggerer, and resumes the task with an event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from datatile_provider.api import errors
from datatile_provider.api.models import Job
from datatile_provider.api.states import JobState
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.links.datatile import addresses
from datatile_provider.version_compat import push_xcom, resume_pause, trigger_timed_out

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from datatile_provider.operators.datatile import DatatileUploadOperator
    from datatile_provider.sensors.datatile import DatatileJobSensor

#: The trigger keeps the deadline itself, so that its error can report the last status. Airflow's own timeout of the
#: deferral is this much later: it ends a wait when no triggerer runs.
TRIGGER_TIMEOUT_MARGIN = timedelta(minutes=10)
#: The version of triggers' arguments and events; see docs/formats.md.
FORMAT = 1
#: The texts of an error that its event holds.
_PARTS = ("what", "subject", "server_message", "hint", "log_url")


class DatatileJobTrigger(BaseTrigger):
    """
    Waits for a job, over a session that all waits of this triggerer for that server share.

    :param job_id: the job.
    :param datatile_conn_id: the connection; the triggerer reads it, so no token is stored with the trigger.
    :param poll_interval: seconds between polls, after a few quick first ones.
    :param timeout: seconds from ``started`` after which the wait times out.
    :param started: when the wait started, in seconds since the epoch, so that restarts do not extend it. None when the
        task starts in the triggerer: Airflow then keeps that time.
    :param status: the status that the task has seen, and logged, already.
    :param execution_deadline: when the task's ``execution_timeout`` passes, in seconds since the epoch: Airflow 3
        does not check it while a task is deferred.
    :param ends_task: whether the triggerer may end the task when the job has succeeded, without another worker start.
    :param do_xcom_push: whether a task that ends in the triggerer returns the job.
    :param server: the address of the server that the job is on, if it is known: the connection may point to another one
        by now.
    """

    def __init__(
        self,
        job_id: str,
        datatile_conn_id: str,
        poll_interval: float,
        timeout: float,
        started: float | None = None,
        status: str = "",
        execution_deadline: float | None = None,
        ends_task: bool = False,
        do_xcom_push: bool = True,
        server: str | None = None,
        **_: Any,
    ) -> None:
        # Arguments that a later version of this package adds must not break a triggerer of this one.
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own
        self.job_id = job_id
        self.datatile_conn_id = datatile_conn_id
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.started = started
        self.status = status
        self.execution_deadline = execution_deadline
        self.ends_task = ends_task
        self.do_xcom_push = do_xcom_push
        self.server = server

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "version": FORMAT,
                "job_id": self.job_id,
                "datatile_conn_id": self.datatile_conn_id,
                "poll_interval": self.poll_interval,
                "timeout": self.timeout,
                "started": self.started,
                "status": self.status,
                "execution_deadline": self.execution_deadline,
                "ends_task": self.ends_task,
                "do_xcom_push": self.do_xcom_push,
                "server": self.server,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        started = self._started()
        if self.started is None:
            self.log.info("Waiting for job %s, without a worker", self.job_id)
            await self._push_links()
        left = self.timeout if self.execution_deadline is None else self.execution_deadline - started
        try:
            job = await DatatileHook(self.datatile_conn_id).wait_for_job_async(
                self.job_id,
                poll_interval=self.poll_interval,
                timeout=max(min(self.timeout, left), 0.001),
                started=started,
                status=self.status,
                server=self.server,
            )
        except errors.JobTimeoutError as e:
            late = errors.ExecutionTimeoutError(e.what, subject=e.subject, hint=e.hint, log_url=e.log_url)
            event = ended(late if left < self.timeout else e)
        except errors.DatatileError as e:
            event = ended(e)
        else:
            if await self._returned(job):
                yield TaskSuccessEvent()
                return
            event = {"version": FORMAT, "job": job.as_dict()}
        # Without an id it is in `dag.test()`, where no process stays behind.
        if self.started is not None and self.trigger_id is not None:
            await asyncio.sleep(resume_pause(time.time() - self.started))
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's own

    async def _push_links(self) -> None:
        """Store the addresses of the task's links, as there is no worker that does."""
        try:
            server = (await DatatileHook(self.datatile_conn_id).get_conn_async()).server
            for key, url in addresses(server, self.job_id).items():
                await push_xcom(self.task_instance, key, url)
        except Exception as e:  # any XCom backend's; an error of the connection is reported by the wait
            self.log.warning("The task's links could not be stored: %s", e)

    async def _returned(self, job: Job) -> bool:
        """Push the task's return value, if the triggerer may end the task; otherwise a worker does both."""
        # `dag.test()` has no triggerer that could end it.
        if not self.ends_task or self.task_instance is None or self.trigger_id is None:
            return False
        if self.do_xcom_push:
            try:
                # Airflow 3.3.2 stores an event's own `xcoms=` as JSON text.
                await push_xcom(self.task_instance, "return_value", job.as_dict())
            except Exception as e:  # any XCom backend's
                self.log.warning("The triggerer could not store the return value, so a worker ends the task: %s", e)
                return False
        await self._push_summary(job)
        self.log.info("Job %s succeeded", job.id)
        return True

    async def _push_summary(self, job: Job) -> None:
        from datatile_provider.summary import KEY, Summary

        try:
            server = (await DatatileHook(self.datatile_conn_id).get_conn_async()).server
            summary = Summary("wait").at(server, job.id).ended(job, time.time(), started=self._started())
            await push_xcom(self.task_instance, KEY, summary.as_dict())
        except Exception as e:  # any XCom backend's; also an error of the connection
            self.log.warning("The summary of the task could not be stored as an XCom: %s", e)

    def _started(self) -> float:
        if self.started is not None:
            return self.started
        end = getattr(self, "timeout_after", None)
        return (end - TRIGGER_TIMEOUT_MARGIN).timestamp() - self.timeout if end else time.time()

    async def on_kill(self) -> None:
        """Log that the job continues when a person ends the task: DATATILE documents no way to cancel it."""
        self.log.warning("Job %s continues in DATATILE; see its processing log", self.job_id)


class DatatileRetryTrigger(BaseTrigger):
    """
    Waits for the backoff of an upload, without a worker slot.

    :param until: when the next attempt is, in seconds since the epoch.
    :param delay: seconds until then, in case the system clock is set back; counted from now when not given.
    """

    def __init__(self, until: float, delay: float | None = None, **_: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own
        self.until = until
        self.delay = max(0.0, until - time.time()) if delay is None else delay

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = {"version": FORMAT, "until": self.until, "delay": self.delay}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(0.0, min(self.until - time.time(), self.delay)))
        yield TriggerEvent({"version": FORMAT, "retry": True})  # type: ignore[no-untyped-call]  # Airflow's own


def defer_wait(
    task: DatatileUploadOperator | DatatileJobSensor,
    context: Context,
    *,
    job_id: str,
    poll_interval: float,
    status: str = "",
    ends_task: bool = False,
    server: str | None = None,
    kwargs: dict[str, Any] | None = None,
) -> NoReturn:
    """
    Defer a task until a job has finished; Airflow then calls its ``execute_complete``.

    :param status: the status that the task has seen already.
    :param ends_task: whether the triggerer may end the task when the job has succeeded.
    :param server: the address of the server that the job is on.
    :param kwargs: the arguments of ``execute_complete`` besides the event.
    """
    begun, limit = context["ti"].start_date, task.execution_timeout
    task.defer(
        trigger=DatatileJobTrigger(
            job_id=job_id,
            datatile_conn_id=task.datatile_conn_id,
            poll_interval=poll_interval,
            timeout=task.timeout,
            started=time.time(),
            status=status,
            execution_deadline=(begun + limit).timestamp() if begun and limit else None,
            ends_task=ends_task,
            do_xcom_push=task.do_xcom_push,
            server=server,
        ),
        method_name="execute_complete",
        kwargs=kwargs,
        timeout=timedelta(seconds=task.timeout) + TRIGGER_TIMEOUT_MARGIN,
    )


def resume_arguments(
    next_method: str, next_kwargs: dict[str, Any] | None, job_id: str, timeout: float
) -> tuple[str, dict[str, Any] | None]:
    """
    Return what to resume a deferred task with, so that a trigger timeout means the same on every version.

    :param next_method: the method that Airflow resumes the task with; ``next_kwargs`` are its arguments.
    :param timeout: the wait's, in seconds.
    """
    if not trigger_timed_out(next_method, next_kwargs):
        return next_method, next_kwargs
    error = errors.JobTimeoutError(
        f"The job was not finished within {timeout:,.10g} s. No triggerer reported its status",
        subject=f"job {job_id}",
        hint="Make sure that a triggerer runs. The job may have succeeded: look in DATATILE's processing log.",
    )
    return "execute_complete", {"event": ended(error)}


def ended(error: errors.DatatileError) -> dict[str, Any]:
    """Return the event for a wait that ended without success."""
    parts = {name: getattr(error, name) for name in _PARTS}
    return {"version": FORMAT, "error": error.code, **parts, "status": error.status}


def error_of(event: Mapping[str, Any]) -> errors.DatatileError:
    """Return the error of an event that :func:`ended` has written."""
    kind = errors.BY_CODE.get(str(event.get("error")), errors.DatatileError)
    parts: dict[str, Any] = {name: str(event.get(name) or "") for name in _PARTS}
    status = event.get("status")
    return kind(**parts, status=status if isinstance(status, int) else None)


def job_of(event: Any, job_id: str | None = None) -> Job:
    """
    Return the job of an event that reports its success. Any other event raises an error.

    :param event: what the task was resumed with.
    :param job_id: the job that it must be about, when that is known.
    :raises JobError: the job did not succeed.
    :raises DatatileError: the wait ended with an error, or the event can't be read.
    """
    found = event if isinstance(event, dict) else {}
    if "error" in found:
        raise error_of(found)
    job = found["job"] if isinstance(found.get("job"), dict) else {}
    found_id, details = job.get("id"), job.get("details")
    succeeded = job.get("state") == JobState.SUCCEEDED.value
    if not succeeded or not found_id or not isinstance(found_id, str) or job_id not in (None, found_id):
        raise errors.DatatileError(
            f"The triggerer's event can't be read: {str(event)[:200]!r}",
            subject=f"job {job_id}" if job_id else "",
            hint="The job may have succeeded: look in DATATILE's processing log.",
        )
    return Job(
        found_id,
        JobState.SUCCEEDED,
        str(job.get("status") or ""),
        str(job.get("message") or ""),
        details if isinstance(details, dict) else {},
    )
