"""DatatileJobTrigger: waits for a job in the triggerer, and the event that tells the task how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from datatile_provider.api import errors
from datatile_provider.api.contract import Job
from datatile_provider.api.states import JobState

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

#: The triggerer keeps the deadline itself, and says what it saw last. This much later Airflow ends a wait of
#: which no triggerer has told anything.
SAFETY_NET = timedelta(minutes=10)


class ExecutionTimeoutError(errors.JobTimeoutError):
    """The task's ``execution_timeout`` passed before the job was finished, or the wait's own timeout was over."""


_ENDS = {
    kind.__name__: kind
    for kind in (
        ExecutionTimeoutError,
        errors.JobFailedError,
        errors.JobCancelledError,
        errors.JobTimeoutError,
        errors.PermanentError,
        errors.InvalidInputError,
    )
}


class DatatileJobTrigger(BaseTrigger):
    """
    Waits for a job, over the triggerer's shared session to that server.

    :param job_id: the job.
    :param datatile_conn_id: the connection; it is read in the triggerer, so no token is stored with the trigger.
    :param poll_interval: seconds between looks, after a few quick first ones.
    :param timeout: seconds from ``started`` after which the wait is given up.
    :param started: when the wait began, in seconds since the epoch, so that it lasts no longer over restarts; None when
        the task starts here, without a worker: Airflow then keeps that moment.
    :param status: the status that the task has seen, and logged, already.
    :param execution_deadline: when the task's ``execution_timeout`` passes, in seconds since the epoch: Airflow 3
        does not look at it while a task is deferred.
    :param ends_task: whether to end the task here when the job has succeeded, without another worker start.
    :param do_xcom_push: whether a task that ends here returns the job.
    :param server: the address of the server that the job is at, if it is known: the connection may lead to another one
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
        # What a later version of this package adds must not break a triggerer of this one.
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
        from datatile_provider.hooks.datatile import DatatileHook

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
            what = f"The task's execution_timeout has passed. {e.what}"
            event = ended(ExecutionTimeoutError(what, hint=e.hint) if left < self.timeout else e)
        except errors.DatatileError as e:
            event = ended(e)
        else:
            if await self._returned(job):
                yield TaskSuccessEvent()
                return
            event = {"job": job.as_dict()}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's own

    async def _push(self, key: str, value: Any) -> None:
        from airflow.sdk.execution_time.xcom import XCom

        ti: Any = self.task_instance
        where = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
        await XCom.aset(key, value, **where)

    async def _push_links(self) -> None:
        """Let the task's links lead somewhere, as no worker does."""
        from datatile_provider.hooks.datatile import DatatileHook
        from datatile_provider.links.datatile import addresses

        try:
            server = (await DatatileHook(self.datatile_conn_id).get_conn_async()).server
            for key, url in addresses(server, self.job_id).items():
                await self._push(key, url)
        except Exception as e:  # as of any XCom backend; what is wrong with the connection, the wait itself tells
            self.log.warning("The task's links could not be stored: %s", e)

    async def _returned(self, job: Job) -> bool:
        """Push what the task returns, if it may end here; otherwise a worker does both."""
        # In `dag.test()` there is no triggerer that could end it.
        if not self.ends_task or self.task_instance is None or getattr(self, "trigger_id", None) is None:
            return False
        if self.do_xcom_push:
            try:
                # Airflow 3.3.2 turns what an event itself brings (`xcoms=`) into JSON text.
                await self._push("return_value", job.as_dict())
            except Exception as e:  # as of any XCom backend
                self.log.warning("The triggerer could not store what the task returns, so a worker does: %s", e)
                return False
        self.log.info("Job %s has succeeded", job.id)
        return True

    def _started(self) -> float:
        if self.started is not None:
            return self.started
        end = getattr(self, "timeout_after", None)
        return (end - SAFETY_NET).timestamp() - self.timeout if end else time.time()

    async def on_kill(self) -> None:
        """Say that the job goes on, when a person ends the task: DATATILE documents no way to cancel it."""
        self.log.warning("Job %s goes on in DATATILE; see its processing log", self.job_id)


