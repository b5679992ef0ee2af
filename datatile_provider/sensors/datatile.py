"""DatatileJobSensor: waits until a DATATILE job has finished."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)
from airflow.triggers.base import StartTriggerArgs

from datatile_provider.api import errors
from datatile_provider.api.models import Job, OnUnknown
from datatile_provider.api.polling import Wait
from datatile_provider.api.states import JobState
from datatile_provider.api.validation import seconds
from datatile_provider.failure_policy import Accepted, Failure, decide, failure_of
from datatile_provider.hooks.datatile import JOB_TIMEOUT, POLL_INTERVAL, DatatileHook
from datatile_provider.links.datatile import DatatileJobLink, DatatileLogLink, push_links
from datatile_provider.sensors.start_from_trigger import job_id_for_triggerer, may_end_in_triggerer, upload_task_id
from datatile_provider.triggers.datatile import (
    TRIGGER_TIMEOUT_MARGIN,
    DatatileJobTrigger,
    defer_wait,
    job_of,
    resume_arguments,
)
from datatile_provider.version_compat import first_poke_time

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg
    from airflow.providers.openlineage.extractors import OperatorLineage

    from datatile_provider.state_store import StateStore
    from datatile_provider.summary import Summary

#: The key in the state store and the version of its value; see docs/formats.md.
_SEEN, _SEEN_VERSION = "datatile_wait", 1
_SOON = 0.05


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a poke of a rescheduled sensor stores for the next one; see :class:`Wait`."""

    status: str = ""
    rejected_since: float | None = None
    server: str | None = None

    @classmethod
    def of(cls, wait: Wait) -> _Seen:
        return cls(wait.status, wait.rejected_since, wait.server.address)


