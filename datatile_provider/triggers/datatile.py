"""DatatileJobTrigger: waits for a job in the triggerer, and the event that tells the task how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from datatile_provider.api import contract, errors
from datatile_provider.api.contract import Job

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import AirflowException

#: The triggerer keeps the deadline itself, and says what it saw last. This much later Airflow ends a wait of
#: which no triggerer has told anything.
SAFETY_NET = timedelta(minutes=10)

_ENDS = {
    kind.__name__: kind
    for kind in (
        errors.JobFailed,
        errors.JobCancelled,
        errors.JobTimeout,
        errors.Refused,
        errors.InvalidInput,
    )
}


class DatatileJobTrigger(BaseTrigger):
    """
    Waits for a job, over the triggerer's shared session to that server.

    :param job_id: the job.
    :param datatile_conn_id: the connection; it is read in the triggerer, so no token is stored with the trigger.
    :param poll_interval: seconds between looks, after a few quick first ones.
    :param timeout: seconds from ``started`` after which the wait is given up.
    :param started: when the wait began, in seconds since the epoch, so that it lasts no longer over restarts.
    :param status: the status that the task has seen, and logged, already.
    """

    def __init__(
        self,
        job_id: str,
        datatile_conn_id: str,
        poll_interval: float,
        timeout: float,
        started: float,
        status: str = "",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own
        self.job_id = job_id
        self.datatile_conn_id = datatile_conn_id
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.started = started
        self.status = status

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
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from airflow.providers.common.compat.sdk import AirflowNotFoundException

        from datatile_provider.hooks.datatile import DatatileHook

        try:
            job = await DatatileHook(self.datatile_conn_id).wait_for_job_async(
                self.job_id,
                poll_interval=self.poll_interval,
                timeout=self.timeout,
                started=self.started,
                status=self.status,
            )
        except errors.DatatileError as e:
            event = ended(e)
        except AirflowNotFoundException as e:
            event = ended(errors.Refused(str(e)))
        else:
            event = {"job": job.as_dict()}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's own


def ended(error: errors.DatatileError) -> dict[str, Any]:
    """Return the event for a wait that ended without success."""
    kind = next((name for name, kind in _ENDS.items() if isinstance(error, kind)), "")
    return {"error": kind, "what": error.what, "said": error.said, "advice": error.advice}


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
        what, said, advice = (str(found.get(name) or "") for name in ("what", "said", "advice"))
        raise kind(what, said=said, advice=advice)
    told = found["job"] if isinstance(found.get("job"), dict) else {}
    succeeded = told.get("state") == contract.JobState.SUCCEEDED.value
    if not succeeded or not told.get("id") or (job_id is not None and told["id"] != job_id):
        about = f" for job {job_id}" if job_id else ""
        raise errors.DatatileError(
            f"The triggerer told nothing that can be read{about}: {event!r}",
            advice="The job may have ended well: look in DATATILE's processing log.",
        )
    return Job(
        told["id"],
        contract.JobState.SUCCEEDED,
        str(told.get("status") or ""),
        str(told.get("message") or ""),
        told.get("details") or {},
    )


def airflow_error(error: errors.DatatileError, *, may_retry: bool) -> AirflowException:
    """
    Return what Airflow is to be told about an error.

    :param may_retry: whether Airflow's own retries may try again after an error that passes.
    """
    from airflow.providers.common.compat.sdk import (
        AirflowException,
        AirflowFailException,
        AirflowSensorTimeout,
    )

    if isinstance(error, errors.JobTimeout):
        return AirflowSensorTimeout(str(error))
    final = isinstance(error, (errors.Refused, errors.InvalidInput, errors.JobError, errors.OutcomeUnknown))
    return AirflowFailException(str(error)) if final or not may_retry else AirflowException(str(error))
