"""
What can go wrong between this provider and DATATILE.

::

    DatatileError
    ├── InvalidInputError         a bad argument, file or connection; nothing was sent (also a ValueError)
    ├── Passing              the server does not hold the upload, or did not tell the job's state; try again
    │   ├── DestinationBusyError    an earlier upload to the same destination is still processed
    │   ├── RateLimitedError        uploads come too fast, or the server is overloaded
    │   ├── DatasetUnreadableError  the file could not be read to its end
    │   └── UnexpectedResponseError          an answer that says nothing about the job
    ├── Refused              the server does not hold the upload, and trying again changes nothing
    │   ├── TokenRefusedError       the token is missing, wrong, or replaced by a newer one
    │   ├── RoleMissingError        the user lacks a role, or may not edit the target
    │   ├── NotFound           no such target, job, or path
    │   ├── FileTooLargeError       over the server's limit
    │   ├── Untrusted          the server's TLS certificate is not trusted
    │   └── DatasetChangedError     the file is not the one that was sent before
    ├── OutcomeUnknownError       the server may hold the upload, and nobody here can tell
    └── JobError             the job did not succeed
        ├── JobFailedError
        ├── JobCancelledError
        └── JobTimeoutError

Every message says what happened, to which file, target or job, what the server said, and what to do.
"""

from __future__ import annotations


class DatatileError(Exception):
    """
    Base of all errors of this provider.

    :param what: what happened, to which file, target or job, as a sentence without its full stop.
    :param server_message: the server's own words, if it said any.
    :param hint: what to do next.
    :param status: the HTTP status of the answer, if there was one.
    :param retry_after: seconds that the server asked to wait before the next request.
    """

    def __init__(
        self,
        what: str,
        *,
        server_message: str = "",
        hint: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.what = what
        self.server_message = server_message
        self.hint = hint
        self.status = status
        self.retry_after = retry_after
        super().__init__(what)

    def __str__(self) -> str:
        quoted = f' The server said: "{self.server_message}".' if self.server_message else ""
        return f"{self.what}.{quoted}{' ' + self.hint if self.hint else ''}"


class InvalidInputError(DatatileError, ValueError):
    """A bad argument, file or connection; nothing was sent."""


class TransientError(DatatileError):
    """The server does not hold the upload, or did not tell the job's state; another try may do better."""


class DestinationBusyError(TransientError):
    """An earlier upload to the same destination is still being processed."""


class RateLimitedError(TransientError):
    """Uploads come too fast for the server's limit, or it is overloaded."""


class DatasetUnreadableError(TransientError):
    """The file could not be read to its end; the body was broken off, so nothing was accepted."""


class UnexpectedResponseError(TransientError):
    """An answer that says nothing about the job: a proxy's error page, an empty body, odd JSON."""


class PermanentError(DatatileError):
    """The server does not hold the upload, and sending it again would change nothing."""


class TokenRefusedError(PermanentError):
    """The token is missing, wrong, or was replaced: generating a new one at once invalidates the old."""


class RoleMissingError(PermanentError):
    """The user lacks *Database creator* or *Data collector*, or may not edit the target."""


class NotFoundError(PermanentError):
    """The server knows no such target, job or path."""


class FileTooLargeError(PermanentError):
    """The file is over the server's size limit."""


class UntrustedCertificateError(PermanentError):
    """The server's TLS certificate is not signed by a trusted authority, or is another host's."""


class DatasetChangedError(PermanentError):
    """The file changed while it was sent, or since it was first sent."""


class OutcomeUnknownError(DatatileError):
    """The whole body was sent and no clear answer came: the server may hold the upload or not."""


class JobError(DatatileError):
    """The job ended without success, or did not end in time."""


class JobFailedError(JobError):
    """The server says that the job failed."""


class JobCancelledError(JobError):
    """The server says that somebody cancelled the job."""


class JobTimeoutError(JobError):
    """The job was not finished when its deadline passed; it may go on in DATATILE."""
