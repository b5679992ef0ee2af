"""DatatileUploadOperator: uploads a file to create, reload or append a DATATILE database."""

from __future__ import annotations

import asyncio
import contextlib
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
from datatile_provider.api.contract import Action, Job
from datatile_provider.api.polling import job_error, seconds
from datatile_provider.api.states import JobState
from datatile_provider.hooks.datatile import ACCEPT_TIMEOUT, JOB_TIMEOUT, POLL_INTERVAL, Attempts, DatatileHook
from datatile_provider.links.datatile import DatatileJobLink, DatatileLogLink, push_links
from datatile_provider.operators.upload_state import Cleared, Phase, Record, Sent, Step, UploadState, first_step
from datatile_provider.triggers.datatile import SAFETY_NET, DatatileRetryTrigger, airflow_error, defer_wait, job_of
from datatile_provider.version_compat import resume_arguments

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from datatile_provider.hooks.dataset import DatasetLike

#: Seconds up to which waiting for one's turn in the worker costs less than a trigger and another worker start.
MAX_BACKOFF_IN_WORKER = 10.0
#: Seconds between the polls that must agree that a job failed, before its file is sent again.
CONFIRM_PAUSE = 10.0


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
        self._killed = False

    def execute(self, context: Context) -> str:
        """
        Upload the file, or take up what an earlier try left behind, and, if asked to, wait for its job.

        :raises AirflowFailException: bad input, a refusal, an unknown outcome, or a job that did not succeed.
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
        # `dag.test()` passes on nothing but the event.
        return self._begin(context, deadline or time.time() + self.accept_timeout, failures, version)

    def _begin(self, context: Context, deadline: float, failures: int = 0, version: str | None = None) -> str:
        state = self._upload_state(context)
        try:
            record = state.read()
        except ValueError as e:
            raise AirflowFailException(
                f"The task's state store holds something else than the record of an upload under datatile_upload: {e}. "
                "Nothing was sent. Look in DATATILE's processing log for the file, then delete that entry."
            ) from None
        numbers = state.airflow
        if not state.lasts and numbers.try_number > numbers.max_tries + 1 and not self._may_send_again:
            # Airflow's own attempts never exceed that, and a clear raises it.
            raise AirflowFailException(
                f"Airflow started the {self.action} of {self.dataset} to {self.target_hash} once more though no attempt"
                " was left, as after a scheduler's restart. It is unknown whether the server holds the file. "
                "Look there before it is sent again; clearing this task sends it."
            )
        if record is None:
            return self._upload(context, state, deadline, failures, version)
        cleared = Cleared.since(record.airflow, state.airflow)
        try:
            differences, again = self._compare(context, record, cleared)
        except errors.DatatileError as e:
            raise airflow_error(e, may_retry=True) from None
        step = first_step(record, cleared=cleared, differs=bool(differences), may_send_again=again)
        changed = f"The task has changed since ({'; '.join(differences)})" if differences else ""
        if step is Step.UPLOAD:
            if changed and record.job_id:
                self.log.warning(
                    "An earlier attempt was accepted as job %s: %s. %s", record.job_id, record.text, changed
                )
            return self._upload(context, state, deadline, failures, version)
        if step is Step.RETURN:
            self.log.info("An earlier attempt succeeded, and Airflow did not hear of it: %s", record.text)
            return self._succeeded(context, Job(record.job_id))
        if step is Step.RESUME:
            return self._resume(context, state, record)
        text = record.text
        if step is not Step.REPORT_AGAIN:
            what, hint = _FAILURES[step]
            what = what.format(text=record.text, job=record.job_id)
            text = " ".join(f"{part}." for part in (what, changed, hint) if part)
            self._remember(lambda: state.advance(Phase.REPORTED, text))
        elif cleared is Cleared.UNSURE:
            text = f"{text} Airflow's numbers do not tell whether the task was cleared. If it was, clear it once more."
        raise AirflowFailException(text)

    def _compare(self, context: Context, record: Record, cleared: Cleared) -> tuple[list[str], bool]:
        """Return in what the task's upload differs from the record's, and whether the record's may be sent again."""
        server = DatatileHook(self.datatile_conn_id).get_conn().server.address
        now, before = Sent(server, self.action, self.target_hash), record.sent
        again = now.same_place(before) and self._may_send_again
        pairs = (
            ("server", before.server, now.server),
            ("action", before.action, now.action),
            ("target", before.target, now.target),
        )
        found = [f"{name}: {was} before, {is_now} now" for name, was, is_now in pairs if was != is_now]
        steps = {first_step(record, cleared=cleared, differs=d, may_send_again=again) for d in (bool(found), True)}
        # To read a large file once more must not be for nothing.
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
            # Files are often moved away once they were accepted. One that can't be read for a moment is no such file.
            self.log.warning("The file is not compared with what was accepted: %s", e)
            return []
        return [] if same else [f"content: {before.name!r} of {before.size:,} bytes before, {file.location} now"]

    def execute_complete(self, context: Context, text: str = "", job_id: str = "", event: Any = None) -> str:
        """
        Return the id of the job that the triggerer saw succeed.

        :raises AirflowFailException: the job did not succeed, or nobody can tell; the file was accepted, so Airflow
            must not send it again.
        :raises AirflowSensorTimeout: the job was not finished within ``timeout``.
        """
        state = self._upload_state(context)
        if not job_id:
            # `dag.test()` passes on nothing but the event.
            with contextlib.suppress(Exception):  # as of any XCom backend; the event names the job too
                job_id = self._pushed_job_id(context) or ""
        self._job = Job(job_id) if job_id else None
        with self._accepted(state, job_id, text):
            # The record is the one that its attempt wrote. A damaged one is for the next attempt to report.
            with contextlib.suppress(ValueError):
                state.read()
            try:
                job = job_of(event, job_id or None)
            except errors.DatatileError as e:
                raise self._ended(state, e) from None
            self.log.info("Job %s has succeeded", job.id)
            return self._done(context, state, job)

    def pre_execute(self, context: Context) -> None:
        """Let an accepted upload be resumed on Airflow 2, which else ends it once its ``execution_timeout`` is over."""
        with self._hook_of_the_user(context):
            super().pre_execute(context)
        # Only Airflow 2 shows a task that it is being resumed. It would try again, and so send the file again.
        if getattr(context["ti"], "next_method", None) not in (None, "", "resume_upload"):
            self.execution_timeout = None

    def post_execute(self, context: Context, result: Any = None) -> None:
        """Let no hook of the user's look like a reason to send the file again."""
        with self._hook_of_the_user(context):
            super().post_execute(context, result)

    @contextlib.contextmanager
    def _hook_of_the_user(self, context: Context) -> Iterator[None]:
        try:
            yield
        except Exception as e:
            job_id = self._job.id if self._job else ""
            with contextlib.suppress(Exception):  # as of any XCom backend
                # What an earlier attempt pushed is gone: if there is one, this attempt was accepted.
                job_id = job_id or self._pushed_job_id(context) or ""
            if self._upload_state(context).lasts or not job_id or not _would_be_retried(e):
                raise
            raise AirflowFailException(_ended_early(job_id, e)) from e

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume, and let no broken trigger make an older Airflow upload an accepted file once more."""
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        try:
            job_id = self._pushed_job_id(context)
        except Exception as e:  # as of any XCom backend
            if self._upload_state(context).lasts:
                raise
            raise AirflowFailException(
                f"The {self.action} of {self.dataset} to {self.target_hash} was resumed after a trigger had failed, "
                f"and its job id could not be read ({e}): it is unknown whether the server holds the file. "
                "Look there before it is sent again."
            ) from None
        if not job_id:
            return super().resume_execution(next_method, next_kwargs, context)
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
            raise AirflowFailException(_ended_early(job_id, e)) from None

    def on_kill(self) -> None:
        """Say that the job goes on: DATATILE documents no way to cancel it."""
        self._killed = True
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

    def _upload_state(self, context: Context) -> UploadState:
        return UploadState(context, self.retries or 0)

    def _push_job_id(self, context: Context, state: UploadState, job: Job) -> None:
        try:
            context["ti"].xcom_push(key="job_id", value=job.id)
            if not state.lasts:
                # Airflow 2 asks the task for it when anything fails from here on.
                self.retries = 0
        except Exception as e:  # as of any XCom backend
            text = f"Job {job.id} could not be stored as the XCom job_id: {e}"
            if not state.lasts:
                # What the task returns is an XCom too. Without it Airflow would retry, and so send the file again.
                raise AirflowFailException(f"The upload was accepted. {text}") from None
            self.log.error("%s", text)

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

        # Of the attempt that is under way, if any.
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
            begun = f"{upload}, begun {now} (processing log: {attempts.server.processing_log_url})"
            state.write(Phase.SENDING, begun, sent)
            text = begun

        def before_retry(attempts: Attempts, error: errors.DatatileError, delay: float) -> None:
            nonlocal text
            if isinstance(error, errors.OutcomeUnknownError):
                return
            text = ""
            state.forget()
            turn = isinstance(error, (errors.DestinationBusyError, errors.RateLimitedError))
            if self.deferrable and turn and delay > MAX_BACKOFF_IN_WORKER:
                self.log.info("%s Waiting for its turn, for %.0f s", error, delay)
                self.defer(
                    trigger=DatatileRetryTrigger(until=time.time() + delay),
                    method_name="resume_upload",
                    kwargs={"deadline": deadline, "failures": attempts.failures, "version": attempts.version},
                    timeout=timedelta(seconds=delay) + SAFETY_NET,
                )

        try:
            job = DatatileHook(self.datatile_conn_id).upload(
                self.action,
                self.target_hash,
                self.dataset,
                callback_url=self.callback_url,
                # After a wait in the triggerer there is one attempt, however late it is.
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
            server_message = str(e)
            self._remember(lambda: state.advance(Phase.REPORTED, server_message))
            raise airflow_error(e, may_retry=False) from None
        except errors.DatatileError as e:
            state.forget()
            raise airflow_error(e, may_retry=True) from None
        except BaseException as e:  # execution_timeout, SIGTERM, and what Airflow's own code raises
            if state.lasts or self._may_send_again or not text or not _would_be_retried(e):
                raise
            raise AirflowFailException(
                f"{_name(e)} ended the {text} in the middle, and it is unknown whether the server holds it. "
                "Look there before it is sent again."
            ) from None
        attempts, sent = attempted[-1]
        with self._accepted(state, job.id, text):
            sent = replace(sent, sha256=content.hexdigest())
            self._remember(lambda: state.write(Phase.ACCEPTED, text, sent, job.id))
            self._push_job_id(context, state, job)
            push_links(self, context, attempts.server, job.id)
            return self._wait(context, state, job, text, sent.server)

    def _resume(self, context: Context, state: UploadState, record: Record) -> str:
        self.log.info("An earlier attempt was accepted as job %s; taking that up: %s", record.job_id, record.text)
        job, hook = Job(record.job_id), DatatileHook(self.datatile_conn_id)
        try:
            server = hook.get_conn().server
            push_links(self, context, server, job.id)
            job = hook.get_job(job.id, server=record.sent.server)
            if _has_failed(job):
                # What leads to sending the file again must not hang on a single response.
                time.sleep(CONFIRM_PAUSE)
                job = hook.get_job(job.id, server=record.sent.server)
        except errors.DatatileError as e:
            # Whatever it is, it is no reason to send the file again.
            self.log.warning("%s", e)
            job = Job(record.job_id)
        if _has_failed(job) and job.named:
            self.log.warning("Job %s is %s (%s), so uploading anew", job.id, job.state.value, job.message)
            state.forget()
            return self._upload(context, state, time.time() + self.accept_timeout)
        if _has_failed(job):
            # The response does not name the job. That is enough to fail, and not enough to send the file again.
            doubt = errors.DatatileError(
                f"Job {job.id} may have failed: a response that does not name it says {job.status!r}",
                server_message=job.message,
                hint=f"See the processing log: {server.processing_log_url} Clearing this task resumes the job.",
            )
            raise self._ended(state, job_error(server, job) if server.status_field else doubt)
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
        Let nothing that is raised after acceptance look like a reason to send the file again.

        An Airflow without a state store would retry the task and so send it.
        """
        try:
            yield
        except BaseException as e:  # execution_timeout and SIGTERM too
            if state.lasts or not job_id or not _would_be_retried(e):
                raise
            raise AirflowFailException(f"{_ended_early(job_id, e)}: {text}") from None

    def _done(self, context: Context, state: UploadState, job: Job) -> str:
        if self._killed:
            # As a success it would be sent again, not resumed, when a person clears it.
            self._remember(lambda: state.advance(Phase.WAIT_FAILED))
            raise AirflowFailException(f"The task was ended from outside. Its upload was accepted as job {job.id}.")
        try:
            state.advance(Phase.DONE)
        except Exception as e:  # as of any store
            # As a success it would be resumed, not sent, when a person clears the task to send the next file.
            raise AirflowException(
                f"Airflow could not store that the task is done ({e}), so it fails, though nothing is lost: it was "
                f"accepted as job {job.id}"
            ) from e
        return self._succeeded(context, job)

    def _succeeded(self, context: Context, job: Job) -> str:
        self._job = job
        if self.outlets:
            from datatile_provider.assets.datatile import describe_outlets

            describe_outlets(self.outlets, context, job, self.action)
        return job.id

    def _ended(self, state: UploadState, error: errors.DatatileError) -> BaseException:
        self._job = self._job and self._job.ended_by(error)
        # A job's error names the job alone.
        file = str(self.dataset).rpartition("/")[2]
        error.what = f"{self.action} of {file!r} to {self.target_hash}: {error.what}"
        found = airflow_error(error, may_retry=False)
        if isinstance(found, AirflowTaskTimeout):
            return found if state.lasts else AirflowFailException(str(error))
        # The job may still go on: a clear of the task resumes it.
        phase = (
            Phase.REPORTED
            if isinstance(error, (errors.JobFailedError, errors.JobCancelledError))
            else Phase.WAIT_FAILED
        )
        text = str(error) if phase is Phase.REPORTED else None
        self._remember(lambda: state.advance(phase, text))
        return found

    def _remember(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as e:  # the file is at the server: whatever the store raises must not look as if it were not
            self.log.error("Airflow could not store how far the upload has come: %s", e)


#: What a task says when it must not go on by itself: what happened, and what to do.
_FAILURES = {
    Step.UNKNOWN: (
        "It is unknown whether the server holds the {text}: an earlier attempt ended before the response was known",
        "Look there before it is sent again; clearing this task sends it",
    ),
    Step.CHANGED: (
        "An earlier attempt was accepted as job {job}: {text}",
        "What the task is about now was not sent. Look at that job first; clearing this task then sends the file",
    ),
    Step.UNSURE: (
        "An earlier attempt succeeded as job {job}: {text}. Airflow's numbers do not tell whether a person has cleared "
        "the task since, as when its retries were changed",
        "Nothing was sent. Clearing this task sends the file",
    ),
}


def _has_failed(job: Job) -> bool:
    return job.state in (JobState.FAILED, JobState.CANCELLED)


def _would_be_retried(error: BaseException) -> bool:
    """Whether Airflow would retry the task after it."""
    if isinstance(error, (AirflowFailException, AirflowSensorTimeout, AirflowSkipException, TaskDeferred)):
        return False
    # Airflow has two places for the last one's class.
    ends = isinstance(error, (AirflowTaskTimeout, SystemExit, KeyboardInterrupt, asyncio.CancelledError))
    return ends or isinstance(error, Exception) or type(error).__name__ == "AirflowTaskTerminated"


def _name(error: BaseException) -> str:
    return "execution_timeout" if isinstance(error, AirflowTaskTimeout) else f"{type(error).__name__} ({error})"


def _ended_early(job_id: str, error: BaseException) -> str:
    return f"The upload was accepted as job {job_id}, which may go on in DATATILE; it was broken off by {_name(error)}"
