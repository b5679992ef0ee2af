"""
The Data Collector API as pure data and functions: requests are built here, answers are read here.

What DATATILE documents: the upload's address, method and part name, the header ``token``, that the answer
of an upload holds the id of a processing job, that an upload is rejected while an earlier one to the same
destination runs, when the file is too large and when uploads come too fast, and that a new token at once
invalidates the old. All else is assumed, and each assumption is a field of :class:`Server`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from types import MappingProxyType
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from datatile_provider.api import answers, errors
from datatile_provider.api.answers import Answer


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

        :raises InvalidInput: there is none.
        """
        try:
            return cls(value)
        except ValueError:
            names = ", ".join(a.value for a in cls)
            raise errors.InvalidInput(f"The action {value!r} is unknown", advice=f"Use one of: {names}.") from None

    @property
    def target(self) -> str:
        """What it is sent to."""
        return "folder" if self is Action.CREATE else "database"

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice does no harm."""
        return self is Action.RELOAD


class JobState(str, Enum):
    """Where a job stands; :attr:`UNKNOWN` is a word that no table knows."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    @property
    def finished(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


# Assumed: the vendor names no state. Words are compared without case, spaces and punctuation.
_STATE_WORDS = {
    JobState.QUEUED: "queued inqueue pending waiting new created accepted submitted scheduled enqueued",
    JobState.RUNNING: "running processing inprogress started executing importing active",
    JobState.SUCCEEDED: "succeeded success successful completed complete finished done",
    JobState.FAILED: "failed failure error errored rejected invalid",
    JobState.CANCELLED: "cancelled canceled aborted terminated stopped revoked",
}
_STATES = {w: state for state, words in _STATE_WORDS.items() for w in words.split()}
_JOB_IDS = ("job_id", "jobId", "job", "id", "task_id", "taskId")
_STATUSES = ("status", "state", "job_status", "jobStatus")
_ROWS = ("rows", "row_count", "rowCount")
_DATABASES = ("database", "database_hash", "databaseHash")
_HASH = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_ID = re.compile(r"[^\s/?#<>\"'{}\[\]\\]{1,200}")


@dataclass(frozen=True, slots=True)
class Server:
    """
    A DATATILE server, and all that is assumed about how it speaks.

    :param url: scheme, host, port and base path, without a slash at the end.
    :param api_path: assumed where the API stands.
    :param job_path: assumed path of a job; ``{api_path}`` and ``{job_id}`` are filled in.
    :param job_id_field: where the upload's answer holds the job's id, with dots for nested fields;
        None looks under a few usual names, and takes a bare id.
    :param status_field: where the job's answer holds its status, likewise.
    :param status_map: the server's own words for states, added to the usual ones.
    :param callback_field: assumed form field for the callback URL.
    :param log_url: address of the processing log; ``{job_id}`` in it, if there is one, leads to that job's own page.
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
        """Where a person sees all jobs: the Drive's processing log, else the server's root."""
        return self.log_url.replace("{job_id}", "") or f"{self.url}/"

    def job_page_url(self, job_id: str) -> str:
        """Return where a person sees a job, or ``""`` when that is not known."""
        known = job_id and "{job_id}" in self.log_url
        return self.log_url.replace("{job_id}", quote(job_id, safe="")) if known else ""

    def upload_url(self, action: Action, target_hash: str) -> str:
        """Return the address of an upload (documented)."""
        return f"{self.url}/{self.api_path}/upload/{action.value}/{target_hash}"

    def job_url(self, job_id: str) -> str:
        """Return the address of a job's status (assumed)."""
        path = self.job_path.replace("{api_path}", self.api_path)
        return f"{self.url}/{path.replace('{job_id}', quote(job_id, safe=''))}"


_ENDED_BY: Mapping[type, JobState] = {
    errors.JobFailed: JobState.FAILED,
    errors.JobCancelled: JobState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Job:
    """
    A processing job.

    :param id: its id, as the server gave it.
    :param state: where it stands.
    :param status: the server's own word for that.
    :param message: the server's own text, as the reason of a failure.
    :param details: the server's answer whole, when it was a JSON object.
    """

    id: str
    state: JobState = JobState.QUEUED
    status: str = ""
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def ended_by(self, error: errors.DatatileError) -> Job:
        """Return the job as the error that ended a wait for it tells of it."""
        state = _ENDED_BY.get(type(error))
        return replace(self, state=state, message=error.said) if state else self

    @property
    def rows(self) -> int | None:
        """How many rows the file brought, if the server tells (assumed)."""
        found = self._detail(_ROWS)
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

    @property
    def database(self) -> str:
        """The hash of the database that it made or changed, if the server tells (assumed)."""
        found = self._detail(_DATABASES)
        return found if isinstance(found, str) and _HASH.fullmatch(found) else ""

    @property
    def action(self) -> str:
        """The upload's action, if the server tells (assumed)."""
        found = self._detail(("action",))
        return found if isinstance(found, str) and found in {a.value for a in Action} else ""

    def _detail(self, names: tuple[str, ...]) -> Any:
        layers = reversed(answers.layers(dict(self.details)))
        return next((layer[n] for layer in layers for n in names if layer.get(n) is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the job as plain JSON values, fit for an XCom or a trigger's event."""
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
    What is sent where, as far as requests and messages need it.

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
    Return the hash when it can stand in a path as it is.

    :raises InvalidInput: it is empty or holds anything but letters, digits, ``-``, ``_``, ``.`` and ``~``.
    """
    # A template or an XCom may have given anything.
    if isinstance(target_hash, str) and _HASH.fullmatch(target_hash) and ".." not in target_hash and target_hash != ".":
        return target_hash
    found = "is empty" if not target_hash else f"{target_hash!r} is not one"
    raise errors.InvalidInput(
        f"A target hash is needed, and what was given {found}",
        advice="Take the hash of the folder (create) or of the database (reload, append) from DATATILE's Drive.",
    )


def check_job_id(job_id: str) -> str:
    """
    Return the job id when it may be asked for.

    :raises InvalidInput: it is empty, or cannot be an id.
    """
    if isinstance(job_id, str) and _ID.fullmatch(job_id) and job_id.isprintable() and job_id not in (".", "..", "None"):
        return job_id
    found = "is empty" if not job_id else f"{job_id!r} is not one"
    raise errors.InvalidInput(
        f"A job id is needed, and what was given {found}",
        advice="Pass what the upload returned, as job_id=upload.output.",
    )


def check_callback_url(callback_url: str | None) -> str | None:
    """
    Return the callback URL when a server can push to it.

    :raises InvalidInput: it is no http or https address.
    """
    if callback_url is None or (isinstance(callback_url, str) and is_web_address(callback_url)):
        return callback_url
    raise errors.InvalidInput(
        f"The callback URL {callback_url!r} is no http or https address",
        advice="Leave it out, or give a full URL.",
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


def read_upload(server: Server, upload: Upload, answer: Answer, *, whole_body_sent: bool = True) -> Job:
    """
    Return the job that an upload was answered with.

    :param whole_body_sent: whether the last byte of the body had left when the answer came. Before that,
        the server can hold nothing.
    :raises Passing: not accepted, and may be tried again.
    :raises Refused: not accepted, for good.
    :raises OutcomeUnknown: the server may hold the upload.
    """
    if not 200 <= answer.status < 300:
        # A 503 that names no time may come from a gateway whose server took the file and then broke off.
        unclear = answer.status == 503 and whole_body_sent and answers.seconds_to_wait(answer) is None
        if not unclear:
            _raise_for_status(answer, f"The {upload}", server, upload.action.target)
        if whole_body_sent:
            raise unknown_outcome(server, upload, f"the server answered {answer.status}", answer)
        raise errors.Passing(
            f"The {upload} was broken off by the server's answer {answer.status}",
            said=answers.said(answer),
            status=answer.status,
        )
    value = answers.parse(answer.body)
    job_id = _job_id(server, value, answer)
    if inside := answers.inner_error(value):
        if job_id and whole_body_sent:
            why = f"the server answered {answer.status} with the job {job_id}, and with an error beside it"
            raise unknown_outcome(server, upload, why, answer)
        raise errors.Refused(
            f"The {upload} was answered {answer.status} with an error inside",
            said=inside,
            advice=f"See the processing log: {server.processing_log_url}",
            status=answer.status,
        )
    if not whole_body_sent:
        raise errors.Passing(
            f"The {upload} was answered {answer.status} before the whole file was sent", status=answer.status
        )
    if not job_id:
        raise unknown_outcome(
            server, upload, f"the server answered {answer.status} without a job id that can be read", answer
        )
    state, status = _state(server, value)
    if state is JobState.UNKNOWN and not status:
        state = JobState.QUEUED
    return Job(job_id, state, status, _job_message(value), value if isinstance(value, dict) else {})


def unknown_outcome(server: Server, upload: Upload, why: str, answer: Answer | None = None) -> errors.OutcomeUnknown:
    """Return the error that says that an upload may or may not have been accepted."""
    at = answer.at if answer else datetime.now(timezone.utc)
    return errors.OutcomeUnknown(
        f"It is unknown whether the server holds the {upload}: {why}, at {at:%Y-%m-%d %H:%M:%S} UTC",
        said=answers.said(answer) if answer else "",
        advice=f"Look for it in the processing log ({server.processing_log_url}) before it is sent again.",
        status=answer.status if answer else None,
    )


def read_job(server: Server, job_id: str, answer: Answer) -> Job:
    """
    Return the job that was asked for.

    :raises Passing: the answer says nothing about the job now; ask again.
    :raises Refused: the server will not tell (401, 403, 404 and the like).
    """
    if not 200 <= answer.status < 300:
        _raise_for_status(answer, f"The question for job {job_id}", server, "job")
        raise errors.Passing(
            f"The question for job {job_id} was answered {answer.status}",
            said=answers.said(answer),
            status=answer.status,
            retry_after=answers.seconds_to_wait(answer),
        )
    value = answers.parse(answer.body)
    state, status = _state(server, value)
    if not status:
        raise errors.OddAnswer(
            f"The answer for job {job_id} holds no status that can be read",
            said=answers.said(answer),
            advice="If the server is right, set status_field in the connection's extra.",
            status=answer.status,
        )
    message = _job_message(value)
    if state is JobState.SUCCEEDED and (inside := answers.inner_error(value)):
        state, message = JobState.FAILED, inside
    return Job(job_id, state, status, message, value if isinstance(value, dict) else {})


def read_probe(server: Server, path: str, answer: Answer) -> None:
    """
    Read the answer to a request for something that can't exist: an API that works says so, in JSON (assumed).

    :param path: what was asked, for the message.
    :raises Refused: the token, the roles or the address are wrong.
    :raises Passing: no usable answer now.
    """
    if _is_an_apis_no(answer):
        return
    what = f"The test of {path}"
    if answer.status != 404:
        _raise_for_status(answer, what, server, "path")
    if answer.status >= 500:
        raise errors.Passing(f"{what} was answered {answer.status}", said=answers.said(answer), status=answer.status)
    raise errors.NotFound(
        f"{what} was answered {answer.status}, not as DATATILE's API would",
        said=answers.said(answer),
        advice="Check the connection's host, api_path and job_path.",
        status=answer.status,
    )


def check_that_tokens_matter(server: Server, path: str, yours: Answer, made_up: Answer) -> None:
    """
    Compare two answers to one request. DATATILE rejects a token that it did not issue, with another status (assumed).

    :param path: what was asked, for the message.
    :param yours: the answer to the connection's token.
    :param made_up: the answer to a token that nobody issued.
    :raises Refused: they are alike, so nothing looked at the token.
    :raises Passing: the server is too busy to look at it.
    """
    if made_up.status in (429, 503):
        _raise_for_status(made_up, f"The test of {path}", server, "path")
    if made_up.status == yours.status and _is_an_apis_no(made_up):
        raise errors.Refused(
            f"Something answers at {path}, but it answers a made-up token as it answers yours ({made_up.status}), "
            "so it does not check tokens",
            said=answers.said(made_up),
            advice="This may not be DATATILE: check the connection's host, api_path and job_path.",
            status=made_up.status,
        )


def _is_an_apis_no(answer: Answer) -> bool:
    return answer.status in (400, 404, 409, 422, 429) and isinstance(answers.parse(answer.body), dict)


def _job_message(value: Any) -> str:
    texts = (answers.word(layer.get(n)) for layer in reversed(answers.layers(value)) for n in ("message", "reason"))
    return next(filter(None, texts), "") or answers.inner_error(value)


def _job_id(server: Server, value: Any, answer: Answer) -> str:
    if server.job_id_field:
        found = answers.word(answers.dig(value, server.job_id_field))
        return found if _is_id(found) else ""
    for layer in reversed(answers.layers(value)):
        for name in _JOB_IDS:
            if _is_id(found := answers.word(layer.get(name))):
                return found
    if isinstance(value, (dict, list)):
        return ""
    bare = answers.word(value) or answers.plain_text(answer)
    # A bare word must hold a digit: "OK" and "queued" are no ids.
    return bare if _is_id(bare) and re.search(r"[0-9]", bare) and bare.isascii() else ""


def _is_id(text: str) -> bool:
    try:
        return bool(check_job_id(text))
    except errors.InvalidInput:
        return False


def _state(server: Server, value: Any) -> tuple[JobState, str]:
    """Return the state that a JSON value tells, and the raw word; ``""`` when there is no word."""
    if server.status_field:
        status = answers.word(answers.dig(value, server.status_field))
        return _state_of(server, status), status
    for layer in reversed(answers.layers(value)):
        for name in _STATUSES:
            if status := answers.word(layer.get(name)):
                state = _state_of(server, status)
                # {"status": "success", "data": …} says that the request went well, not the job; with the job's id
                # beside it, {"id": …, "status": "success", "result": …}, it says so of the job.
                is_envelope = any(n in layer for n in answers.WRAPPERS) and not any(n in layer for n in _JOB_IDS)
                if state is JobState.SUCCEEDED and is_envelope:
                    state = JobState.UNKNOWN
                return state, status
    return JobState.UNKNOWN, ""


def _state_of(server: Server, status: str) -> JobState:
    own = {_folded(w): state for w, state in server.status_map.items()}
    return own.get(_folded(status)) or _STATES.get(_folded(status), JobState.UNKNOWN)


def _folded(status: str) -> str:
    return "".join(c for c in status.casefold() if c.isalnum())


def _raise_for_status(answer: Answer, what: str, server: Server, asked_for: str) -> None:
    """Raise for an answer that certainly means "not accepted"; return for those that don't."""
    status, said, wait = answer.status, answers.said(answer), answers.seconds_to_wait(answer)

    def fail(kind: type[errors.DatatileError], why: str, advice: str = "") -> NoReturn:
        raise kind(f"{what} {why} ({status})", said=said, advice=advice, status=status, retry_after=wait)

    if status in (409, 423):
        fail(
            errors.DestinationBusy,
            "was rejected: an earlier upload to the same destination is still in progress",
            f"It can be sent once that one is finished (processing log: {server.processing_log_url}).",
        )
    if status in (429, 503):
        fail(errors.RateLimited, "was rejected: uploads come too fast, or the server is overloaded")
    if status in (408, 425):
        fail(errors.Passing, "was not taken in time")
    if status == 401:
        fail(
            errors.TokenRefused,
            "was refused: the token is not valid",
            "A newly generated token at once invalidates the old one: "
            "put the newest from DATATILE's Profile page into the connection's password.",
        )
    if status == 403:
        fail(
            errors.RoleMissing,
            "was refused: the user may not do this",
            "The user needs the roles Database creator and Data collector, and edit permission on the target.",
        )
    if status == 404:
        fail(
            errors.NotFound,
            f"was refused: the server knows no such {asked_for}",
            f"Check which {asked_for} is meant, and the connection's host, api_path and job_path.",
        )
    if status == 413:
        fail(
            errors.FileTooLarge,
            "was rejected: the file is over the server's size limit",
            "Split or compress it (.zsav), or ask the server's administrator for a higher limit.",
        )
    if 300 <= status < 400:
        fail(
            errors.Refused,
            f"was redirected to {answer.location[:200]!r}, and redirects are not followed",
            "Put the server's final address into the connection's host.",
        )
    if status < 200 or 400 <= status < 500:
        fail(errors.Refused, "was refused")
