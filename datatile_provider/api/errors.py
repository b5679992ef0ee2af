"""
The errors of this provider.

::

    DatatileError
    ├── InvalidInputError
    ├── TransientError
    │   ├── ServerUnreachableError, ServerError, ServerBusyError, RateLimitedError, DestinationBusyError
    │   ├── UnexpectedResponseError, DatasetUnreadableError
    │   └── ConnectionUnreadableError, StateNotStoredError, LedgerUnusableError
    ├── PermanentError
    │   ├── TokenRefusedError, RoleMissingError
    │   ├── NotFoundError
    │   │   └── NotDatatileError
    │   ├── FileTooLargeError, RedirectedError, UntrustedCertificateError
    │   ├── ConnectionChangedError, DatasetChangedError, TaskChangedError, AlreadyUploadedError
    │   ├── RepeatedUploadError, LedgerDamagedError
    │   ├── SurveyUnreadableError, WaveRejectedError
    │   └── StateUnreadableError, AnswerInvalidError
    ├── OutcomeUnknownError
    ├── UploadInterruptedError
    └── JobError
        ├── JobFailedError, JobStatusUnclearError, JobCancelledError
        └── JobTimeoutError
            └── ExecutionTimeoutError

An error's text is a few short lines: the verdict, what it is about, what happened, the server's message, what to do
next, and the section of ``docs/troubleshooting.md`` about it. Airflow's log view does not wrap lines.
"""

from __future__ import annotations

import textwrap
from typing import ClassVar, TypeVar

_Error = TypeVar("_Error", bound="DatatileError")

#: Characters of a line. Airflow's log view shows about this many of an exception in a window of 1280 pixels.
WIDTH = 72


