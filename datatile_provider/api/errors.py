"""
What can go wrong between this provider and DATATILE.

::

    DatatileError
    ├── InvalidInput         a bad argument, file or connection; nothing was sent (also a ValueError)
    ├── Passing              the server does not hold the upload, or did not tell the job's state; try again
    │   ├── DestinationBusy    an earlier upload to the same destination is still processed
    │   ├── RateLimited        uploads come too fast, or the server is overloaded
    │   ├── DatasetUnreadable  the file could not be read to its end
    │   └── OddAnswer          an answer that says nothing about the job
    ├── Refused              the server does not hold the upload, and trying again changes nothing
    │   ├── TokenRefused       the token is missing, wrong, or replaced by a newer one
    │   ├── RoleMissing        the user lacks a role, or may not edit the target
    │   ├── NotFound           no such target, job, or path
    │   ├── FileTooLarge       over the server's limit
    │   ├── Untrusted          the server's TLS certificate is not trusted
    │   └── DatasetChanged     the file is not the one that was sent before
    ├── OutcomeUnknown       the server may hold the upload, and nobody here can tell
    └── JobError             the job did not succeed
        ├── JobFailed
        ├── JobCancelled
        └── JobTimeout

Every message says what happened, to which file, target or job, what the server said, and what to do.
"""

from __future__ import annotations


class DatatileError(Exception):
    """
    Base of all errors of this provider.

    :param what: what happened, to which file, target or job, as a sentence without its full stop.
    :param said: the server's own words, if it said any.
    :param advice: what to do next.
    :param status: the HTTP status of the answer, if there was one.
    :param retry_after: seconds that the server asked to wait before the next request.
    """

    def __init__(
        self,
        what: str,
        *,
        said: str = "",
        advice: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.what = what
        self.said = said
        self.advice = advice
        self.status = status
        self.retry_after = retry_after
        super().__init__(what)

    def __str__(self) -> str:
        quoted = f' The server said: "{self.said}".' if self.said else ""
        return f"{self.what}.{quoted}{' ' + self.advice if self.advice else ''}"


class InvalidInput(DatatileError, ValueError):
    """A bad argument, file or connection; nothing was sent."""


class Passing(DatatileError):
    """The server does not hold the upload, or did not tell the job's state; another try may do better."""


class DestinationBusy(Passing):
    """An earlier upload to the same destination is still being processed."""


class RateLimited(Passing):
    """Uploads come too fast for the server's limit, or it is overloaded."""


class DatasetUnreadable(Passing):
    """The file could not be read to its end; the body was broken off, so nothing was accepted."""


class OddAnswer(Passing):
    """An answer that says nothing about the job: a proxy's error page, an empty body, odd JSON."""


class Refused(DatatileError):
    """The server does not hold the upload, and sending it again would change nothing."""


class TokenRefused(Refused):
    """The token is missing, wrong, or was replaced: generating a new one at once invalidates the old."""


class RoleMissing(Refused):
    """The user lacks *Database creator* or *Data collector*, or may not edit the target."""


class NotFound(Refused):
    """The server knows no such target, job or path."""


class FileTooLarge(Refused):
    """The file is over the server's size limit."""


class Untrusted(Refused):
    """The server's TLS certificate is not signed by a trusted authority, or is another host's."""


class DatasetChanged(Refused):
    """The file changed while it was sent, or since it was first sent."""


class OutcomeUnknown(DatatileError):
    """The whole body was sent and no clear answer came: the server may hold the upload or not."""


class JobError(DatatileError):
    """The job ended without success, or did not end in time."""


class JobFailed(JobError):
    """The server says that the job failed."""


class JobCancelled(JobError):
    """The server says that somebody cancelled the job."""


class JobTimeout(JobError):
    """The job was not finished when its deadline passed; it may go on in DATATILE."""