class DatatileJobSensor(BaseSensorOperator):
    """
    Waits until a DATATILE job has succeeded, and returns it as a dict (``id``, ``state``, ``status``, ``message``,
    ``details``).

    A job that failed or was cancelled fails the task without retries; with ``soft_fail`` the task is skipped.

    :param job_id: the job's id, as an upload returned it. (templated)
    :param datatile_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer, without a worker slot.
    :param start_from_trigger: start in the triggerer, without any worker (Airflow 3.3 and later). Where that is not
        possible, the task starts in a worker and its log says why.
    :param poke_interval: seconds (or a ``timedelta``) between polls. When deferred, the first polls come sooner.
    :param timeout: seconds (or a ``timedelta``) after which the sensor fails with ``AirflowSensorTimeout``.
    """

    template_fields: Sequence[str] = ("job_id", "datatile_conn_id")
    ui_color = "#dfeef7"
    operator_extra_links = (DatatileLogLink(), DatatileJobLink())

    def __init__(
        self,
        *,
        job_id: str | XComArg,
        datatile_conn_id: str = DatatileHook.default_conn_name,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        start_from_trigger: bool = False,
        poke_interval: float | timedelta = POLL_INTERVAL,
        timeout: float | timedelta = JOB_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            poke_interval=seconds("poke_interval", poke_interval), timeout=seconds("timeout", timeout), **kwargs
        )
        self.job_id = job_id
        self.datatile_conn_id = datatile_conn_id
        self.deferrable = deferrable
        self._upload_task_id = upload_task_id(job_id)
        self._needs_worker = "mapped tasks and dag.test() need one" if start_from_trigger else ""
        if start_from_trigger:
            template, reason = job_id_for_triggerer(self)
            self._needs_worker = reason or self._needs_worker
            self.start_from_trigger = not reason
        if self.start_from_trigger:
            self.start_trigger_args = StartTriggerArgs(
                trigger_cls=f"{DatatileJobTrigger.__module__}.{DatatileJobTrigger.__qualname__}",
                trigger_kwargs={
                    "job_id": template,
                    "datatile_conn_id": datatile_conn_id,
                    "poll_interval": self.poke_interval,
                    "timeout": self.timeout,
                    "ends_task": may_end_in_triggerer(self, DatatileJobSensor),
                    "do_xcom_push": self.do_xcom_push,
                },
                next_method="execute_complete",
                timeout=timedelta(seconds=self.timeout) + TRIGGER_TIMEOUT_MARGIN,
            )
        self._wait: Wait | None = None
        self._job: Job | None = None
        self._begun: float | None = None

    def execute(self, context: Context) -> Any:
        """
        Wait for the job, in the worker or deferred.

        :raises AirflowFailException: the job failed or was cancelled, or the server will not report it.
        :raises AirflowSensorTimeout: it was not finished within ``timeout``.
        """
        self._begun = time.time()
        if self._needs_worker:
            self.log.info("Started in a worker despite start_from_trigger: %s", self._needs_worker)
        if not self.deferrable:
            from datatile_provider import metrics

            with metrics.in_flight():
                return super().execute(context)
        # A finished job, or one that can't be polled, needs no triggerer.
        try:
            if seen := self.poke(context):
                return seen.xcom_value
        except Exception as e:  # classified as in Airflow's own loop around poke
            final = isinstance(e, (AirflowFailException, AirflowSensorTimeout))
            if self.never_fail or (final and self.soft_fail):
                raise AirflowSkipException(str(e)) from None
            raise
        defer_wait(
            self,
            context,
            job_id=str(self.job_id),
            poll_interval=self.poke_interval,
            status=self._wait.status if self._wait else "",
            ends_task=may_end_in_triggerer(self, DatatileJobSensor),
            server=self._wait.server.address if self._wait else None,
        )

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume as Airflow does, with the same behaviour of timeouts and ``never_fail`` on every version."""
        resumed = resume_arguments(next_method, next_kwargs, str(self.job_id), self.timeout)
        try:
            return super().resume_execution(*resumed, context)
        except AirflowException as e:
            # Airflow before 3.1 only checks soft_fail here.
            if self.never_fail:
                raise AirflowSkipException(str(e)) from None
            raise

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll the job once."""
        from datatile_provider import metrics

        job_id = "" if self.job_id is None else str(self.job_id)
        try:
            hook = DatatileHook(self.datatile_conn_id)
            if self._wait is None:
                self._wait = self._begin(hook, job_id, context)
            if self._wait is None:
                return PokeReturnValue(False)
            wait, before = self._wait, _Seen.of(self._wait)
            job = self._poll(hook, wait)
            # Otherwise Airflow's own timeout check would come first, and its error has no status.
            if not job and time.time() + _SOON >= wait.deadline:
                time.sleep(max(0.0, wait.deadline - time.time()))
                job = self._poll(hook, wait)
            if self.reschedule and (seen := _Seen.of(wait)) != before:
                self._remember(context, seen)
        except errors.DatatileError as e:
            if self._wait:
                metrics.job_ended(self._wait, e)
            raise self._failed(context, e) from None
        if not job:
            return PokeReturnValue(False)
        metrics.job_ended(self._wait)
        return PokeReturnValue(True, self._succeeded(context, job))

    @staticmethod
    def _poll(hook: DatatileHook, wait: Wait) -> Job | None:
        with wait.poll(time.time) as poll:
            poll.result = hook.get_job(wait.job_id, server=wait.server.address)
        return poll.succeeded

    def _begin(self, hook: DatatileHook, job_id: str, context: Context) -> Wait | None:
        """Return the wait, continued if the sensor was rescheduled; None when the connection must be read later."""
        earlier = first_poke_time(context, self.retries or 0) if self.reschedule else None
        started = earlier.timestamp() if earlier else self._begun or time.time()
        seen = self._recall(context, started) if earlier else _Seen()
        try:
            # A rescheduled poke does not retry: it gives its worker slot back.
            deadline = time.time() if earlier else started + self.timeout
            server = hook.first_conn(seen.server, job_id=job_id, deadline=deadline).server
        except (errors.TransientError, errors.JobTimeoutError) as e:
            if not earlier or time.time() >= started + self.timeout:
                raise
            self.log.warning("%s", e.report("polling goes on"))
            return None
        push_links(self, context, server, job_id)
        wait = hook.new_wait(server, job_id, self.poke_interval, self.timeout, started, seen.status)
        wait.rejected_since = seen.rejected_since
        if not earlier:
            self.log.info("Waiting for job %s", job_id)
            self.log.info("Processing log: %s", server.page_url(job_id))
        return wait

    # Each poke of a rescheduled sensor is a new process. Only Airflow 3.3 and later can store something for the next
    # one. A failing store must not end the wait.

    @staticmethod
    def _store(context: Context) -> StateStore:
        from datatile_provider.state_store import StateStore

        return StateStore(context, _SEEN)

    def _recall(self, context: Context, started: float) -> _Seen:
        store = self._store(context)
        if not store.lasts:
            # How long a permanent error has lasted is unknown: assume since the start.
            return _Seen(rejected_since=started)
        with contextlib.suppress(Exception):
            found = store.get()
            since, server = found["rejected_since"], found["server"]
            return _Seen(
                str(found["status"]), None if since is None else float(since), None if server is None else str(server)
            )
        return _Seen()

    def _remember(self, context: Context, seen: _Seen) -> None:
        with contextlib.suppress(Exception):
            self._store(context).set({"version": _SEEN_VERSION, **asdict(seen)})

    def _failed(self, context: Context, error: errors.DatatileError) -> BaseException:
        decided = self._decided(error)
        failed = self._summary().failed(error, self._job, time.time(), self._started(context))
        failed.push(context["ti"], self.log)
        return decided

    def _decided(self, error: errors.DatatileError) -> BaseException:
        """Return what Airflow gets for an error, from the table of ``failure_policy``."""
        self._job = Job(str(self.job_id), JobState.UNKNOWN).ended_by(error)
        failure = failure_of(error)
        rule = decide(failure, Accepted.WAITING, store=False, on_unknown=OnUnknown.FAIL)
        words = f"the upload task {self._upload_task_id!r}" if self._upload_task_id else "the upload's task"
        subject = "" if failure is Failure.INVALID else f"job {self.job_id}"
        if subject and self._upload_task_id:
            subject += f", from {words}"
        text = error.report(subject=subject, steps=rule.steps.format(upload=words))
        if self.soft_fail or self.never_fail:
            # Airflow would only log that the task is skipped, not why.
            self.log.error("%s", text)
        return rule.error(text)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """
        Return the job that the triggerer saw succeed; see :meth:`execute` for the other errors.

        :raises AirflowException: the event is missing or can't be read.
        """
        try:
            job = job_of(event, str(self.job_id))
        except errors.DatatileError as e:
            raise self._failed(context, e) from None
        self.log.info("Job %s succeeded%s", job.id, f": {job.rows:,} rows" if job.rows is not None else "")
        return self._succeeded(context, job)

    def _succeeded(self, context: Context, job: Job) -> dict[str, Any]:
        self._job = job
        ended = self._summary().ended(job, time.time(), started=self._started(context))
        ended.push(context["ti"], self.log)
        if self.outlets:
            from datatile_provider.assets.datatile import describe_outlets

            describe_outlets(self.outlets, context, job)
        return job.as_dict()

    def _summary(self) -> Summary:
        from datatile_provider.summary import Summary

        summary = Summary("wait", job="" if self.job_id is None else str(self.job_id))
        if self._wait:
            return summary.at(self._wait.server, summary.job)
        if self._begun is None:
            # Resumed after a deferral. An error of the connection must not change the wait's end.
            with contextlib.suppress(Exception):
                return summary.at(DatatileHook(self.datatile_conn_id).get_conn().server, summary.job)
        return summary

    def _started(self, context: Context) -> float | None:
        begun = getattr(context["ti"], "start_date", None)
        return self._wait.started if self._wait else begun and begun.timestamp()

    def on_kill(self) -> None:
        """Log that the job continues: DATATILE documents no way to cancel it."""
        if self._wait:
            self.log.warning("Job %s continues in DATATILE; see its processing log", self._wait.job_id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the job's outputs, if the server reports them, for OpenLineage."""
        from datatile_provider.lineage import lineage

        return lineage(self.datatile_conn_id, self._job or Job(str(self.job_id), JobState.UNKNOWN))
