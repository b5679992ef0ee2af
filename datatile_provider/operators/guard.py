"""Applies the failure policy to an upload task: what it raises, and what it stores for the next attempt."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from datatile_provider.api import errors
from datatile_provider.api.models import Action, Job, OnRepeat, OnUnknown
from datatile_provider.failure_policy import (
    Accepted,
    Airflow,
    Failure,
    Rule,
    StateChange,
    decide,
    failure_of,
    is_retried,
)
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.ledger.entry import Phase as LedgerPhase
from datatile_provider.operators.claim import Claim, owner_of
from datatile_provider.operators.question import Answer, Question
from datatile_provider.operators.repeats import unknown_hint
from datatile_provider.operators.upload_state import Phase, UploadState
from datatile_provider.summary import Summary
from datatile_provider.triggers.datatile import ended
from datatile_provider.version_compat import cannot_ask

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from typing_extensions import Self

    from datatile_provider.operators.datatile import DatatileUploadOperator


#: The key of a DAG run's conf that replaces the task's ``on_repeat``.
ON_REPEAT_CONF = "datatile_on_repeat"


def as_job(job: Job | None) -> str:
    """Return " as job …", or ``""`` if its id is not known."""
    return f" as job {job.id}" if job and job.id else ""


class GuardedUpload:
    """
    What an upload task knows about its file and its job. An error in its ``with`` block becomes what the table of
    ``failure_policy`` says about it.

    :param show_cause: show the traceback of the original error too.
    """

    def __init__(self, task: DatatileUploadOperator, context: Context, *, show_cause: bool = False) -> None:
        self._show_cause = show_cause
        self.job: Job | None = None
        self.killed = False
        self._task, self._context = task, context
        self._state = UploadState(context, task.retries or 0)
        self.answer: Answer | None = None  #: What a person has answered in this attempt.
        self._changed = False
        self._accepted = Accepted.NO
        self._text = ""
        self._on_unknown = OnUnknown.RESEND if task.action == Action.RELOAD.value else task.on_unknown
        self._on_repeat = OnRepeat.of(task.on_repeat, task.action)
        self._claim = Claim(owner_of(context), task.log)
        self._summary = Summary("upload", action=task.action, target=task.target_hash, file=task.file_name)

    @property
    def _subject(self) -> str:
        return f"{self._task.action} of {self._task.file_name!r} to {self._task.target_hash}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        found = self._decide(error) if error else None
        if found is not error:
            # A chained traceback would push the text out of view.
            raise found from (error if self._show_cause else None)  # type: ignore[misc]  # not None here

    def _decide(self, error: BaseException) -> BaseException:
        if isinstance(error, errors.DatatileError):
            failure = failure_of(error)
        elif is_retried(error):
            failure = Failure.OUTSIDE
        else:
            return error
        rule = self._rule(failure)
        if failure is Failure.UNKNOWN and self._accepted is not Accepted.YES:
            self._claim.note(LedgerPhase.UNKNOWN)
        if rule.airflow is Airflow.ASKS and isinstance(error, errors.DatatileError):
            if rule.change is StateChange.FORGET:
                self._state.forget()
                self._accepted = Accepted.NO
            if waits := self._ask(error):
                return waits
            rule = self._rule(failure, can_ask=False)
        if rule.airflow is Airflow.AS_RAISED:
            return error
        subject = ""
        if not isinstance(error, errors.DatatileError):
            error = self._ended_by(error)
        elif self._accepted is Accepted.YES:
            # A job's error names the job alone.
            subject = f"{self._subject}\njob {self.job.id}" if self.job and self.job.id else self._subject
        if self._claim.configured and error.hint == errors.UNKNOWN_HINT:
            error = error.hinting(unknown_hint(self._claim.name, can_ask=not cannot_ask()))
        if self.answer and failure is Failure.UNKNOWN:
            error = error.extended(str(self.answer))
        self.job = self.job and self.job.ended_by(error)
        self._push_failure(error)
        text = error.report(subject=subject, steps=rule.next_steps(error))
        if failure is Failure.JOB or (rule.change is StateChange.FORGET and failure is not Failure.UNKNOWN):
            self._claim.release()
        if rule.change is StateChange.FORGET:
            self._state.forget()
        elif rule.change is StateChange.REPORTED:
            self._remember(lambda: self._state.advance(Phase.REPORTED, text))
        return rule.error(text)

    def _rule(self, failure: Failure, *, can_ask: bool = True) -> Rule:
        on_unknown = self._on_unknown
        if failure is Failure.REPEATED:
            on_unknown = OnUnknown.ASK if self._on_repeat is OnRepeat.ASK else OnUnknown.FAIL
        elif self._claim.asks:
            on_unknown = OnUnknown.ASK
        if on_unknown is OnUnknown.ASK and not can_ask:
            on_unknown = OnUnknown.FAIL
        return decide(failure, self._accepted, store=self._state.lasts, on_unknown=on_unknown)

    def _ask(self, error: errors.DatatileError) -> BaseException | None:
        """Return the exception with which the task waits for a person's answer; None if it can't ask."""
        task, log = self._task, self._task.log
        if reason := cannot_ask():
            log.warning("The task fails instead of asking: %s", reason)
            return None
        known, log_url = self._state.known, error.log_url
        server = known.sent.server if known else ""
        # Without a readable connection, the question has no link.
        with contextlib.suppress(errors.DatatileError):
            config = DatatileHook(task.datatile_conn_id).get_conn().server
            server, log_url = server or config.address, log_url or config.processing_log_url
        question = Question(
            self._text or error.subject or self._subject,
            server,
            # An earlier attempt's file may have been written anew, as by the function of a decorated task.
            known.sent.version if known and self._accepted is Accepted.MAYBE else "",
            self._changed,
            {**ended(error), "log_url": log_url},
            isinstance(error, errors.RepeatedUploadError),
            self._claim.repeated_job,
            self._claim.name,
        )
        try:
            waits = question.file(task, self._context)
        except BaseException as e:  # any error of Airflow, or of a standard provider that is too old
            if not self._may_hide(e):
                raise
            log.error("The task fails, because Airflow could not ask: %s", e)
            return None
        asked = errors.OutcomeUnknownError(
            error.what,
            subject=question.text,
            server_message=error.server_message,
            hint="The question is under Required Actions. Until it is answered, nothing is sent.",
            status=error.status,
        )
        log.warning("%s", asked.report("asking a person"))
        self._push_failure(error)
        task.question = f"{question.subject}\n\n{question.body}"
        for notifier in task.ask_notifiers:
            try:
                notifier(self._context)
            except BaseException as e:  # any notifier's; the question is filed
                if not self._may_hide(e):
                    raise
                log.error("A notifier about the question failed: %s", e)
        return waits

    def _may_hide(self, error: BaseException) -> bool:
        """Return whether an error around the question must not end the task: Airflow might send the file again."""
        return isinstance(error, Exception) or (is_retried(error) and not self._state.lasts)

    def _ended_by(self, error: BaseException) -> errors.DatatileError:
        """Return the error for an upload that was ended from outside."""
        name = "execution_timeout" if isinstance(error, AirflowTaskTimeout) else f"{type(error).__name__} ({error})"
        subject = self._text or self._subject
        if self._accepted is Accepted.YES:
            return errors.UploadInterruptedError(
                f"The file was accepted{as_job(self.job)}, then {name} ended the task", subject=subject
            )
        what = f"{name} ended the task while the file was sent"
        if self._accepted is Accepted.ASKED:
            what = f"{name} ended the task after a person had answered"
        return errors.OutcomeUnknownError(what, subject=subject, hint=errors.UNKNOWN_HINT)

    def _push_failure(self, error: errors.DatatileError) -> None:
        ti = self._context["ti"]
        try:
            known = self._summary if self._summary.sent_at else self._summary.recalled(ti, self._task.task_id)
            known.failed(error, self.job, time.time()).push(ti, self._task.log)
        except BaseException as e:
            # Raised instead of the task's own error, it would make Airflow retry, and so maybe send the file again.
            if not is_retried(e):
                raise

    def accept(self, job: Job | None, text: str = "") -> None:
        """Note that the server has accepted the file, with its job, if it is known, and a text about the upload."""
        self._accepted, self.job, self._text = Accepted.YES, job, text

    def accepted_job_id(self) -> str:
        """
        Return the id of the job that this attempt has pushed as an XCom in an earlier process, or ``""``.

        :raises OutcomeUnknownError: it can't be read, and Airflow would retry the task and so send the file again.
        """
        job_id = self._pulled("job_id")
        if job_id:
            self.accept(Job(job_id), self._text)
        return job_id

    def _pulled(self, key: str) -> str:
        """
        Return what this attempt has pushed as an XCom in an earlier process, or ``""``.

        :raises OutcomeUnknownError: as for :meth:`accepted_job_id`.
        """
        ti = self._context["ti"]
        try:
            return ti.xcom_pull(task_ids=self._task.task_id, key=key, map_indexes=ti.map_index) or ""
        except Exception as e:  # any XCom backend's
            if self._state.lasts:
                raise
            raise errors.OutcomeUnknownError(
                f"The trigger failed, and the job id could not be read: {e}",
                subject=self._subject,
                hint=errors.UNKNOWN_HINT,
            ) from None

    def recall_job(self) -> None:
        """Note the job that this attempt has pushed as an XCom, if any; nothing if it can't be read."""
        with contextlib.suppress(Exception):  # any XCom backend's
            self.accepted_job_id()

    def _read_conf(self) -> None:
        """
        Let the DAG run's conf decide about a repeat.

        :raises InvalidInputError: it has another value than those of ``on_repeat``.
        """
        conf = getattr(self._context.get("dag_run"), "conf", None) or {}
        self._on_repeat = OnRepeat.of(conf.get(ON_REPEAT_CONF, self._task.on_repeat), self._task.action)

    def _remember(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as e:  # any store's; the server has the file, so the task must not fail as if it had not
            self._task.log.error("Airflow could not store the state of the upload: %s", e)
