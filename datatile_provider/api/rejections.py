"""
What an HTTP status means for an upload and for a poll: two tables and two functions, pure.

An upload's table answers one question: is it certain that the server does not hold the file? Where it is not, there is
no rejection, and the outcome is unknown. Of the vendor's rejections only the reasons are documented (busy, too large,
too fast); their codes are assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from datatile_provider.api import errors
from datatile_provider.api.errors import DatatileError


@dataclass(frozen=True, slots=True)
class Rejection:
    """
    A response that certainly means "not accepted".

    :param kind: the error that it becomes.
    :param what: what happened, after the name of the upload or the poll.
    :param hint: what to do next. ``{log}``, ``{asked_for}`` and ``{location}`` are filled in.
    """

    kind: type[DatatileError]
    what: str
    hint: str = ""


_TOKEN = Rejection(
    errors.TokenRefusedError,
    "was refused: the token is not valid",
    "A newly generated token at once invalidates the old one: "
    "put the newest from DATATILE's Profile page into the connection's password.",
)
_ROLE = Rejection(
    errors.RoleMissingError,
    "was refused: the user may not do this",
    "The user needs the roles Database creator and Data collector, and edit permission on the target.",
)
_NOT_FOUND = Rejection(
    errors.NotFoundError,
    "was refused: the server knows no such {asked_for}",
    "Check which {asked_for} is meant, and the connection's host, api_path and job_path.",
)
_BUSY = Rejection(
    errors.DestinationBusyError,
    "was rejected: an earlier upload to the same destination is still in progress",
    "It can be sent once that one is finished (processing log: {log}).",
)
_TOO_FAST = Rejection(errors.RateLimitedError, "was rejected: uploads come too fast")
_OVERLOADED = Rejection(errors.RateLimitedError, "was broken off: the server is overloaded or down")
_BROKEN_OFF = Rejection(errors.TransientError, "was broken off by the server's response")
_REFUSED = Rejection(errors.PermanentError, "was refused")
_MOVED = Rejection(
    errors.PermanentError,
    "was redirected to {location!r}, and redirects are not followed",
    "Put the server's final address into the connection's host.",
)
_TOO_LARGE = Rejection(
    errors.FileTooLargeError,
    "was rejected: the file is over the server's size limit",
    "Split or compress it (.zsav), or ask the server's administrator for a higher limit.",
)

#: Believed also when the whole file was sent: these say that the request was looked at and turned down. 409, 423, 429
#: and 413 are the documented rejections. A gateway that sends a request twice by itself, and passes on only the second
#: response, would make a 409 untrue; that it does not is assumed.
_BELIEVED: Mapping[int, Rejection] = {
    401: _TOKEN,
    403: _ROLE,
    404: _NOT_FOUND,
    409: _BUSY,
    413: _TOO_LARGE,
    423: _BUSY,
    429: _TOO_FAST,
}
#: Client errors that do not say that the request was turned down. 408: the server, or a gateway before it, was not done
#: with the request in time. 425: is meant for TLS early data, which no client here sends.
_DOUBTED = (408, 425)
_REGISTERED = {status.value for status in HTTPStatus}


def upload_rejection(status: int, *, whole_body_sent: bool, moved: bool) -> Rejection | None:
    """
    Return what the response to an upload means when it certainly means "not accepted"; None when it may be held.

    :param status: the HTTP status, other than 2xx.
    :param whole_body_sent: whether the last byte had left when the response came. Before that, no server can hold the
        file.
    :param moved: whether the response is a redirect to the same path on another server.
    """
    if status in _BELIEVED:
        return _BELIEVED[status]
    if 300 <= status < 400:
        # 307 and 308 ask for the same request elsewhere. After the others, the request may have been processed.
        return _MOVED if status in (307, 308) or moved or not whole_body_sent else None
    if 400 <= status < 500 and status not in _DOUBTED and status in _REGISTERED:
        return _REFUSED
    if whole_body_sent:
        # 5xx, Retry-After or not: a gateway says so too when its server took the file and then broke off.
        return None
    return _OVERLOADED if status == 503 else _BROKEN_OFF


_POLL: Mapping[int, Rejection] = {
    401: _TOKEN,
    403: _ROLE,
    404: _NOT_FOUND,
    408: Rejection(errors.TransientError, "was not answered in time"),
    409: Rejection(errors.TransientError, "was rejected: the server is busy"),
    423: Rejection(errors.TransientError, "was rejected: the server is busy"),
    425: Rejection(errors.TransientError, "was rejected: the server is busy"),
    429: Rejection(errors.RateLimitedError, "was rejected: requests come too fast"),
    503: Rejection(errors.RateLimitedError, "was rejected: the server is overloaded or down"),
}
_NO_ANSWER = Rejection(errors.TransientError, "got no usable response")


def poll_rejection(status: int) -> Rejection:
    """
    Return what a response other than 2xx means for a poll. A poll does no harm, so all but a refusal is transient.

    :param status: the HTTP status.
    """
    if status in _POLL:
        return _POLL[status]
    if 300 <= status < 400:
        return _MOVED
    return _REFUSED if 400 <= status < 500 else _NO_ANSWER
