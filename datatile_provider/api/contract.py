"""
The Data Collector API as pure data and functions: requests are built and responses are read here.

DATATILE documents the upload's address, method and part name; the header ``token``; that the response to an upload
holds the id of a processing job; that an upload is rejected while an earlier one to the same destination is processing,
when the file is too large and when uploads come too fast; and that a new token invalidates the old one at once.
The rest is assumed, and each assumption is a field of :class:`Server`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from datatile_provider.api import errors, responses, states
from datatile_provider.api.rejections import Rejection, poll_rejection, upload_rejection
from datatile_provider.api.responses import Response
from datatile_provider.api.states import JobState


class Action(str, Enum):
    """What an upload does to its target (documented)."""

    CREATE = "create"
    """Makes a new database in a folder, which may not be the root."""
    RELOAD = "reload"
    """Replaces all data of a database."""
    APPEND = "append"
    """Adds to a database."""

    @classmethod
    def of(cls, value: str) -> Action:
        """
        Return the action of that name.

        :raises InvalidInputError: there is no such action.
        """
        try:
            return cls(value)
        except ValueError:
            names = ", ".join(a.value for a in cls)
            raise errors.InvalidInputError(f"There is no action {value!r}", hint=f"Use one of: {names}.") from None

    @property
    def target(self) -> str:
        """The kind of target that it is sent to."""
        return "folder" if self is Action.CREATE else "database"

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice has the same result as sending it once (idempotent)."""
        return self is Action.RELOAD


#: What a person does about an upload of unknown outcome.
UNKNOWN_HINT = (
    "Look for this upload in DATATILE's processing log.\n"
    "It is there: mark this task success. Clearing would double the data.\n"
    "It is not there, or it failed: clear this task, which sends it again."
)
_ROWS = ("rows", "row_count", "rowCount")
_DATABASES = ("database", "database_hash", "databaseHash")
_HASH = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_ID = re.compile(r"[^\s/?#<>\"'{}\[\]\\]{1,200}")


@dataclass(frozen=True, slots=True)
class Server:
    """
    A DATATILE server, and what is assumed about its API.

    :param url: scheme, host, port and base path, without a slash at the end.
    :param api_path: the API's path on the server (assumed).
    :param job_path: the path of a job's status (assumed); ``{api_path}`` and ``{job_id}`` are filled in.
    :param job_id_field: the field of the job's id in the response to an upload, with dots for nested fields; None tries
        the usual names, and a bare id.
    :param status_field: the field of the status in the response to a poll, with dots for nested fields; None tries the
        usual names.
    :param status_map: the server's own words for states, in addition to the usual ones.
    :param callback_field: the form field for the callback URL (assumed).
    :param log_url: the address of the processing log. With ``{job_id}`` in it, it leads to that job's own page.
    """

    url: str
    api_path: str = "api/v2"
    job_path: str = "{api_path}/jobs/{job_id}"
    job_id_field: str | None = None
    status_field: str | None = None
    status_map: Mapping[str, JobState] = field(default_factory=lambda: MappingProxyType({}))
    callback_field: str = "callback"
    log_url: str = ""

    @property
    def processing_log_url(self) -> str:
        """The page with all jobs: the processing log, else the server's start page."""
        return self.log_url.replace("{job_id}", "") or f"{self.url}/"

    def job_page_url(self, job_id: str) -> str:
        """Return the page of a job, or ``""`` when it is not known."""
        known = job_id and "{job_id}" in self.log_url
        return self.log_url.replace("{job_id}", quote(job_id, safe="")) if known else ""

    def page_url(self, job_id: str) -> str:
        """Return the page of a job, else the processing log."""
        return self.job_page_url(job_id) or self.processing_log_url

    @property
    def address(self) -> str:
        """The API's address. The same job id at another address is another job."""
        return f"{self.url}/{self.api_path}"

    def upload_url(self, action: Action, target_hash: str) -> str:
        """Return the address of an upload (documented)."""
        return f"{self.address}/upload/{action.value}/{target_hash}"

    def job_url(self, job_id: str) -> str:
        """Return the address of a job's status (assumed)."""
        return self._job_url.replace("{job_id}", quote(job_id, safe=""))

    def job_id_in(self, url: str) -> str:
        """Return the id of the job whose status is at an address, or ``""``."""
        before, _, after = self._job_url.partition("{job_id}")
        job_id = unquote(url[len(before) : len(url) - len(after)])
        return job_id if _is_id(job_id) and self.job_url(job_id) == url else ""

    @property
    def _job_url(self) -> str:
        return f"{self.url}/{self.job_path.replace('{api_path}', self.api_path)}"


