"""DatatileUploadOperator: uploads a file to create, reload or append a DATATILE database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    BaseOperator,
    conf,
)

from datatile_provider.api import errors
from datatile_provider.api.contract import Action, Job, JobState
from datatile_provider.api.waiting import seconds
from datatile_provider.hooks.datatile import ACCEPT_TIMEOUT, JOB_TIMEOUT, POLL_INTERVAL, DatatileHook, Tries
from datatile_provider.links.datatile import DatatileJobLink, DatatileLogLink, push_links
from datatile_provider.operators.memory import Memory, Phase, Record, Step, first_step
from datatile_provider.triggers.datatile import SAFETY_NET, DatatileTurnTrigger, airflow_error, defer_wait, job_of
from datatile_provider.triggers.safety_net import resumed_with

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from datatile_provider.hooks.dataset import DatasetLike

#: Seconds up to which waiting for one's turn in the worker costs less than a trigger and another worker start.
SHORT_WAIT = 10.0


class DatatileUploadOperator(BaseOperator):
    """
    Uploads a file to create, reload or append a DATATILE database, and returns the id of the job that processes it.

    A create or append is never sent again when it is unknown whether the server holds it: the task fails, without
    Airflow's retries, and says where to look.

    :param action: ``create`` (makes a new database in a folder), ``reload`` (replaces a database's data) or
        ``append`` (adds to a database). (templated)
    :param target_hash: the hash of the folder (create) or of the database (reload, append). (templated)
    :param dataset: a local path, a ``file://`` URI, or an object storage path or URI, which is streamed. (templated)
    :param callback_url: where DATATILE pushes the job's transitions. (templated)
    :param datatile_conn_id: the connection. (templated)
    :param wait_for_completion: whether to wait until the job has succeeded.
    :param deferrable: whether to wait in the triggerer, without a worker slot: for the job, and for one's turn when
        the destination is busy or uploads come too fast.
    :param poll_interval: seconds (or a ``timedelta``) between looks at the job, after a few quick first ones.
    :param timeout: seconds (or a ``timedelta``) to wait for the job, from its acceptance.
    :param accept_timeout: seconds (or a ``timedelta``) to go on trying until the server accepts the file.
    :param resend_unknown: send a create or append again when it is unknown whether the server holds it. The data may
        then be there twice.
    """

    template_fields: Sequence[str] = ("action", "target_hash", "dataset", "callback_url", "datatile_conn_id")
    ui_color = "#cfe3f1"
    operator_extra_links = (DatatileLogLink(), DatatileJobLink())

    def __init__(
        self,
        *,
        action: str,
        target_hash: str,
        dataset: DatasetLike,
        callback_url: str | None = None,
        datatile_conn_id: str = DatatileHook.default_conn_name,
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta = POLL_INTERVAL,
        timeout: float | timedelta = JOB_TIMEOUT,
        accept_timeout: float | timedelta = ACCEPT_TIMEOUT,
        resend_unknown: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.action = action
        self.target_hash = target_hash
        self.dataset = dataset
        self.callback_url = callback_url
        self.datatile_conn_id = datatile_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = seconds("poll_interval", poll_interval)
        self.timeout = seconds("timeout", timeout)
        self.accept_timeout = seconds("accept_timeout", accept_timeout)
        self.resend_unknown = resend_unknown
        self._job: Job | None = None

    def execute(self, context: Context) -> str:
        """
        Upload the file, or take up what an earlier try left behind, and, if asked to, wait for its job.

        :raises AirflowFailException: bad input, a refusal, an unknown outcome, or a job that did not succeed.
        :raises AirflowException: not accepted within ``accept_timeout``; Airflow may retry.
        :raises AirflowSensorTimeout: accepted, and the job was not finished within ``timeout``.
        """
        memory = self._memory(context)
        try:
            record = memory.read()
        except ValueError as e:
            raise AirflowFailException(f"The task's state store was written by somebody else: {e}") from None
        step = first_step(record, memory.upload, memory.max_tries, may_send_again=self._may_send_again)
        if record is None or step is Step.UPLOAD:
            if record and record.phase is Phase.ACCEPTED:
                self.log.warning(
                    "An earlier try was accepted as job %s: %s. This task is about another upload now, so uploading",
                    record.job_id,
                    record.upload,
                )
            return self._upload(context, memory, time.time() + self.accept_timeout)
        if step is Step.RETURN:
            self.log.info("An earlier try succeeded, and Airflow did not hear of it: %s", record.text)
            return self._succeeded(context, Job(record.job_id))
        if step is Step.FOLLOW:
            return self._follow(context, memory, record)
        text = record.text
        if step is Step.UNKNOWN:
            text = (
                f"It is unknown whether the server holds the {text}: an earlier try ended before the answer was known. "
                "Look there before it is sent again; clearing this task sends it."
            )
            self._remember(memory, Phase.TOLD, text)
        raise AirflowFailException(text)

    def resume_upload(
        self,
        context: Context,
        deadline: float | None = None,
        failures: int = 0,
        version: str | None = None,
        event: Any = None,
    ) -> str:
        """Go on trying, after having waited for one's turn in the triggerer."""
        # `dag.test()` passes on nothing but the event.
        deadline = deadline or time.time() + self.accept_timeout
        return self._upload(context, self._memory(context), deadline, failures, version)

    def execute_complete(self, context: Context, text: str = "", event: Any = None) -> str:
        """
        Return the id of the job that the triggerer saw succeed.

        :raises AirflowFailException: the job did not succeed, or nobody can tell; the file was accepted, so Airflow
            must not send it again.
        :raises AirflowSensorTimeout: the job was not finished within ``timeout``.
        """
        memory, job_id = self._memory(context), self._pushed_job_id(context)
        self._job = Job(job_id) if job_id else None
        try:
            job = job_of(event, job_id)
        except errors.DatatileError as e:
            raise self._ended(memory, e) from None
        self.log.info("Job %s has succeeded", job.id)
        return self._done(context, memory, job, text)

    def pre_execute(self, context: Context) -> None:
        """Let an accepted upload be resumed on Airflow 2, which else ends it once its ``execution_timeout`` is over."""
        super().pre_execute(context)
        # Only Airflow 2 shows a task that it is being resumed. It would try again, and so send the file again.
        if getattr(context["ti"], "next_method", None) and self._pushed_job_id(context):
            self.execution_timeout = None

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume, and let no broken trigger make an older Airflow upload an accepted file once more."""
        job_id = self._pushed_job_id(context) if next_method == "__fail__" else None
        if not job_id:
            return super().resume_execution(next_method, next_kwargs, context)
        resumed = resumed_with(next_method, next_kwargs, job_id, self.timeout)
        try:
            return super().resume_execution(*resumed, context)
        except AirflowSensorTimeout:
            raise
        except AirflowException as e:
            if self._memory(context).lasts:
                raise
            raise AirflowFailException(_broken_off(job_id, e)) from None

    def on_kill(self) -> None:
        """Say that the job goes on: DATATILE documents no way to cancel it."""
        if self._job:
            self.log.warning("Job %s goes on in DATATILE; see its processing log", self._job.id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what was read and written. OpenLineage calls it, where it is installed."""
        from datatile_provider.lineage import lineage

        return lineage(
            self.datatile_conn_id,
            self._job,
            dataset=self.dataset,
            action=self.action,
            target_hash=self.target_hash,
        )

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what would have been read and written."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _memory(self, context: Context) -> Memory:
        return Memory(context, f"{self.action} of {self.dataset} to {self.target_hash}")

    def _push_job_id(self, context: Context, job: Job) -> None:
        try:
            context["ti"].xcom_push(key="job_id", value=job.id)
        except Exception as e:  # as of any XCom backend: an Airflow without memory would send the file again
            self.log.error("Job %s could not be stored as the XCom job_id: %s", job.id, e)

    def _pushed_job_id(self, context: Context) -> str | None:
        ti = context["ti"]
        found: str | None = ti.xcom_pull(task_ids=self.task_id, key="job_id", map_indexes=ti.map_index)
        return found

    @property
    def _may_send_again(self) -> bool:
        return self.resend_unknown or self.action == Action.RELOAD.value

    def _upload(
        self, context: Context, memory: Memory, deadline: float, failures: int = 0, version: str | None = None
    ) -> str:
        text = ""
        tried: list[Tries] = []

        def before_try(tries: Tries) -> None:
            nonlocal text
            if not tried:
                push_links(self, context, tries.server)
            tried.append(tries)
            now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            text = f"{tries.upload}, begun {now} (processing log: {tries.server.processing_log_url})"
            memory.write(Phase.SENDING, text)

        def before_retry(tries: Tries, error: errors.DatatileError, delay: float) -> None:
            if isinstance(error, errors.OutcomeUnknown):
                return
            memory.forget()
            turn = isinstance(error, (errors.DestinationBusy, errors.RateLimited))
            if self.deferrable and turn and delay > SHORT_WAIT:
                self.log.info("%s Waiting for its turn, for %.0f s", error, delay)
                self.defer(
                    trigger=DatatileTurnTrigger(until=time.time() + delay),
                    method_name="resume_upload",
                    kwargs={"deadline": deadline, "failures": tries.failures, "version": tries.version},
                    timeout=timedelta(seconds=delay) + SAFETY_NET,
                )

        try:
            job = DatatileHook(self.datatile_conn_id).upload(
                self.action,
                self.target_hash,
                self.dataset,
                callback_url=self.callback_url,
                # Whoever waited for his turn gets one, be it late.
                timeout=max(deadline - time.time(), 1.0),
                resend_unknown=self.resend_unknown,
                failures=failures,
                version=version,
                before_try=before_try,
                before_retry=before_retry,
            )
        except errors.OutcomeUnknown as e:
            if self._may_send_again:
                memory.forget()
                raise AirflowException(str(e)) from None
            self._remember(memory, Phase.TOLD, str(e))
            raise airflow_error(e, may_retry=False) from None
        except errors.DatatileError as e:
            memory.forget()
            raise airflow_error(e, may_retry=True) from None
        except AirflowTaskTimeout:
            if memory.lasts or self._may_send_again or not text:
                raise
            raise AirflowFailException(
                f"execution_timeout ended the {text} in the middle, and it is unknown whether the server holds it. "
                "Look there before it is sent again."
            ) from None
        self._remember(memory, Phase.ACCEPTED, text, job.id)
        self._push_job_id(context, job)
        push_links(self, context, tried[-1].server, job.id)
        return self._accepted(context, memory, job, text)

    def _follow(self, context: Context, memory: Memory, record: Record) -> str:
        self.log.info("An earlier try was accepted as job %s; taking that up: %s", record.job_id, record.text)
        job, hook = Job(record.job_id), DatatileHook(self.datatile_conn_id)
        try:
            push_links(self, context, hook.get_conn().server, job.id)
            job = hook.get_job(job.id)
        except errors.DatatileError as e:
            # Whatever it is, it is no reason to send the file again.
            self.log.warning("%s", e)
        else:
            if job.state in (JobState.FAILED, JobState.CANCELLED):
                self.log.warning("Job %s is %s (%s), so uploading anew", job.id, job.state.value, job.message)
                memory.forget()
                return self._upload(context, memory, time.time() + self.accept_timeout)
        self._remember(memory, Phase.ACCEPTED, record.text, job.id)
        self._push_job_id(context, job)
        return self._accepted(context, memory, job, record.text)

    def _accepted(self, context: Context, memory: Memory, job: Job, text: str) -> str:
        self._job = job
        if not self.wait_for_completion:
            return self._done(context, memory, job, text)
        if self.deferrable:
            defer_wait(
                self,
                context,
                datatile_conn_id=self.datatile_conn_id,
                job_id=job.id,
                poll_interval=self.poll_interval,
                timeout=self.timeout,
                kwargs={"text": text},
            )
        try:
            hook = DatatileHook(self.datatile_conn_id)
            job = hook.wait_for_job(job.id, poll_interval=self.poll_interval, timeout=self.timeout)
        except errors.DatatileError as e:
            raise self._ended(memory, e) from None
        except AirflowTaskTimeout:
            if memory.lasts:
                raise
            raise AirflowFailException(
                f"execution_timeout ended the wait for job {job.id}, which may go on in DATATILE: {text}"
            ) from None
        except Exception as e:  # Airflow's own, as when it cannot tell the connection
            if memory.lasts:
                raise
            raise AirflowFailException(_broken_off(job.id, e)) from None
        return self._done(context, memory, job, text)

    def _done(self, context: Context, memory: Memory, job: Job, text: str) -> str:
        try:
            memory.write(Phase.DONE, text, job.id)
        except Exception as e:  # as of any store
            # As a success it would be taken up again, not sent, when a person clears the task to send the next file.
            raise AirflowException(
                f"Airflow could not store that the task is done ({e}), so it fails, though nothing is lost: it was "
                f"accepted as job {job.id}, {text}"
            ) from e
        return self._succeeded(context, job)

    def _succeeded(self, context: Context, job: Job) -> str:
        self._job = job
        if self.outlets:
            from datatile_provider.assets.datatile import describe_outlets

            describe_outlets(self.outlets, context, job, self.action)
        return job.id

    def _ended(self, memory: Memory, error: errors.DatatileError) -> BaseException:
        self._job = self._job and self._job.ended_by(error)
        # A job's error names the job alone.
        file = str(self.dataset).rpartition("/")[2]
        error.what = f"{self.action} of {file!r} to {self.target_hash}: {error.what}"
        found = airflow_error(error, may_retry=False)
        if isinstance(found, AirflowTaskTimeout):
            return found if memory.lasts else AirflowFailException(str(error))
        # Of another job nobody knows how it ends: a person who clears the task lets it be taken up again.
        if isinstance(error, (errors.JobFailed, errors.JobCancelled)):
            self._remember(memory, Phase.TOLD, str(error))
        return found

    def _remember(self, memory: Memory, phase: Phase, text: str, job_id: str = "") -> None:
        try:
            memory.write(phase, text, job_id)
        except Exception as e:  # the file is at the server: whatever the store raises must not look as if it were not
            self.log.error("Airflow could not store that the upload is %s (job %s): %s", phase.value, job_id, e)


def _broken_off(job_id: str, error: Exception) -> str:
    return f"The upload was accepted as job {job_id}, which may go on in DATATILE; the wait for it broke off: {error}"
