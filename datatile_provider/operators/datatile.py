"""DatatileUploadOperator: uploads a file to create, reload or append a DATATILE database."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
    TaskDeferred,
    conf,
)

from datatile_provider.api import errors
from datatile_provider.api.contract import UNKNOWN_HINT, Action, Job
from datatile_provider.api.polling import job_error, seconds
from datatile_provider.api.states import JobState
from datatile_provider.hooks.datatile import ACCEPT_TIMEOUT, JOB_TIMEOUT, POLL_INTERVAL, Attempts, DatatileHook
from datatile_provider.links.datatile import DatatileJobLink, DatatileLogLink, push_links
from datatile_provider.operators.upload_state import Cleared, Phase, Record, Sent, Step, UploadState, first_step
from datatile_provider.triggers.datatile import (
    TRIGGER_TIMEOUT_MARGIN,
    DatatileRetryTrigger,
    airflow_error,
    defer_wait,
    job_of,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg
    from airflow.providers.openlineage.extractors import OperatorLineage

    from datatile_provider.hooks.dataset import DatasetLike

#: Seconds of backoff up to which sleeping in the worker costs less than a trigger and another worker start.
MAX_BACKOFF_IN_WORKER = 10.0
#: Seconds between the two polls that must report that a job failed before its file is sent again.
CONFIRM_PAUSE = 10.0
#: The method that a task is resumed in after a backoff.
_RETRY = "retry_upload"


class DatatileUploadOperator(BaseOperator):
    """
    Uploads a file to create, reload or append a DATATILE database, and returns the id of the job that processes it.

    A create or append is never sent again when its outcome is unknown: the task fails without Airflow's retries, and
    its error says what to check.

    :param action: ``create`` (makes a new database in a folder), ``reload`` (replaces a database's data) or
        ``append`` (adds to a database). (templated)
    :param target_hash: the hash of the folder (create) or of the database (reload, append). (templated)
    :param dataset: a local path, a ``file://`` URI, or an object storage path or URI, which is streamed. (templated)
    :param callback_url: the URL that DATATILE sends the job's transitions to. (templated)
    :param datatile_conn_id: the connection. (templated)
    :param wait_for_completion: whether to wait until the job has succeeded.
    :param deferrable: whether to wait in the triggerer, without a worker slot: for the job, and for the next attempt
        when the destination is busy or uploads come too fast.
    :param poll_interval: seconds (or a ``timedelta``) between polls of the job, after a few quick first ones.
    :param timeout: seconds (or a ``timedelta``) after which the wait for the job times out.
    :param accept_timeout: seconds (or a ``timedelta``) within which the server must accept the file.
    :param resend_unknown: send a create or append again when its outcome is unknown. The server may then have the data
        twice.
    """

    template_fields: Sequence[str] = ("action", "target_hash", "dataset", "callback_url", "datatile_conn_id")
    ui_color = "#cfe3f1"
    operator_extra_links = (DatatileLogLink(), DatatileJobLink())

    def __init__(
        self,
        *,
        action: str,
        target_hash: str,
        dataset: DatasetLike | XComArg,
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
        self.dataset: DatasetLike = dataset  # type: ignore[assignment]  # Airflow replaces an XComArg by its value.
        self.callback_url = callback_url
        self.datatile_conn_id = datatile_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = seconds("poll_interval", poll_interval)
        self.timeout = seconds("timeout", timeout)
        self.accept_timeout = seconds("accept_timeout", accept_timeout)
        self.resend_unknown = resend_unknown
        self._job: Job | None = None
        self._killed = False

    def execute(self, context: Context) -> str:
        """
        Upload the file, or resume what an earlier attempt uploaded, and wait for its job if asked to.

        :raises AirflowFailException: bad input, a permanent error, an unknown outcome, or a job that did not succeed.
        :raises AirflowException: not accepted within ``accept_timeout``; Airflow may retry.
        :raises AirflowSensorTimeout: accepted, and the job was not finished within ``timeout``.
        """
        return self._begin(context, time.time() + self.accept_timeout)

    def retry_upload(
        self,
        context: Context,
        deadline: float | None = None,
        failures: int = 0,
        version: str | None = None,
        event: Any = None,
    ) -> str:
        """Retry the upload, after a backoff in the triggerer."""
        # `dag.test()` passes nothing but the event.
        return self._begin(context, deadline or time.time() + self.accept_timeout, failures, version)

    def _begin(self, context: Context, deadline: float, failures: int = 0, version: str | None = None) -> str:
        self._label_mapped_task(context)
        state = self._upload_state(context)
        try:
            record = state.read()
        except ValueError as e:
            unreadable = errors.StateUnreadableError(
                f"The task's state store has something else under the key datatile_upload: {e}",
                subject=self._subject,
                hint="Nothing was sent. Look in DATATILE's processing log for the file, then delete that key.",
            )
            raise airflow_error(unreadable, may_retry=False) from None
        numbers = state.airflow
        if not state.lasts and numbers.try_number > numbers.max_tries + 1 and not self._may_send_again:
            # Airflow's own attempts never exceed that, and a clear raises it.
            unknown = errors.OutcomeUnknownError(
                "Airflow started the task again though no attempt was left, as after a restart of the scheduler",
                subject=self._subject,
                hint=UNKNOWN_HINT,
            )
            raise airflow_error(unknown, may_retry=False)
        if record is None:
            return self._upload(context, state, deadline, failures, version)
        cleared = Cleared.since(record.airflow, state.airflow)
        try:
            differences, again = self._compare(context, record, cleared)
        except errors.DatatileError as e:
            hint = f"{e.hint}\nAn earlier attempt has sent a file. Then clear this task: it compares the two.".lstrip()
            raise airflow_error(e.but(hint=hint), may_retry=True) from None
        step = first_step(record, cleared=cleared, differs=bool(differences), may_send_again=again)
        if step is Step.UPLOAD:
            if differences and record.job_id:
                self.log.warning(
                    "An earlier attempt was accepted as job %s, and the task has changed since:\n%s",
                    record.job_id,
                    "\n".join(differences),
                )
            return self._upload(context, state, deadline, failures, version)
        if step is Step.RETURN:
            self.log.info("An earlier attempt succeeded as job %s, and Airflow lost its result", record.job_id)
            return self._succeeded(context, Job(record.job_id))
        if step is Step.RESUME:
            return self._resume(context, state, record)
        text = record.text
        if step is not Step.REPORT_AGAIN:
            text = str(_failure(step, record, differences))
            self._remember(lambda: state.advance(Phase.REPORTED, text))
        elif cleared is Cleared.UNSURE:
            text = f"{text}\nIf you have cleared this task, clear it once more: Airflow does not show it."
        raise AirflowFailException(text)

    def _label_mapped_task(self, context: Context) -> None:
        """Show the file's name in the place of the map index, unless the DAG has a template for that."""
        ti: Any = context["ti"]
        if ti.map_index >= 0 and not context.get("map_index_template"):
            # Airflow renders the template after the task, but not after a failure.
            context["map_index_template"] = "{{ task.file_name }}"
            with contextlib.suppress(Exception):
                ti.rendered_map_index = self.file_name

    @property
    def file_name(self) -> str:
        """The name of the file."""
        return str(self.dataset).rpartition("/")[2]

    @property
    def _subject(self) -> str:
        return f"{self.action} of {self.file_name!r} to {self.target_hash}"

    def _compare(self, context: Context, record: Record, cleared: Cleared) -> tuple[list[str], bool]:
        """Return the differences between the task's upload and the record's, and whether that may be sent again."""
        server = DatatileHook(self.datatile_conn_id).get_conn().server.address
        now, before = Sent(server, self.action, self.target_hash), record.sent
        again = now.same_place(before) and self._may_send_again
        pairs = (
            ("server", before.server, now.server),
            ("action", before.action, now.action),
            ("target", before.target, now.target),
        )
        found = [f"{name}: before {was}, now {is_now}" for name, was, is_now in pairs if was != is_now]
        steps = {first_step(record, cleared=cleared, differs=d, may_send_again=again) for d in (bool(found), True)}
        # A large file is only read when the comparison matters.
        dataset = self._dataset_to_compare(context, cleared) if len(steps) > 1 else None
        return [*found, *(self._compare_content(before, dataset) if dataset is not None else [])], again

    def _dataset_to_compare(self, context: Context, cleared: Cleared) -> DatasetLike | None:
        return self.dataset

    def _compare_content(self, before: Sent, dataset: DatasetLike) -> list[str]:
        from datatile_provider.hooks.content import same_content
        from datatile_provider.hooks.dataset import dataset_of

        try:
            file = dataset_of(dataset)
            same = same_content(file, before.size, before.version, before.sha256)
        except errors.InvalidInputError as e:
            # Files are often moved away after they were accepted.
            self.log.warning("%s", e.report("the file is not compared with the accepted one"))
            return []
        return [] if same else [f"content: before {before.name!r} of {before.size:,} bytes, now {file.location}"]

    def execute_complete(self, context: Context, text: str = "", job_id: str = "", event: Any = None) -> str:
        """
        Return the id of the job that the triggerer saw succeed.

        :raises AirflowFailException: the job did not succeed, or its end is unknown. The file was accepted, so Airflow
            must not send it again.
        :raises AirflowSensorTimeout: the job was not finished within ``timeout``.
        """
        state = self._upload_state(context)
        if not job_id:
            # `dag.test()` passes nothing but the event.
            with contextlib.suppress(Exception):  # any XCom backend's; the event names the job too
                job_id = self._pushed_job_id(context) or ""
        self._job = Job(job_id) if job_id else None
        with self._accepted(state, job_id, text):
            # This attempt wrote the record. The next attempt reports a damaged one.
            with contextlib.suppress(ValueError):
                state.read()
            try:
                job = job_of(event, job_id or None)
            except errors.DatatileError as e:
                raise self._ended(state, e) from None
            self.log.info("Job %s succeeded%s", job.id, f": {job.rows:,} rows" if job.rows is not None else "")
            return self._done(context, state, job)

    def pre_execute(self, context: Context) -> None:
        """Let Airflow 2 resume an accepted upload also after its ``execution_timeout``."""
        with self._hook_of_the_user(context):
            super().pre_execute(context)
        # Only Airflow 2 has this attribute. It would end the task, retry it, and so send the file again.
        if getattr(context["ti"], "next_method", None) not in (None, "", _RETRY):
            self.execution_timeout = None

    def post_execute(self, context: Context, result: Any = None) -> None:
        """Prevent that an error in a hook of the DAG makes Airflow send the file again."""
        with self._hook_of_the_user(context):
            super().post_execute(context, result)

    @contextlib.contextmanager
    def _hook_of_the_user(self, context: Context) -> Iterator[None]:
        try:
            yield
        except Exception as e:
            job_id = self._job.id if self._job else ""
            with contextlib.suppress(Exception):  # any XCom backend's
                # Airflow deletes the XComs of earlier attempts, so this one is of this attempt.
                job_id = job_id or self._pushed_job_id(context) or ""
            if self._upload_state(context).lasts or not job_id or not _would_be_retried(e):
                raise
            raise airflow_error(self._interrupted(job_id, e), may_retry=False) from e

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume the task; a failed trigger must not make an older Airflow send an accepted file again."""
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        try:
            job_id = self._pushed_job_id(context)
        except Exception as e:  # any XCom backend's
            if self._upload_state(context).lasts:
                raise
            unknown = errors.OutcomeUnknownError(
                f"The trigger failed, and the job id could not be read: {e}", subject=self._subject, hint=UNKNOWN_HINT
            )
            raise airflow_error(unknown, may_retry=False) from None
        if not job_id:
            return super().resume_execution(next_method, next_kwargs, context)
        from datatile_provider.version_compat import resume_arguments

        method, kwargs = resume_arguments(next_method, next_kwargs, job_id, self.timeout)
        if method != next_method:
            kwargs = {**(kwargs or {}), "job_id": job_id}
        try:
            return super().resume_execution(method, kwargs, context)
        except AirflowSensorTimeout:
            raise
        except AirflowException as e:
            if self._upload_state(context).lasts:
                raise
            raise airflow_error(self._interrupted(job_id, e), may_retry=False) from None

    def on_kill(self) -> None:
        """Log that the job continues: DATATILE documents no way to cancel it."""
        self._killed = True
        if self._job:
            self.log.warning("Job %s continues in DATATILE; see its processing log", self._job.id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the task's inputs and outputs for OpenLineage."""
        from datatile_provider.lineage import lineage

        return lineage(
            self.datatile_conn_id,
            self._job,
            dataset=self.dataset,
            action=self.action,
            target_hash=self.target_hash,
        )

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the inputs and outputs of a failed task for OpenLineage."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _upload_state(self, context: Context) -> UploadState:
        return UploadState(context, self.retries or 0)

    def _push_job_id(self, context: Context, state: UploadState, job: Job) -> None:
        try:
            context["ti"].xcom_push(key="job_id", value=job.id)
            if not state.lasts:
                # Airflow 2 reads it from the task after any error from here on.
                self.retries = 0
        except Exception as e:  # any XCom backend's
            if not state.lasts:
                # The return value is an XCom too. Without it Airflow would retry, and so send the file again.
                raise airflow_error(self._interrupted(job.id, e), may_retry=False) from None
            self.log.error("The job id %s could not be stored as an XCom: %s", job.id, e)

    def _pushed_job_id(self, context: Context) -> str | None:
        ti = context["ti"]
        found: str | None = ti.xcom_pull(task_ids=self.task_id, key="job_id", map_indexes=ti.map_index)
        return found

    @property
    def _may_send_again(self) -> bool:
        return self.resend_unknown or self.action == Action.RELOAD.value

    def _upload(
        self, context: Context, state: UploadState, deadline: float, failures: int = 0, version: str | None = None
    ) -> str:
        from datatile_provider.hooks.content import Sha256

        # Of the running attempt, if any.
        text = ""
        attempted: list[tuple[Attempts, Sent]] = []
        content = Sha256()

        def before_attempt(attempts: Attempts) -> None:
            nonlocal text
            if not attempted:
                push_links(self, context, attempts.server)
            upload = attempts.upload
            sent = Sent(
                attempts.server.address,
                upload.action.value,
                upload.target_hash,
                upload.name,
                upload.size,
                attempts.version,
            )
            attempted.append((attempts, sent))
            now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            begun = f"{upload}\nstarted {now}\nProcessing log: {attempts.server.processing_log_url}"
            state.write(Phase.SENDING, begun, sent)
            text = begun

        def before_retry(attempts: Attempts, error: errors.DatatileError, delay: float) -> None:
            nonlocal text
            if isinstance(error, errors.OutcomeUnknownError):
                return
            text = ""
            state.forget()
            defers = isinstance(error, (errors.DestinationBusyError, errors.RateLimitedError, errors.ServerBusyError))
            if self.deferrable and defers and delay > MAX_BACKOFF_IN_WORKER:
                self.log.info("%s", error.report(f"deferred, next attempt in {math.ceil(delay)} s"))
                self.defer(
                    trigger=DatatileRetryTrigger(until=time.time() + delay),
                    method_name=_RETRY,
                    kwargs={"deadline": deadline, "failures": attempts.failures, "version": attempts.version},
                    timeout=timedelta(seconds=delay) + TRIGGER_TIMEOUT_MARGIN,
                )

        try:
            job = DatatileHook(self.datatile_conn_id).upload(
                self.action,
                self.target_hash,
                self.dataset,
                callback_url=self.callback_url,
                # After a backoff in the triggerer there is always one attempt, even after the deadline.
                timeout=max(deadline - time.time(), 0.001),
                resend_unknown=self.resend_unknown,
                failures=failures,
                version=version,
                content=content,
                before_attempt=before_attempt,
                before_retry=before_retry,
            )
        except errors.OutcomeUnknownError as e:
            if self._may_send_again:
                state.forget()
                raise AirflowException(str(e)) from None
            reported = str(e)
            self._remember(lambda: state.advance(Phase.REPORTED, reported))
            raise airflow_error(e, may_retry=False) from None
        except errors.DatatileError as e:
            state.forget()
            hint = f"{e.hint}\nThis attempt stored nothing.\nAfter the fix, clear this task: it sends the file."
            if not e.hint:
                hint = "This attempt stored nothing.\nTo send the file, clear this task."
            raise airflow_error(e.but(hint=hint), may_retry=True) from None
        except BaseException as e:  # execution_timeout, SIGTERM, and what Airflow's own code raises
            if state.lasts or self._may_send_again or not text or not _would_be_retried(e):
                raise
            unknown = errors.OutcomeUnknownError(
                f"{_name(e)} ended the task while the file was sent", subject=text, hint=UNKNOWN_HINT
            )
            raise airflow_error(unknown, may_retry=False) from None
        attempts, sent = attempted[-1]
        with self._accepted(state, job.id, text):
            sent = replace(sent, sha256=content.hexdigest())
            self._remember(lambda: state.write(Phase.ACCEPTED, text, sent, job.id))
            self._push_job_id(context, state, job)
            push_links(self, context, attempts.server, job.id)
            return self._wait(context, state, job, text, sent.server)

    def _resume(self, context: Context, state: UploadState, record: Record) -> str:
        self.log.info("Resuming job %s, which an earlier attempt started:\n%s", record.job_id, record.text)
        self._job = job = Job(record.job_id)
        hook = DatatileHook(self.datatile_conn_id)
        try:
            server = hook.get_conn().server
            push_links(self, context, server, job.id)
            job = hook.get_job(job.id, server=record.sent.server)
            if _has_failed(job):
                # One response is not enough to send the file again.
                time.sleep(CONFIRM_PAUSE)
                job = hook.get_job(job.id, server=record.sent.server)
        except errors.DatatileError as e:
            # No error is a reason to send the file again.
            self.log.warning("%s", e.report("resuming nevertheless"))
            job = Job(record.job_id)
        if _has_failed(job) and job.named:
            failed = job_error(server, job)
            self.log.warning("%s", failed.report("sending the file again"))
            state.forget()
            return self._upload(context, state, time.time() + self.accept_timeout)
        if _has_failed(job):
            # The response does not name the job. That is enough to fail, and not enough to send the file again.
            unclear = errors.JobStatusUnclearError(
                f"A response that does not name the job has the status {job.status!r}",
                subject=f"job {job.id}",
                server_message=job.message,
                log_url=server.processing_log_url,
            )
            raise self._ended(state, job_error(server, job) if server.status_field else unclear)
        self._remember(lambda: state.advance(record.phase))
        self._push_job_id(context, state, job)
        return self._wait(context, state, job, record.text, record.sent.server)

    def _wait(self, context: Context, state: UploadState, job: Job, text: str, server: str) -> str:
        self._job = job
        if not self.wait_for_completion:
            return self._done(context, state, job)
        if self.deferrable:
            defer_wait(
                self,
                context,
                datatile_conn_id=self.datatile_conn_id,
                job_id=job.id,
                poll_interval=self.poll_interval,
                timeout=self.timeout,
                server=server,
                kwargs={"text": text, "job_id": job.id},
            )
        try:
            hook = DatatileHook(self.datatile_conn_id)
            job = hook.wait_for_job(job.id, poll_interval=self.poll_interval, timeout=self.timeout, server=server)
        except errors.DatatileError as e:
            raise self._ended(state, e) from None
        return self._done(context, state, job)

    @contextlib.contextmanager
    def _accepted(self, state: UploadState, job_id: str, text: str) -> Iterator[None]:
        """
        Prevent that an error after the acceptance makes Airflow send the file again.

        An Airflow without a state store would retry the task and so send it.
        """
        try:
            yield
        except BaseException as e:  # execution_timeout and SIGTERM too
            if state.lasts or not job_id or not _would_be_retried(e):
                raise
            raise airflow_error(self._interrupted(job_id, e, text), may_retry=False) from None

    def _done(self, context: Context, state: UploadState, job: Job) -> str:
        if self._killed:
            # As a success it would be sent again, not resumed, when a person clears it.
            self._remember(lambda: state.advance(Phase.WAIT_FAILED))
            killed = errors.UploadInterruptedError(
                f"The task was killed after the file was accepted as job {job.id}",
                subject=self._subject,
                hint=self._hint_to_resume(state),
            )
            raise airflow_error(killed, may_retry=False)
        try:
            state.advance(Phase.DONE)
        except Exception as e:  # any store's
            # As a success it would be resumed, not sent, when a person clears the task to send the next file.
            not_stored = errors.StateNotStoredError(
                f"The file was accepted as job {job.id}. Airflow could not store that: {e}",
                subject=self._subject,
                hint="The next attempt resumes the job; the file is not sent again.",
            )
            raise airflow_error(not_stored, may_retry=True) from e
        return self._succeeded(context, job)

    def _succeeded(self, context: Context, job: Job) -> str:
        self._job = job
        if self.outlets:
            from datatile_provider.assets.datatile import describe_outlets

            describe_outlets(self.outlets, context, job, self.action)
        return job.id

    def _ended(self, state: UploadState, error: errors.DatatileError) -> BaseException:
        job_id = self._job.id if self._job else ""
        self._job = self._job and self._job.ended_by(error)
        failed = isinstance(error, (errors.JobFailedError, errors.JobCancelledError))
        next_step = _HINT_TO_SEND if failed else self._hint_to_resume(state)
        if isinstance(error, errors.ConnectionChangedError):
            next_step = (
                "The file was accepted.\n"
                "Then clear this task. Cleared before that, it sends the file to the new server."
            )
        # A job's error names the job alone.
        error = error.but(
            subject=f"{self._subject}\njob {job_id}".removesuffix("\njob "),
            hint="\n".join(filter(None, [error.hint, next_step])),
        )
        found = airflow_error(error, may_retry=False)
        if isinstance(found, AirflowTaskTimeout):
            return found if state.lasts else AirflowFailException(str(error))
        # The job may continue: clearing the task resumes it.
        phase = Phase.REPORTED if failed else Phase.WAIT_FAILED
        self._remember(lambda: state.advance(phase, str(error) if failed else None))
        return found

    def _interrupted(self, job_id: str, error: BaseException, text: str = "") -> errors.UploadInterruptedError:
        return errors.UploadInterruptedError(
            f"The file was accepted as job {job_id}, then {_name(error)} ended the task",
            subject=text or self._subject,
            hint="The job continues in DATATILE.\n"
            "It succeeds: mark this task success. It does not: clear this task, which sends the file again.",
        )

    @staticmethod
    def _hint_to_resume(state: UploadState) -> str:
        if state.lasts:
            return "The file was accepted.\nTo resume the wait, clear this task: the file is not sent again."
        return "The file was accepted, and the job may continue.\nClearing this task sends the file again."

    def _remember(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as e:  # any store's; the server has the file, so the task must not fail as if it had not
            self.log.error("Airflow could not store the state of the upload: %s", e)


_HINT_TO_SEND = (
    "The file was accepted, but its job did not succeed.\nReplace the file, then clear this task: it sends the file."
)


def _failure(step: Step, record: Record, differences: list[str]) -> errors.DatatileError:
    """Return the error of an attempt that must not continue without a person."""
    changed = f"The task has changed since:\n{chr(10).join(differences)}" if differences else ""
    accepted = f"An earlier attempt was accepted as job {record.job_id}"
    if step is Step.CHANGED:
        return errors.TaskChangedError(
            f"{accepted}.\n{changed}",
            subject=record.text,
            hint="The task's upload of now was not sent. Check that job first.\nTo send it, clear this task.",
        )
    if step is Step.UNSURE:
        return errors.AlreadyUploadedError(
            f"{accepted} and succeeded. Airflow does not show whether the task was cleared since, "
            "as after a change of its retries",
            subject=record.text,
            hint="Nothing was sent.\nTo send the file again, clear this task.",
        )
    return errors.OutcomeUnknownError(
        "\n".join(filter(None, ["An earlier attempt ended before its response was known", changed])),
        subject=record.text,
        hint=UNKNOWN_HINT,
    )


def _has_failed(job: Job) -> bool:
    return job.state in (JobState.FAILED, JobState.CANCELLED)


def _would_be_retried(error: BaseException) -> bool:
    """Return whether Airflow would retry the task after an error."""
    if isinstance(error, (AirflowFailException, AirflowSensorTimeout, AirflowSkipException, TaskDeferred)):
        return False
    # By its name, as its module differs between versions.
    ends = isinstance(error, (AirflowTaskTimeout, SystemExit, KeyboardInterrupt, asyncio.CancelledError))
    return ends or isinstance(error, Exception) or type(error).__name__ == "AirflowTaskTerminated"


def _name(error: BaseException) -> str:
    return "execution_timeout" if isinstance(error, AirflowTaskTimeout) else f"{type(error).__name__} ({error})"