_ENDED_BY: Mapping[type, JobState] = {
    errors.JobFailedError: JobState.FAILED,
    errors.JobCancelledError: JobState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Job:
    """
    A processing job.

    :param id: its id, as the server gave it.
    :param state: its state.
    :param status: the server's own word for the state.
    :param message: the server's own text, as the reason of a failure.
    :param details: the whole response, when it was a JSON object.
    :param named: whether the response names the job's id, so that it can't be about another job.
    """

    id: str
    state: JobState = JobState.QUEUED
    status: str = ""
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    named: bool = False

    def ended_by(self, error: errors.DatatileError) -> Job:
        """Return the job with the state that an error of a wait reports."""
        state = _ENDED_BY.get(type(error))
        return replace(self, state=state, message=error.server_message) if state else self

    @property
    def rows(self) -> int | None:
        """The number of rows that were imported, if the server reports it (assumed)."""
        found = self._detail(_ROWS)
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

    @property
    def database(self) -> str:
        """The hash of the database that was created or changed, if the server reports it (assumed)."""
        found = self._detail(_DATABASES)
        return found if isinstance(found, str) and _HASH.fullmatch(found) else ""

    @property
    def action(self) -> str:
        """The upload's action, if the server reports it (assumed)."""
        found = self._detail(("action",))
        return found if isinstance(found, str) and found in {a.value for a in Action} else ""

    def _detail(self, names: tuple[str, ...]) -> Any:
        layers = reversed(responses.layers(dict(self.details)))
        return next((layer[n] for layer in layers for n in names if layer.get(n) is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the job as plain JSON values, for an XCom or a trigger's event."""
        return {
            "id": self.id,
            "state": self.state.value,
            "status": self.status,
            "message": self.message,
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True)
class Upload:
    """
    The parts of an upload that requests and messages need.

    :param action: what the upload does.
    :param target_hash: the folder's (create) or the database's hash.
    :param name: the file's name.
    :param size: its size in bytes.
    """

    action: Action
    target_hash: str
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.action.value} of {self.name!r} ({self.size:,} bytes) to {self.target_hash}"


def check_hash(target_hash: str) -> str:
    """
    Return the hash when it can be part of a URL's path.

    :raises InvalidInputError: it is empty, or has characters other than letters, digits, ``-``, ``_``, ``.`` and ``~``.
    """
    # A template or an XCom may have given anything.
    if isinstance(target_hash, str) and _HASH.fullmatch(target_hash) and ".." not in target_hash and target_hash != ".":
        return target_hash
    found = f"{target_hash!r} is not a hash" if target_hash else "The target hash is empty"
    raise errors.InvalidInputError(
        found,
        hint="Take the hash of the folder (create) or of the database (reload, append) from DATATILE's Drive.",
    )


def check_job_id(job_id: str) -> str:
    """
    Return the job id when it can be polled.

    :raises InvalidInputError: it is empty, or can't be an id.
    """
    if isinstance(job_id, str) and _ID.fullmatch(job_id) and job_id.isprintable() and job_id not in (".", "..", "None"):
        return job_id
    found = f"{job_id!r} is not a job id" if job_id else "The job id is empty"
    raise errors.InvalidInputError(
        found,
        hint="Pass what the upload task returned: job_id=upload.output.",
    )


def check_callback_url(callback_url: str | None) -> str | None:
    """
    Return the callback URL when a server can push to it.

    :raises InvalidInputError: it is not an http or https URL.
    """
    if callback_url is None or (isinstance(callback_url, str) and is_web_address(callback_url)):
        return callback_url
    raise errors.InvalidInputError(
        f"The callback URL {callback_url!r} is not an http or https URL",
        hint="Give a full URL, or leave it out.",
    )


def is_web_address(value: str) -> bool:
    """Return whether a text is a full http or https URL."""
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port is None or parts.port > 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    plain = value.isprintable() and not any(c.isspace() for c in value)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_valid and plain


def read_upload(server: Server, upload: Upload, response: Response, *, whole_body_sent: bool = True) -> Job:
    """
    Return the job that the response to an upload names.

    :param whole_body_sent: whether the last byte of the body was sent before the response came. Before that, the server
        can't have the file.
    :raises TransientError: not accepted; another attempt may succeed.
    :raises PermanentError: not accepted; another attempt changes nothing.
    :raises OutcomeUnknownError: the server may have the upload.
    """
    url = server.upload_url(upload.action, upload.target_hash)
    location = _absolute(url, response.location)
    accepted = 200 <= response.status < 300
    job_id = server.job_id_in(location) if accepted or response.status in (301, 302, 303) else ""
    if not accepted and not job_id:
        moved = _same_path_elsewhere(url, location)
        found = upload_rejection(response.status, whole_body_sent=whole_body_sent, moved=moved)
        if found is None:
            raise unknown_outcome(
                server, upload, "The whole file was sent. The response does not show whether it was accepted", response
            )
        raise _rejected(found, response, str(upload), server, upload.action.target)
    value = responses.parse(response.body)
    job_id = (_job_id(server, value, response) if accepted else "") or job_id
    doubt = _doubt_about_acceptance(server, job_id, value, whole_body_sent=whole_body_sent)
    if doubt:
        raise unknown_outcome(server, upload, doubt, response)
    status = states.status_of(server, job_id, value)
    state = status.state if status.word and not status.unclear else JobState.QUEUED
    return Job(job_id, state, status.word, status.message, value if isinstance(value, dict) else {}, status.names_job)


def _doubt_about_acceptance(server: Server, job_id: str, value: Any, *, whole_body_sent: bool) -> str:
    """Return why a response of success does not clearly mean that the file was accepted, or ``""``."""
    job = f"with the job {job_id} " if job_id else ""
    if not whole_body_sent:
        return f"The server returned success {job}before the whole file was sent"
    if responses.inner_error(value) or responses.status_code(value):
        return f"The server returned success {job}with an error inside"
    if failure := states.reports_failure(server, job_id, value):
        return f"The server returned success {job}with the status {failure!r}"
    if job_id:
        return ""
    return "The server returned success without a job id that can be read (option job_id_field says where it is)"


def unknown_outcome(
    server: Server, upload: Upload, why: str, response: Response | None = None
) -> errors.OutcomeUnknownError:
    """
    Return the error for an upload that may or may not have been accepted.

    :param why: what happened, as a sentence without its full stop.
    :param response: the response, if there was one.
    """
    at = response.at if response else datetime.now(timezone.utc)
    return errors.OutcomeUnknownError(
        f"{why}.\nThat was at {at:%Y-%m-%d %H:%M:%S} UTC",
        subject=str(upload),
        server_message=responses.server_message(response) if response else "",
        hint=UNKNOWN_HINT,
        log_url=server.processing_log_url,
        status=response.status if response else None,
        retry_after=responses.retry_after_seconds(response) if response else None,
    )


def read_job(server: Server, job_id: str, response: Response) -> Job:
    """
    Return the job that was polled.

    :raises TransientError: the response does not show the job's status, or not clearly; poll again.
    :raises PermanentError: the server will not report it (401, 403, 404 and others).
    """
    subject = f"job {job_id}"
    if not 200 <= response.status < 300:
        raise _rejected(poll_rejection(response.status), response, subject, server, "job")
    value = responses.parse(response.body)
    status = states.status_of(server, job_id, value if isinstance(value, dict) else None)
    if status.unclear:
        raise errors.UnexpectedResponseError(
            status.unclear,
            subject=subject,
            server_message=responses.server_message(response),
            hint=status.hint,
            status=response.status,
        )
    message = status.message or _job_message(value)
    return Job(job_id, status.state, status.word, message, value, status.names_job)


def read_probe(server: Server, path: str, response: Response) -> None:
    """
    Check the response to a request for something that can't exist: a working API says so, in JSON (assumed).

    :param path: the address that was requested, for the message.
    :raises PermanentError: the token, the roles or the address are wrong.
    :raises TransientError: no usable response now.
    """
    if _is_api_error(response):
        return
    subject = f"test of {path}"
    rejection = None if 200 <= response.status < 300 else poll_rejection(response.status)
    # DATATILE would not reject the test itself, and its 404 would be JSON.
    if rejection and rejection.kind not in (errors.PermanentError, errors.NotFoundError):
        raise _rejected(rejection, response, subject, server, "path")
    raise errors.NotDatatileError(
        "The response is not one of DATATILE's API",
        subject=subject,
        server_message=responses.server_message(response),
        hint="Check the connection's host, api_path and job_path.",
        status=response.status,
    )


def check_token_is_verified(server: Server, path: str, yours: Response, made_up: Response) -> None:
    """
    Compare the responses to two tokens. DATATILE rejects a token that it did not issue, with another status (assumed).

    :param path: the address that was requested, for the message.
    :param yours: the response to the connection's token.
    :param made_up: the response to a random token.
    :raises PermanentError: they are alike, so the server does not check tokens.
    :raises TransientError: the server is too busy to check it.
    """
    subject = f"test of {path}"
    if made_up.status in (429, 503):
        raise _rejected(poll_rejection(made_up.status), made_up, subject, server, "path")
    if made_up.status == yours.status and _is_api_error(made_up):
        raise errors.NotDatatileError(
            "The server responds to a made-up token as it does to yours, so it does not check tokens",
            subject=subject,
            server_message=responses.server_message(made_up),
            hint="Check the connection's host, api_path and job_path.",
            status=made_up.status,
        )


def _is_api_error(response: Response) -> bool:
    return response.status in (400, 404, 409, 422, 429) and isinstance(responses.parse(response.body), dict)


def _job_message(value: Any) -> str:
    texts = (responses.word(layer.get(n)) for layer in reversed(responses.layers(value)) for n in ("message", "reason"))
    return next(filter(None, texts), "") or responses.inner_error(value)


def _job_id(server: Server, value: Any, response: Response) -> str:
    if server.job_id_field:
        found = responses.word(responses.dig(value, server.job_id_field))
        return found if _is_id(found) else ""
    inside_out = responses.layers(value)[::-1]
    # Beside a field that is certainly the job's id, "id" may be the folder's or the request's.
    for names in (states.SURE_JOB_IDS, states.JOB_IDS):
        for layer in inside_out:
            for name in names:
                if _is_id(found := responses.word(layer.get(name))):
                    return found
    if isinstance(value, (dict, list)):
        return ""
    bare = responses.word(value) or responses.plain_text(response)
    # A number, a hash and a UUID are ids; "OK", "queued", "0" and "E17" are not.
    return bare if _is_id(bare) and re.fullmatch(r"[1-9][\w-]*|0[\w-]+|[0-9a-fA-F-]{8,}", bare, re.ASCII) else ""


def _is_id(text: str) -> bool:
    try:
        return bool(check_job_id(text))
    except errors.InvalidInputError:
        return False


def _rejected(
    found: Rejection, response: Response, subject: str, server: Server, requested: str
) -> errors.DatatileError:
    """Return the error for a response that means "not accepted"."""
    filled = {"requested": requested, "location": response.location[:200]}
    return found.kind(
        found.what.format(**filled),
        subject=subject,
        server_message=responses.server_message(response),
        hint=found.hint.format(**filled),
        log_url=server.processing_log_url if found.kind is errors.DestinationBusyError else "",
        status=response.status,
        retry_after=responses.retry_after_seconds(response),
    )


def _absolute(url: str, location: str) -> str:
    try:
        return urljoin(url, location) if location else ""
    except ValueError:
        return ""


def _same_path_elsewhere(url: str, location: str) -> bool:
    try:
        here, there = urlsplit(url), urlsplit(location)
    except ValueError:
        return False
    return here[:2] != there[:2] and here[2:4] == there[2:4]
