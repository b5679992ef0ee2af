"""What an upload task does after a person has answered its question."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.models import Job, OnRepeat, OnUnknown
from datatile_provider.api.polling import job_error
from datatile_provider.failure_policy import Accepted
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.links.datatile import push_links
from datatile_provider.operators.attempt import UploadAttempt
from datatile_provider.operators.question import ASKED, SENDS, Answer, Choice, Question
from datatile_provider.operators.upload_state import Phase, Record


class AnsweredAttempt(UploadAttempt):
    """The rest of an attempt that has asked a person."""

    def answered(self, question: Question, event: Any) -> str:
        """Do what a person answered about an upload of unknown outcome, and return the job's id."""
        self._accepted, self._text = Accepted.ASKED, question.text
        self._summary = self._summary.recalled(self._context["ti"], self._task.task_id)
        record = self._read()
        self._read_conf()
        with contextlib.suppress(Exception):  # any XCom backend's; if a trigger fails later, the task then fails too
            self._context["ti"].xcom_push(key=ASKED, value="")
        answer = Answer.of(event)
        self.note(answer.as_dict())
        job = f"\njob {answer.job_id}" if answer.job_id else ""
        self._task.log.info("%s%s\n%s", answer, job, question.text)
        if answer.choice in SENDS:
            return self._upload(time.time() + self._task.accept_timeout, version=question.file_version or None)
        if answer.choice is Choice.FAIL:
            self._on_unknown, self._on_repeat = OnUnknown.FAIL, OnRepeat.FAIL
            raise question.failure
        if question.changed:
            raise errors.TaskChangedError(
                f"{answer}.\nThe task has changed since that upload",
                subject=question.text,
                hint="The task's upload of now was not sent.\nTo send it, clear this task.",
            )
        return self._confirmed(answer, question, record)

    def _confirmed(self, answer: Answer, question: Question, record: Record | None) -> str:
        """Continue with the upload that a person has confirmed."""
        job = Job(answer.job_id or question.job_id)
        hook = DatatileHook(self._task.datatile_conn_id)
        if job.id:
            try:
                job = hook.get_job(job.id, server=question.server or None)
            except errors.NotFoundError as e:
                raise errors.AnswerInvalidError(
                    f"{answer}. The server has no job {job.id}", subject=question.text, server_message=e.server_message
                ) from None
            except errors.DatatileError as e:
                self._task.log.warning("%s", e.report("continuing with that job nevertheless"))
        self.accept(job, question.text)
        if question.entry:
            self._claim.open(hook.get_conn(), self._subject)
            self._claim.confirm(question.entry, job.id)
        self._summary = replace(self._summary, state="accepted", code="", message="", job=job.id)
        if not job.id:
            self._push_job_id(job)
            return self._done(job)
        if record:
            self._remember(lambda: self._state.write(Phase.ACCEPTED, question.text, record.sent, job.id))
        self._push_job_id(job)
        config = hook.get_conn().server
        push_links(self._task, self._context, config, job.id)
        self._summary = self._summary.at(config, job.id)
        if job.state.failed:
            raise job_error(config, job)
        return self._wait(job, question.server)
