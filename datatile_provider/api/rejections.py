"""
What an HTTP status means for an upload and for a poll: two tables and two functions, pure.

The upload's table answers one question: is it certain that the server does not have the file? Where it is not certain,
there is no rejection, and the outcome is unknown. The vendor documents the reasons for a rejection (busy, too large,
too fast); their status codes are assumed, and the option ``status_codes`` gives those of a server that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType

from datatile_provider.api import errors
from datatile_provider.api.errors import DatatileError


@dataclass(frozen=True, slots=True)
class Rejection:
    """
    A response that certainly means "not accepted".

    :param kind: the error that it becomes.
    :param what: what happened. ``{requested}`` and ``{location}`` are filled in.
    :param hint: what to do next, with the same fields.
    """

    kind: type[DatatileError]
    what: str
    hint: str = ""


_TOKEN = Rejection(
    errors.TokenRefusedError,
    "The server rejected the API token",
    "Put the current token from DATATILE's Profile page into the connection's password. "
    "Generating a new one invalidates the one before it.",
)
_ROLE = Rejection(
    errors.RoleMissingError,
    "The token's user lacks a role or a permission for this request",
    "Ask a DATATILE administrator. Uploads need the roles Database creator and Data collector, and edit permission "
    "on the target.",
)
_NOT_FOUND = Rejection(
    errors.NotFoundError,
    "The server knows no such {requested}",
    "Check the {requested}, then the connection's host, api_path and job_path.",
)
_DESTINATION_BUSY = Rejection(
    errors.DestinationBusyError,
    "An earlier upload to the same destination is still processing",
    "The file can be sent when that upload is finished.",
)
_TOO_FAST = Rejection(errors.RateLimitedError, "Uploads come too fast")
_OVERLOADED = Rejection(errors.ServerBusyError, "The server is overloaded or down; it did not take the whole file")
_ABORTED = Rejection(errors.ServerError, "The server aborted the upload before it had the whole file")
_REJECTED = Rejection(errors.PermanentError, "The server rejected the request")
_MOVED = Rejection(
    errors.RedirectedError,
    "The server redirects to {location!r}; redirects are not followed",
    "Put the server's final address into the connection's host.",
)
_TOO_LARGE = Rejection(
    errors.FileTooLargeError,
    "The file is over the server's size limit",
    "Split the file, send a .sav compressed as .zsav, or ask the server's administrator for a higher limit.",
)

#: Trusted also when the whole file was sent: these say that the server read the request and rejected it. 409, 413, 423
#: and 429 are the documented rejections. A gateway that sends a request twice, and forwards only the second response,
#: would make a 409 false; that no gateway does so is assumed.
_TRUSTED: Mapping[int, Rejection] = {
    401: _TOKEN,
    403: _ROLE,
    404: _NOT_FOUND,
    409: _DESTINATION_BUSY,
    413: _TOO_LARGE,
    423: _DESTINATION_BUSY,
    429: _TOO_FAST,
}
#: Client errors that do not say that the request was rejected. 408: the server, or a gateway before it, did not finish
#: the request in time. 425: is meant for TLS early data, which this client never sends.
#: 499: a gateway noted that its client had left.
NOT_TRUSTED = (408, 425, 499)
_REGISTERED = {status.value for status in HTTPStatus}
#: What a code can mean, by the name in the option ``status_codes``.
_MEANINGS: Mapping[str, Rejection] = {
    "busy": _DESTINATION_BUSY,
    "too_large": _TOO_LARGE,
    "too_fast": _TOO_FAST,
    "token": _TOKEN,
    "role": _ROLE,
    "not_found": _NOT_FOUND,
    "rejected": _REJECTED,
}
MEANINGS = tuple(_MEANINGS)


def upload_rejection(
    status: int, *, whole_body_sent: bool, moved: bool, codes: Mapping[int, str] = MappingProxyType({})
) -> Rejection | None:
    """
    Return what the response to an upload means when it certainly means "not accepted"; None when it is not certain.

    :param status: the HTTP status, other than 2xx.
    :param whole_body_sent: whether the last byte was sent before the response came. Before that, no server can have the
        file.
    :param moved: whether the response is a redirect to the same path on another server.
    :param codes: the meanings of this server's own codes.
    """
    if status in codes:
        return _MEANINGS[codes[status]]
    if status in _TRUSTED:
        return _TRUSTED[status]
    if 300 <= status < 400:
        # 307 and 308 ask for the same request elsewhere. After the others, the request may have been processed.
        return _MOVED if status in (307, 308) or moved or not whole_body_sent else None
    if 400 <= status < 500 and status not in NOT_TRUSTED and status in _REGISTERED:
        return _REJECTED
    if whole_body_sent:
        # 5xx, with or without Retry-After: a gateway also responds so after its server accepted the file.
        return None
    return _OVERLOADED if status == 503 else _ABORTED


_BUSY = Rejection(errors.ServerBusyError, "The server is busy")
_POLLS_TOO_FAST = Rejection(errors.RateLimitedError, "Requests come too fast")
_POLL: Mapping[int, Rejection] = {
    401: _TOKEN,
    403: _ROLE,
    404: _NOT_FOUND,
    408: Rejection(errors.ServerError, "The server timed out"),
    409: _BUSY,
    423: _BUSY,
    425: _BUSY,
    429: _POLLS_TOO_FAST,
    503: Rejection(errors.ServerBusyError, "The server is overloaded or down"),
}
_NO_STATUS = Rejection(errors.ServerError, "The server responded with an error instead of the job's status")
#: Meanings that are about the request, not about the file. The others are of no use for a poll.
_POLL_MEANINGS: Mapping[str, Rejection] = {
    **{name: _MEANINGS[name] for name in ("token", "role", "not_found", "rejected")},
    "busy": _BUSY,
    "too_fast": _POLLS_TOO_FAST,
}


def poll_rejection(status: int, codes: Mapping[int, str] = MappingProxyType({})) -> Rejection:
    """
    Return what a status other than 2xx means for a poll. A poll changes nothing, so most are transient.

    :param codes: the meanings of this server's own codes.
    """
    if codes.get(status) in _POLL_MEANINGS:
        return _POLL_MEANINGS[codes[status]]
    if status in _POLL:
        return _POLL[status]
    if 300 <= status < 400:
        return _MOVED
    return _REJECTED if 400 <= status < 500 else _NO_STATUS


_NO_SUCH_DATABASE = Rejection(
    errors.NotFoundError,
    "The server knows no such {requested}",
    "Check the {requested}, then the connection's host, api_path, codebook_export_path and codebook_import_path.",
)
_CODEBOOK_TOO_LARGE = Rejection(
    errors.FileTooLargeError,
    "The codebook is over the server's size limit",
    "Ask the server's administrator for a higher limit.",
)
_NO_CODEBOOK = Rejection(errors.ServerError, "The server responded with an error to a request for a codebook")
_CODEBOOK: Mapping[int, Rejection] = {**_POLL, 404: _NO_SUCH_DATABASE, 413: _CODEBOOK_TOO_LARGE}
_CODEBOOK_MEANINGS: Mapping[str, Rejection] = {
    **_POLL_MEANINGS,
    "not_found": _NO_SUCH_DATABASE,
    "too_large": _CODEBOOK_TOO_LARGE,
}


def codebook_rejection(status: int, codes: Mapping[int, str] = MappingProxyType({})) -> Rejection:
    """
    Return what a status other than 2xx means for a codebook, which may be read and written again at any time (assumed).

    :param codes: the meanings of this server's own codes.
    """
    if status in codes:
        return _CODEBOOK_MEANINGS[codes[status]]
    found = _CODEBOOK.get(status) or poll_rejection(status)
    return _NO_CODEBOOK if found is _NO_STATUS else found
