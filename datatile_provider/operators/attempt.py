"""What one attempt of an upload task does, from the record of the attempts before to the result."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.providers.common.compat.sdk import AirflowFailException

from datatile_provider.api import errors
from datatile_provider.api.models import Action, Job, OnRepeat, OnUnknown
from datatile_provider.api.polling import job_error
from datatile_provider.failure_policy import Accepted
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.ledger.entry import Phase as LedgerPhase
from datatile_provider.links.datatile import push_links
from datatile_provider.operators.first_step import Cleared, Step, comparison_matters, first_step, stop_error
from datatile_provider.operators.guard import GuardedUpload, as_job
from datatile_provider.operators.question import ASKED, Answer
from datatile_provider.operators.upload_state import Phase, Record, Sent
from datatile_provider.triggers.datatile import TRIGGER_TIMEOUT_MARGIN, DatatileRetryTrigger, defer_wait, job_of

if TYPE_CHECKING:
    from datatile_provider.hooks.upload import Uploader

#: Seconds of backoff up to which sleeping in the worker costs less than a trigger and another worker start.
MAX_BACKOFF_IN_WORKER = 10.0
#: Seconds between the two polls that must report that a job failed before its file is sent again.
CONFIRM_PAUSE = 10.0
_DEFERRED = (errors.DestinationBusyError, errors.RateLimitedError, errors.ServerBusyError)


class UploadAttempt(GuardedUpload):
    """One attempt of an upload task, or its continuation after a deferral."""

    def begin(self, deadline: float, failures: int = 0, version: str | None = None) -> str:
        """
        Upload the file, or do what the record of the attempts before asks for, and return the job's id.

        :param deadline: when the server must have accepted the file, in seconds since the epoch.
        :param failures: the number of attempts of this upload that failed before a deferral.
        :param version: the version of the file that those attempts sent.
        """
        self._accepted = Accepted.EARLIER
        self._read_conf()
        harmless = self._on_unknown is OnUnknown.RESEND
        repeats = self._on_repeat in (OnRepeat.WARN, OnRepeat.ALLOW)
        record = self._read()
        numbers = self._state.airflow
        # Airflow's own attempts never exceed max_tries, and a clear raises it.
        if not self._state.lasts and numbers.try_number > numbers.max_tries + 1 and not harmless:
            raise errors.OutcomeUnknownError(
                "Airflow started the task again though no attempt was left, as after a restart of the scheduler",
                subject=self._subject,
                hint=errors.UNKNOWN_HINT,
            )
        if record is None:
            return self._upload(deadline, failures, version)
        cleared = Cleared.since(record.airflow, numbers)
        settings = DatatileHook(self._task.datatile_conn_id).get_conn()
        self._claim.configured = bool(settings.ledger)
        differences = record.sent.moved_to(Sent(settings.server.address, self._task.action, self._task.target_hash))
        harmless = harmless and not differences
        # A large file is only read when the comparison matters.
        asks = record.phase is Phase.SENDING and self._on_unknown is OnUnknown.ASK
        if not differences and (asks or comparison_matters(record.phase, cleared, harmless=harmless, repeats=repeats)):
            differences = self._compare_content(record.sent, cleared)
        step = first_step(record.phase, cleared, differs=bool(differences), harmless=harmless, repeats=repeats)
        self._claim.reported = record.phase is Phase.REPORTED
        if step is Step.UPLOAD:
            if differences and record.job_id:
                self._task.log.warning(
                    "An earlier attempt was accepted as job %s, and the task has changed since:\n%s",
                    record.job_id,
                    "\n".join(differences),
                )
            return self._upload(deadline, failures, version)
        if step is Step.RETURN:
            self.note(record.answer)
            job = Job(record.job_id)
            self._task.log.info("An earlier attempt succeeded%s, and Airflow lost its result", as_job(job))
            return self._succeeded(job)
        if step is Step.RESUME:
            return self._resume(record)
        if step is Step.REPORT_AGAIN:
            unsure = "\nIf you have cleared this task, clear it once more: Airflow does not show it."
            raise AirflowFailException(record.text + (unsure if cleared is Cleared.UNSURE else ""))
        self._changed = bool(differences)
        if step is Step.REPEATED:
            self._claim.repeated_job = record.job_id
        raise stop_error(step, record, differences)

    @property
    def _answer_kwargs(self) -> dict[str, Any]:
        """What a deferred task is resumed with besides, if a person has answered in this attempt."""
        return {"answer": self.answer.as_dict()} if self.answer else {}

    def note(self, answer: Mapping[str, str] | None) -> None:
        """Keep what a person answered, for the record, the messages and the lineage."""
        self.answer, self._state.answer = Answer.stored(answer), answer

    def check_question(self, error: str) -> None:
        """
        Make sure that no question is open, when a trigger has failed.

        :param error: what Airflow says about it.
        :raises OutcomeUnknownError: a question is open; Airflow would retry the task and so send the file again.
        """
        if self._on_unknown is OnUnknown.ASK:
            # Asking again would only fail again.
            self._on_unknown = OnUnknown.FAIL
        if asked := self._pulled(ASKED):
            raise errors.OutcomeUnknownError(
                f"Airflow could not resume the task after its question: {error}",
                subject=asked,
                hint=errors.UNKNOWN_HINT,
            )

    def _read(self) -> Record | None:
        try:
            return self._state.read()
        except ValueError as e:
            raise errors.StateUnreadableError(
                f"The task's state store has something else under the key datatile_upload: {e}",
                subject=self._subject,
                hint="Nothing was sent. Look in DATATILE's processing log for the file, then delete that key.",
            ) from None

    def _compare_content(self, before: Sent, cleared: Cleared) -> list[str]:
        from datatile_provider.hooks.content import same_content
        from datatile_provider.hooks.dataset import dataset_of

        if not self._task.find_dataset(self._context, to_compare_after=cleared):
            return []
        try:
            file = dataset_of(self._task.dataset)
            same = same_content(file, before.size, before.version, before.sha256)
        except errors.InvalidInputError as e:
            # Files are often moved away after they were accepted.
            self._task.log.warning("%s", e.report("the file is not compared with the accepted one"))
            return []
        return [] if same else [f"content: before {before.name!r} of {before.size:,} bytes, now {file.location}"]

    def _upload(self, deadline: float, failures: int = 0, version: str | None = None) -> str:
        from datatile_provider.hooks.content import Sha256, sha256_of
        from datatile_provider.hooks.upload import Uploader

        self._accepted = Accepted.NO
        task, called, content = self._task, time.time(), Sha256()
        task.find_dataset(self._context)
        self._claim.answer = self.answer.choice if self.answer else None
        # The time that a function takes to return the path does not count.
        deadline += time.time() - called
        hook = DatatileHook(task.datatile_conn_id)
        uploader = Uploader(
            hook,
            task.action,
            task.target_hash,
            task.dataset,
            callback_url=task.callback_url,
            # After a backoff in the triggerer there is always one attempt, even after the deadline.
            timeout=max(deadline - time.time(), 0.001),
            resend_unknown=self._on_unknown is OnUnknown.RESEND,
            failures=failures,
            version=version,
            content=content,
        )
        server, upload = uploader.server, uploader.upload
        sent = Sent(
            server.address, upload.action.value, upload.target_hash, upload.name, upload.size, uploader.file.version
        )
        push_links(task, self._context, server)
        if task.action != Action.RELOAD.value:
            self._claim.open(uploader.settings, self._subject)

        def before() -> None:
            begun = pendulum.now("UTC").format("YYYY-MM-DD HH:mm:ss [UTC]")
            self._text = f"{upload}\nstarted {begun}\nProcessing log: {server.processing_log_url}"
            self._state.write(Phase.SENDING, self._text, sent)
            self._summary = self._summary.sending(server, upload, uploader.failures + 1, time.time())
            self._accepted = Accepted.MAYBE

        def before_end() -> None:
            found = replace(sent, sha256=content.hexdigest())
            self._claim.make(found, self._text, hook, self._on_repeat, self._on_unknown)

        def attempt() -> Job | None:
            try:
                return uploader.attempt(before, before_end)
            except errors.OutcomeUnknownError:
                if self._claim.configured and not self._claim.name:
                    # The response came before the end of the file, so that its hash was not known.
                    with contextlib.suppress(errors.DatatileError):
                        sha256_of(uploader.file)
                        before_end()
                raise

        while not (job := attempt()):
            self._before_retry(uploader, deadline)
            uploader.pause()
        self.accept(job, self._text)
        self._claim.note(LedgerPhase.ACCEPTED, job.id)
        self._summary = self._summary.accepted(server, job, time.time())
        sent = replace(sent, sha256=content.hexdigest())
        self._remember(lambda: self._state.write(Phase.ACCEPTED, self._text, sent, job.id))
        self._push_job_id(job)
        push_links(task, self._context, server, job.id)
        return self._wait(job, sent.server)

    def _before_retry(self, uploader: Uploader, deadline: float) -> None:
        if isinstance(uploader.error, errors.OutcomeUnknownError):
            return
        self._accepted = Accepted.NO
        self._state.forget()
        self._claim.release()
        delay = uploader.delay
        if self._task.deferrable and isinstance(uploader.error, _DEFERRED) and delay > MAX_BACKOFF_IN_WORKER:
            self._task.log.info("%s", uploader.error.report(f"deferred, next attempt in {math.ceil(delay)} s"))
            self._task.defer(
                trigger=DatatileRetryTrigger(until=time.time() + delay),
                method_name=self._task.retry_upload.__name__,
                kwargs={
                    "deadline": deadline,
                    "failures": uploader.failures,
                    "version": uploader.file.version,
                    **self._answer_kwargs,
                },
                timeout=timedelta(seconds=delay) + TRIGGER_TIMEOUT_MARGIN,
            )

    def _resume(self, record: Record) -> str:
        self._task.log.info("Resuming job %s, which an earlier attempt started:\n%s", record.job_id, record.text)
        job, server = Job(record.job_id), record.sent.server
        self.accept(job, record.text)
        known: dict[str, Any] = {"job": job.id, "server": server, "file": record.sent.name, "size": record.sent.size}
        self._summary = replace(self._summary, state="accepted", **known)
        hook = DatatileHook(self._task.datatile_conn_id)
        try:
            config = hook.get_conn().server
            push_links(self._task, self._context, config, job.id)
            self._summary = self._summary.at(config, job.id)
            job = hook.get_job(job.id, server=server)
            if job.state.failed:
                # One response is not enough to send the file again.
                time.sleep(CONFIRM_PAUSE)
                job = hook.get_job(job.id, server=server)
        except errors.DatatileError as e:
            # No error is a reason to send the file again.
            self._task.log.warning("%s", e.report("resuming nevertheless"))
            job = Job(record.job_id)
        if job.state.failed and job.named:
            self._task.log.warning("%s", job_error(config, job).report("sending the file again"))
            self._state.forget()
            self.job = None
            return self._upload(time.time() + self._task.accept_timeout)
        if job.state.failed and config.status_field:
            raise job_error(config, job)
        if job.state.failed:
            # The response does not name the job. That is enough to fail, and not enough to send the file again.
            raise errors.JobStatusUnclearError(
                f"A response that does not name the job has the status {job.status!r}",
                subject=f"job {job.id}",
                server_message=job.message,
                log_url=config.processing_log_url,
            )
        self._remember(lambda: self._state.advance(record.phase))
        self._push_job_id(job)
        return self._wait(job, server)

    def _wait(self, job: Job, server: str) -> str:
        task, self.job = self._task, job
        if not task.wait_for_completion:
            return self._done(job)
        self._summary.push(self._context["ti"], task.log)
        if task.deferrable:
            defer_wait(
                task,
                self._context,
                job_id=job.id,
                poll_interval=task.poll_interval,
                server=server,
                kwargs={"text": self._text, "job_id": job.id, **self._answer_kwargs},
            )
        hook = DatatileHook(task.datatile_conn_id)
        job = hook.wait_for_job(job.id, poll_interval=task.poll_interval, timeout=task.timeout, server=server)
        return self._done(job)

    def complete(self, event: Any) -> str:
        """Return the id of the job that the triggerer saw succeed."""
        # An earlier process wrote the record, and a failure changes it. The next attempt reports a damaged one.
        with contextlib.suppress(ValueError):
            self._state.read()
        job = job_of(event, self.job.id if self.job else None)
        self._task.log.info("Job %s succeeded%s", job.id, f": {job.rows:,} rows" if job.rows is not None else "")
        self._summary = self._summary.recalled(self._context["ti"], self._task.task_id)
        return self._done(job)

    def _done(self, job: Job) -> str:
        self.job = job
        if self.killed and job.id:
            # As a success it would be sent again, not resumed, when a person clears it.
            raise errors.UploadInterruptedError(f"The task was killed after the file was accepted as job {job.id}")
        try:
            self._state.advance(Phase.DONE)
        except Exception as e:  # any store's
            # As a success it would be resumed, not sent, when a person clears the task to send the next file.
            raise errors.StateNotStoredError(
                f"The file was accepted{as_job(job)}. Airflow could not store that: {e}",
                hint="The next attempt resumes the job; the file is not sent again."
                if job.id
                else "The next attempt asks again; the file is not sent before.",
            ) from e
        return self._succeeded(job)

    def _succeeded(self, job: Job) -> str:
        self.job = job
        self._summary.ended(job, time.time()).push(self._context["ti"], self._task.log)
        if self._task.outlets:
            from datatile_provider.assets.datatile import describe_outlets

            describe_outlets(self._task.outlets, self._context, job, self._task.action)
        return job.id

    def _push_job_id(self, job: Job) -> None:
        try:
            self._context["ti"].xcom_push(key="job_id", value=job.id)
        except Exception as e:  # any XCom backend's
            if not self._state.lasts:
                # The return value is an XCom too. Without it Airflow would retry, and so send the file again.
                raise
            self._task.log.error("The job id %s could not be stored as an XCom: %s", job.id, e)
        if not self._state.lasts:
            # Airflow 2 reads it from the task after any error from here on.
            self._task.retries = 0