class DatatileRetryTrigger(BaseTrigger):
    """
    Gives a worker's slot back until it is worth trying an upload again.

    :param until: when that is, in seconds since the epoch.
    :param delay: the seconds until then, in case the clock is set back meanwhile; counted from now when not given.
    :param _: what a newer version may have stored.
    """

    def __init__(self, until: float, delay: float | None = None, **_: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own
        self.until = until
        self.delay = max(0.0, until - time.time()) if delay is None else delay

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", {"until": self.until, "delay": self.delay}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(max(0.0, min(self.until - time.time(), self.delay)))
        yield TriggerEvent({"turn": True})  # type: ignore[no-untyped-call]  # Airflow's own


def defer_wait(
    task: BaseOperator,
    context: Context,
    *,
    datatile_conn_id: str,
    job_id: str,
    poll_interval: float,
    timeout: float,
    status: str = "",
    ends_task: bool = False,
    server: str | None = None,
    kwargs: dict[str, Any] | None = None,
) -> NoReturn:
    """
    Defer a task until a job has finished; it goes on in its ``execute_complete``.

    :param status: the status that the task has seen already.
    :param ends_task: whether the triggerer may end the task when the job has succeeded.
    :param server: the address of the server that the job is at.
    :param kwargs: what ``execute_complete`` gets besides the event.
    """
    begun, limit = context["ti"].start_date, task.execution_timeout
    task.defer(
        trigger=DatatileJobTrigger(
            job_id=job_id,
            datatile_conn_id=datatile_conn_id,
            poll_interval=poll_interval,
            timeout=timeout,
            started=time.time(),
            status=status,
            execution_deadline=(begun + limit).timestamp() if begun and limit else None,
            ends_task=ends_task,
            do_xcom_push=task.do_xcom_push,
            server=server,
        ),
        method_name="execute_complete",
        kwargs=kwargs,
        timeout=timedelta(seconds=timeout) + SAFETY_NET,
    )


def ended(error: errors.DatatileError) -> dict[str, Any]:
    """Return the event for a wait that ended without success."""
    kind = next((name for name, kind in _ENDS.items() if isinstance(error, kind)), "")
    return {"error": kind, "what": error.what, "said": error.server_message, "advice": error.hint}


def job_of(event: Any, job_id: str | None = None) -> Job:
    """
    Return the succeeded job that an event tells of. Anything but a clear success raises.

    :param event: what the task was resumed with.
    :param job_id: the job that it must be about, when that is known.
    :raises JobError: the job did not succeed.
    :raises DatatileError: the wait was refused, or the event tells nothing.
    """
    found = event if isinstance(event, dict) else {}
    if "error" in found:
        kind = _ENDS.get(str(found["error"]), errors.DatatileError)
        what, server_message, hint = (str(found.get(name) or "") for name in ("what", "said", "advice"))
        raise kind(what, server_message=server_message, hint=hint)
    reported = found["job"] if isinstance(found.get("job"), dict) else {}
    reported_id, details = reported.get("id"), reported.get("details")
    succeeded = reported.get("state") == JobState.SUCCEEDED.value
    if (
        not succeeded
        or not reported_id
        or not isinstance(reported_id, str)
        or (job_id is not None and reported_id != job_id)
    ):
        about = f" for job {job_id}" if job_id else ""
        raise errors.DatatileError(
            f"The triggerer told nothing that can be read{about}: {event!r}",
            hint="The job may have ended well: look in DATATILE's processing log.",
        )
    return Job(
        reported_id,
        JobState.SUCCEEDED,
        str(reported.get("status") or ""),
        str(reported.get("message") or ""),
        details if isinstance(details, dict) else {},
    )


def airflow_error(error: errors.DatatileError, *, may_retry: bool) -> BaseException:
    """
    Return what Airflow is to be told about an error.

    :param may_retry: whether Airflow's own retries may try again after an error that passes.
    """
    from airflow.providers.common.compat.sdk import (
        AirflowException,
        AirflowFailException,
        AirflowSensorTimeout,
        AirflowTaskTimeout,
    )

    if isinstance(error, ExecutionTimeoutError):
        return AirflowTaskTimeout(str(error))
    if isinstance(error, errors.JobTimeoutError):
        return AirflowSensorTimeout(str(error))
    final = isinstance(
        error, (errors.PermanentError, errors.InvalidInputError, errors.JobError, errors.OutcomeUnknownError)
    )
    return AirflowFailException(str(error)) if final or not may_retry else AirflowException(str(error))