class DatatileError(Exception):
    """
    Base of all errors of this provider.

    :param what: what happened, as a sentence without its full stop.
    :param subject: the upload or the job that it is about.
    :param server_message: the server's own words, if there are any.
    :param hint: what to do next; its line breaks are kept.
    :param log_url: where a person sees the upload or the job in DATATILE.
    :param status: the HTTP status of the response, if there was one.
    :param retry_after: seconds that the server asked to wait before the next request.
    """

    #: The stable name of this kind of error: the verdict, the anchor in ``docs/troubleshooting.md``, and the name in a
    #: trigger's event. A kind without one has its parent's.
    code: ClassVar[str] = "error"

    def __init_subclass__(cls, code: str = "") -> None:
        super().__init_subclass__()
        if code:
            cls.code = code
            BY_CODE[code] = cls

    def __init__(
        self,
        what: str,
        *,
        subject: str = "",
        server_message: str = "",
        hint: str = "",
        log_url: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.what = what
        self.subject = subject
        self.server_message = server_message
        self.hint = hint
        self.log_url = log_url
        self.status = status
        self.retry_after = retry_after
        super().__init__(what)

    def __str__(self) -> str:
        return self.report()

    def report(self, then: str = "", *, subject: str = "", steps: str = "") -> str:
        """
        Return the text as short lines.

        :param then: what happens next without a person, as "next attempt in 8 s".
        :param subject: what the error is about, for a caller that knows more than the error.
        :param steps: what a person can do next, after the hint.
        """
        lines = [f"{self.title}: {then}" if then else self.title]
        for line in "\n".join(self._paragraphs(subject or self.subject, steps)).split("\n"):
            lines += textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
        return "\n".join([*lines, f"Help: docs/troubleshooting.md#{self.code}"])

    @property
    def title(self) -> str:
        """The verdict, with the HTTP status if there was a response."""
        verdict = self.code.replace("-", " ").upper()
        return f"{verdict} ({self.status})" if self.status else verdict

    @property
    def paragraph(self) -> str:
        """The text on one line, where line breaks are not shown."""
        about = f" ({self.subject})" if self.subject else ""
        return " ".join(f"{self.title}: {' '.join(self._paragraphs())}{about}".split())

    def _paragraphs(self, subject: str = "", steps: str = "") -> list[str]:
        parts = (
            subject,
            f"{self.what}.",
            f'The server said: "{self.server_message}"' if self.server_message else "",
            self.hint,
            steps,
            f"Processing log: {self.log_url}" if self.log_url else "",
        )
        return [part for part in parts if part]

    def hinting(self: _Error, hint: str) -> _Error:
        """Return a new error with another hint."""
        return type(self)(self.what, **{**{name: getattr(self, name) for name in _PARTS}, "hint": hint})

    def extended(self: _Error, sentence: str) -> _Error:
        """Return a new error that says one more thing about what happened, as a sentence without its full stop."""
        return type(self)(f"{self.what}.\n{sentence}", **{name: getattr(self, name) for name in _PARTS})


_PARTS = ("subject", "server_message", "hint", "log_url", "status", "retry_after")
#: Every kind of error by its code.
BY_CODE = {DatatileError.code: DatatileError}


class InvalidInputError(DatatileError, ValueError, code="invalid-input"):
    """A bad argument, file or connection; nothing was sent."""


class TransientError(DatatileError):
    """The server does not have the upload, or did not report the job's status; another attempt may succeed."""


class ServerUnreachableError(TransientError, code="server-unreachable"):
    """The server could not be connected to, or did not respond."""


class ServerError(TransientError, code="server-error"):
    """The server, or a gateway in front of it, responded with an HTTP error of its own."""


class ServerBusyError(TransientError, code="server-busy"):
    """The server is overloaded or down."""


class RateLimitedError(TransientError, code="rate-limited"):
    """Requests come too fast for the server's limit."""


class DestinationBusyError(TransientError, code="destination-busy"):
    """An earlier upload to the same destination is still being processed."""


class UnexpectedResponseError(TransientError, code="unexpected-response"):
    """A response that does not show the job's status: a proxy's error page, an empty body, other JSON."""


class DatasetUnreadableError(TransientError, code="file-unreadable"):
    """The file could not be read to its end; the request was aborted, so nothing was accepted."""


class ConnectionUnreadableError(TransientError, code="connection-unreadable"):
    """Airflow could not return the connection. A missing one looks the same as an API server that is down."""


class StateNotStoredError(TransientError, code="state-not-stored"):
    """Airflow could not store the state of an upload that succeeded; the next attempt resumes it."""


class LedgerUnusableError(TransientError, code="ledger-unusable"):
    """The ledger is away, so it is not known whether the same content went to the target before."""


class PermanentError(DatatileError, code="rejected"):
    """The server does not have the upload, and sending it again would change nothing."""


class TokenRefusedError(PermanentError, code="token-refused"):
    """The token is missing, wrong, or replaced: generating a new token invalidates the old one (documented)."""


class RoleMissingError(PermanentError, code="role-missing"):
    """The user lacks *Database creator* or *Data collector*, or may not edit the target."""


class NotFoundError(PermanentError, code="not-found"):
    """The server knows no such target, job or path."""


class NotDatatileError(NotFoundError, code="not-datatile"):
    """What responds at the connection's address does not behave as DATATILE's API."""


class FileTooLargeError(PermanentError, code="file-too-large"):
    """The file is over the server's size limit."""


class RedirectedError(PermanentError, code="redirected"):
    """The server is at another address; redirects are not followed."""


class UntrustedCertificateError(PermanentError, code="certificate-not-trusted"):
    """The server's TLS certificate is not signed by a trusted authority, or belongs to another host."""


class ConnectionChangedError(PermanentError, code="connection-changed"):
    """The Airflow connection points to another server than the one that the job is on."""


class DatasetChangedError(PermanentError, code="file-changed"):
    """The file changed while it was sent, or since its upload began."""


class TaskChangedError(PermanentError, code="task-changed"):
    """An earlier attempt uploaded something else than the task would upload now; nothing was sent."""


class AlreadyUploadedError(PermanentError, code="already-uploaded"):
    """An earlier attempt succeeded, and Airflow does not show whether the task was cleared since; nothing was sent."""


class RepeatedUploadError(PermanentError, code="repeated-upload"):
    """The same content went to the same target before. The request was aborted, so nothing was accepted."""


class LedgerDamagedError(PermanentError, code="ledger-damaged"):
    """A file of the ledger can't be read, so it is not known whether the same content went to the target before."""


class SurveyUnreadableError(PermanentError, code="survey-unreadable"):
    """A survey file can't be read for a check."""


class WaveRejectedError(PermanentError, code="wave-rejected"):
    """A check has found errors in a wave, before it was uploaded."""


class StateUnreadableError(PermanentError, code="state-unreadable"):
    """The task's stored state is not that of an upload; nothing was sent."""


class AnswerInvalidError(PermanentError, code="answer-invalid"):
    """A person's answer about an upload of unknown outcome can't be used."""


#: What a person does about an upload of unknown outcome.
UNKNOWN_HINT = (
    "Look for this upload in DATATILE's processing log.\n"
    "It is there: mark this task success. Clearing would double the data.\n"
    "It is not there, or it failed: clear this task, which sends it again."
)


class OutcomeUnknownError(DatatileError, code="outcome-unknown"):
    """The whole file was sent and no clear response came: the server may have it or not."""


class UploadInterruptedError(DatatileError, code="interrupted-after-upload"):
    """The task was ended after the server had accepted the file."""


class JobError(DatatileError):
    """The job did not succeed, or did not finish in time."""


class JobFailedError(JobError, code="job-failed"):
    """The server reports that the job failed."""


class JobStatusUnclearError(JobError, code="job-status-unclear"):
    """The job may have failed: the response does not name the job."""


class JobCancelledError(JobError, code="job-cancelled"):
    """The server reports that the job was cancelled."""


class JobTimeoutError(JobError, code="job-timed-out"):
    """The job was not finished within the timeout; it may continue in DATATILE."""


class ExecutionTimeoutError(JobTimeoutError, code="execution-timeout"):
    """The task's ``execution_timeout`` passed before the job was finished."""
