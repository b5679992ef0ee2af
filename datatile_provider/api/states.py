"""
The state of a job, and which status in a response is the job's: pure, and total over any JSON value.

A response may hold several statuses: the request's (JSend's ``"status": "success"``), another job's, a database's. A
status counts only if the response shows that it is the job's. An unclear status is never final: polling goes on, and
the log names the connection option that makes it clear.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from datatile_provider.api import responses
from datatile_provider.api.responses import WRAPPERS, dig, word

if TYPE_CHECKING:
    from datatile_provider.api.models import ServerConfig


class JobState(str, Enum):
    """The state of a job. :attr:`UNKNOWN` stands for a status that no table lists."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self is JobState.SUCCEEDED or self.failed

    @property
    def failed(self) -> bool:
        """Whether the job ended without success."""
        return self in (JobState.FAILED, JobState.CANCELLED)


# Assumed: the vendor does not document the states. Words are compared without case, spaces and punctuation.
_STATE_WORDS = {
    JobState.QUEUED: "queued inqueue pending waiting new created accepted submitted scheduled enqueued",
    JobState.RUNNING: "running processing inprogress started executing importing active",
    JobState.SUCCEEDED: "succeeded success successful completed complete finished done",
    JobState.FAILED: "failed failure fail error errored rejected invalid ko nok",
    JobState.CANCELLED: "cancelled canceled aborted terminated stopped revoked",
}
_STATES = {w: state for state, words in _STATE_WORDS.items() for w in words.split()}
#: Words that APIs also use for the status of the request itself, as JSend does.
_SUCCESS_OF_REQUEST = ("success", "successful")
_FAILURE_OF_REQUEST = ("error", "errored", "fail")
#: Keys that always hold a job's id. The others may also hold the id of a folder or of a row.
SURE_JOB_IDS = ("job_id", "jobId")
JOB_IDS = (*SURE_JOB_IDS, "job", "id", "task_id", "taskId")
_STATUSES = ("status", "state", "job_status", "jobStatus", "job_state", "jobState")
_TEXTS = ("message", "reason", "detail", "details", "description", "title", "name", "filename")
_PERCENTAGES = ("progress", "percent", "percentage")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
# The earliest state first. An unknown word may mean "running".
_PROGRESS = (JobState.QUEUED, JobState.RUNNING, JobState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Status:
    """
    The status of a job, read from a response.

    :param state: the job's state.
    :param word: the server's own word for it; ``""`` if the response has none.
    :param message: the message beside it.
    :param names_job: whether the job's id is beside it, so that it cannot be about anything else.
    :param unclear: why it may not be the job's status, as a sentence without its full stop; ``""`` if it is clear.
    :param hint: the connection option that makes it clear.
    """

    state: JobState = JobState.UNKNOWN
    word: str = ""
    message: str = ""
    names_job: bool = False
    unclear: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class _Claim:
    """
    A status in a response that may be the job's.

    :param path: its place, as a value for ``status_field``; ``""`` inside a list.
    :param word: the status.
    :param state: the state that it stands for.
    :param layer: the object that holds it.
    :param own: whether that object has the job's id.
    :param near: whether that object is the response itself, or wrapped in it by ``data``, ``result`` …
    """

    path: str
    word: str
    state: JobState
    layer: Mapping[str, Any]
    own: bool
    near: bool

    def is_one_of(self, words: tuple[str, ...]) -> bool:
        return folded(self.word) in words


def status_of(server: ServerConfig, job_id: str, value: Any) -> Status:
    """
    Return the status of a job, read from a response.

    :param server: the server, with the connection's ``status_field``, ``status_map`` and ``job_id_field``.
    :param job_id: the id of the job that was polled.
    :param value: the response's JSON value.
    """
    if server.status_field:
        return _configured(server, job_id, value)
    claims = list(_claims(server, job_id, value))
    found = [claim for claim in claims if claim.own] or _unwrapped(claims, value)
    if not found:
        return Status(unclear=_no_status(job_id, value), hint=_hint(claims))
    # {"status": "success", "state": "failed"}: beside another status, "success" is the request's.
    found = [c for c in found if not c.is_one_of(_SUCCESS_OF_REQUEST)] or found
    claim = min(found, key=lambda c: (_progress(c.state), -c.path.count(".")))
    final = [c for c in found if c.state.finished]
    if not claim.state.finished and not final:
        return Status(claim.state, claim.word, _text(claim.layer), claim.own)
    if not claim.state.finished:
        claim = final[0]
    unclear = _ambiguity(server, claim, found, claims, value)
    return Status(claim.state, claim.word, _text(claim.layer), claim.own, unclear, _hint([claim]) if unclear else "")


def reports_failure(server: ServerConfig, job_id: str, value: Any) -> str:
    """Return the status by which a response reports a failed or cancelled job or request, or ``""``."""
    found = [claim.word for claim in _claims(server, job_id, value) if claim.own or claim.near]
    if server.status_field:
        found.append(word(dig(value, server.status_field)))
    return next((w for w in found if w and state_of(server, w) in (JobState.FAILED, JobState.CANCELLED)), "")


def state_of(server: ServerConfig, status: str) -> JobState:
    """Return the state that a status stands for: by the connection's ``status_map``, then by the usual words."""
    own = {folded(w): state for w, state in server.status_map.items()}
    return own.get(folded(status)) or _STATES.get(folded(status), JobState.UNKNOWN)


def folded(status: str) -> str:
    """Return a status without case, spaces and punctuation, as statuses are compared. A number keeps its sign."""
    text = status.strip()
    if re.fullmatch(r"[-+]?[0-9.]+", text):
        return text
    return "".join(c for c in text.casefold() if c.isalnum())


def _configured(server: ServerConfig, job_id: str, value: Any) -> Status:
    field = server.status_field or ""
    at = dig(value, field)
    # {"done": true}: status_map may map "true".
    found = str(at).lower() if isinstance(at, bool) else word(at)
    if not found:
        return Status(
            unclear=f"The response for job {job_id} has no status at {field!r}",
            hint="Check status_field in the connection's extra.",
        )
    names = field.split(".")
    around = [dig(value, ".".join(names[:depth])) if depth else value for depth in range(len(names))]
    own_names = _id_names(server)
    others = [other for layer in around for other in _ids(layer, SURE_JOB_IDS)]
    if others and not any(_names(layer, job_id, own_names) for layer in around):
        return Status(
            unclear=f"The response for job {job_id} is about another job, {others[0]!r}",
            hint="If it is about this job, set job_id_field in the connection's extra to the field with the job's id.",
        )
    return Status(state_of(server, found), found, _text(around[-1]), _names(around[-1], job_id, own_names))


def _unwrapped(claims: list[_Claim], value: Any) -> list[_Claim]:
    """Return the claims of a response that names no job, without the request's: {"status": "success", "data": {…}}."""
    near = [claim for claim in claims if claim.near]
    inner = [claim for claim in near if claim.layer is not value]
    outer = [claim for claim in near if claim.layer is value]
    return inner if inner and all(claim.is_one_of(_SUCCESS_OF_REQUEST) for claim in outer) else near


def _ambiguity(server: ServerConfig, claim: _Claim, found: list[_Claim], claims: list[_Claim], value: Any) -> str:
    """Return why a final status may not be the job's, or ``""``."""
    says = f"The response has the status {claim.word!r}"
    # The statuses of the request's envelope are excluded already.
    others = found if claim.own else [c for c in claims if c in found or not c.near]
    if rivals := [c.word for c in others if c.state is not claim.state]:
        return f"{says} and the status {rivals[0]!r}, and it is not clear which is the job's"
    if claim.state is JobState.SUCCEEDED:
        if error := responses.inner_error(value) or responses.inner_error(claim.layer):
            return f"{says} and an error ({error})"
        if failed := [c.word for c in claims if c.state in (JobState.FAILED, JobState.CANCELLED)]:
            return f"{says}, and elsewhere the status {failed[0]!r}"
        if contradiction := _contradiction(server, claim.layer):
            return f"{says}, but also {contradiction}"
    if _may_be_of_the_request(server, claim, value, enveloped=len(found) < len([c for c in claims if c.near])):
        return f"{says}, which may be the status of the request"
    return ""


def _contradiction(server: ServerConfig, layer: Mapping[str, Any]) -> str:
    """Return what is beside a success and shows that the job is not finished or has failed, or ``""``."""
    for name, found in layer.items():
        if name in _PERCENTAGES and isinstance(found, (int, float)) and 0 <= found < 100 and found != 1:
            return f"{name} {found}"
        is_word = isinstance(found, str) and name not in (*_STATUSES, *_TEXTS, *JOB_IDS)
        if is_word and state_of(server, found) not in (JobState.SUCCEEDED, JobState.UNKNOWN):
            return f"{name} {word(found)!r}"
    return ""


def _may_be_of_the_request(server: ServerConfig, claim: _Claim, value: Any, *, enveloped: bool) -> bool:
    """Return whether a final status may be the request's: APIs use its word for both, and nothing beside it decides."""
    empty = ("error", "errors", "message")
    beside = {
        name: found
        for name, found in claim.layer.items()
        if name not in (*_STATUSES, *JOB_IDS) and (found or name not in empty)
    }
    holds_more = any(isinstance(found, (dict, list)) and found for found in beside.values())
    if claim.is_one_of(_SUCCESS_OF_REQUEST):
        return holds_more or not (claim.own or enveloped or not beside)
    if claim.state is JobState.SUCCEEDED:
        return False
    # An error of the request comes with a message or data.
    if claim.own or enveloped:
        mapped = folded(claim.word) in {folded(w) for w in server.status_map}
        return claim.is_one_of(_FAILURE_OF_REQUEST) and bool(beside) and not mapped
    return claim.layer is not value or bool(beside)


def _progress(state: JobState) -> int:
    return _PROGRESS.index(state) if state in _PROGRESS else len(_PROGRESS)


def _hint(claims: list[_Claim]) -> str:
    if claims and not claims[0].path:
        return "A status in a list counts only in an object with the job's id."
    if not claims:
        return "Set status_field in the connection's extra to the field with the job's status."
    option = json.dumps({"status_field": claims[0].path})
    return f"If it is the job's status, set {option} in the connection's extra."


def _no_status(job_id: str, value: Any) -> str:
    found = list(_objects(value))
    others = [other for layer in found for other in _ids(layer, JOB_IDS)]
    if others and any(name in layer for layer in found for name in _STATUSES):
        return f"The response for job {job_id} is about another job, {others[0]!r}"
    return f"The response for job {job_id} has no status that can be read"


def _claims(
    server: ServerConfig,
    job_id: str,
    value: Any,
    path: str = "",
    *,
    own: bool = False,
    near: bool = True,
    foreign: bool = False,
) -> Iterator[_Claim]:
    """Yield each status that may be the job's. The status of an object with another id is not."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                yield from _claims(server, job_id, item, "\0", near=False, foreign=foreign)
        return
    if not isinstance(value, dict):
        return
    names = _id_names(server)
    if _ids(value, names):
        own = _names(value, job_id, names)
        foreign = not own
    for name, found in value.items():
        where = f"{path}.{name}" if path else name
        if name in _STATUSES and not foreign and (status := word(found)):
            yield _Claim("" if "\0" in where else where, status, state_of(server, status), value, own, near)
        elif isinstance(found, (dict, list)):
            wraps = name in WRAPPERS
            # {"jobs": {"<id>": {…}}}: the key is the job's id.
            inner = name == job_id or (own and wraps)
            yield from _claims(
                server, job_id, found, where, own=inner, near=near and wraps, foreign=foreign and not inner
            )


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(item)


def _id_names(server: ServerConfig) -> tuple[str, ...]:
    return (*JOB_IDS, (server.job_id_field or JOB_IDS[0]).rpartition(".")[2])


def _ids(layer: Any, names: tuple[str, ...]) -> list[str]:
    return [found for name in names if (found := word(layer.get(name)))] if isinstance(layer, dict) else []


def _names(layer: Any, job_id: str, names: tuple[str, ...]) -> bool:
    found = _ids(layer, names)
    # UUIDs are compared without case.
    if _UUID.fullmatch(job_id):
        return job_id.lower() in (other.lower() for other in found)
    return job_id in found


def _text(layer: Mapping[str, Any]) -> str:
    return word(layer.get("message")) or word(layer.get("reason"))
