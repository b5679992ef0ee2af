"""
Where a job stands, and which status in a response says so: pure, and total over any JSON value.

A response may hold many statuses: the request's (JSend's ``"status": "success"``), another job's, a database's. One
counts only where the response shows that it is the job's. What is not clear is never final: polling goes on, and the
log names the option that makes it clear.
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
    from datatile_provider.api.contract import Server


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
    JobState.FAILED: "failed failure fail error errored rejected invalid ko nok",
    JobState.CANCELLED: "cancelled canceled aborted terminated stopped revoked",
}
_STATES = {w: state for state, words in _STATE_WORDS.items() for w in words.split()}
#: Words that APIs also use for the request itself, JSend among them.
_SUCCESS_OF_REQUEST = ("success", "successful")
_FAILURE_OF_REQUEST = ("error", "errored", "fail")
#: Names of a job's id that mean nothing else; the other ones may be a folder's or a row's as well.
SURE_JOB_IDS = ("job_id", "jobId")
JOB_IDS = (*SURE_JOB_IDS, "job", "id", "task_id", "taskId")
_STATUSES = ("status", "state", "job_status", "jobStatus", "job_state", "jobState")
_TEXTS = ("message", "reason", "detail", "details", "description", "title", "name", "filename")
_PERCENTAGES = ("progress", "percent", "percentage")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
# The least finished first. An unknown word may mean "running".
_PROGRESS = (JobState.QUEUED, JobState.RUNNING, JobState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Status:
    """
    The status of a job, as a response shows it.

    :param state: where the job stands.
    :param word: the server's own word; ``""`` when the response holds none.
    :param message: the text beside it.
    :param names_job: whether the job's id stands beside it, so that it can't be about something else.
    :param unclear: why it can't be taken for the job's, as a sentence without its full stop; ``""`` when it can.
    :param hint: the option that makes it clear.
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
    A status somewhere in a response.

    :param path: where it is, as ``status_field`` takes it; ``""`` inside a list.
    :param layer: the object that holds it.
    :param own: whether that object is the job's, by the job's id.
    :param near: whether it is the response itself, or what that wraps in ``data``, ``result`` …
    """

    path: str
    word: str
    state: JobState
    layer: Mapping[str, Any]
    own: bool
    near: bool

    def is_one_of(self, words: tuple[str, ...]) -> bool:
        return folded(self.word) in words


def status_of(server: Server, job_id: str, value: Any) -> Status:
    """
    Return the status that a JSON value shows for a job.

    :param server: ``status_field`` and ``status_map`` of the connection.
    :param job_id: the job that was asked for.
    :param value: the response's JSON value.
    """
    if server.status_field:
        return _configured(server, job_id, value)
    claims = list(_claims(server, job_id, value))
    found = [claim for claim in claims if claim.own] or _unwrapped(claims, value)
    if not found:
        return Status(unclear=_nothing(job_id, value), hint=_hint(claims))
    # {"status": "success", "state": "failed"}: where there is another word, this one is the request's.
    found = [c for c in found if not c.is_one_of(_SUCCESS_OF_REQUEST)] or found
    claim = min(found, key=lambda c: (_progress(c.state), -c.path.count(".")))
    final = [c for c in found if c.state.finished]
    if not claim.state.finished and not final:
        return Status(claim.state, claim.word, _text(claim.layer), claim.own)
    if not claim.state.finished:
        claim = final[0]
    unclear = _ambiguity(server, claim, found, claims, value)
    return Status(claim.state, claim.word, _text(claim.layer), claim.own, unclear, _hint([claim]) if unclear else "")


def reports_failure(server: Server, job_id: str, value: Any) -> str:
    """Return the word by which a response says that the job or the request failed, or ``""``."""
    found = [claim.word for claim in _claims(server, job_id, value) if claim.own or claim.near]
    if server.status_field:
        found.append(word(dig(value, server.status_field)))
    return next((w for w in found if w and state_of(server, w) in (JobState.FAILED, JobState.CANCELLED)), "")


def state_of(server: Server, status: str) -> JobState:
    """Return the state that a word stands for: by the connection's ``status_map``, then by the usual words."""
    own = {folded(w): state for w, state in server.status_map.items()}
    return own.get(folded(status)) or _STATES.get(folded(status), JobState.UNKNOWN)


def folded(status: str) -> str:
    """Return a word as it is compared: without case, spaces and punctuation. A number keeps its sign."""
    text = status.strip()
    if re.fullmatch(r"[-+]?[0-9.]+", text):
        return text
    return "".join(c for c in text.casefold() if c.isalnum())


def _configured(server: Server, job_id: str, value: Any) -> Status:
    field = server.status_field or ""
    at = dig(value, field)
    # {"done": true}: status_map may say what that means.
    found = str(at).lower() if isinstance(at, bool) else word(at)
    if not found:
        return Status(
            unclear=f"The response for job {job_id} holds no status at {field!r}",
            hint="Check status_field in the connection's extra.",
        )
    names = field.split(".")
    around = [dig(value, ".".join(names[:depth])) if depth else value for depth in range(len(names))]
    own_names = _id_names(server)
    others = [other for layer in around for other in _ids(layer, SURE_JOB_IDS)]
    if others and not any(_names(layer, job_id, own_names) for layer in around):
        return Status(
            unclear=f"The response for job {job_id} is about another one, {others[0]!r}",
            hint="If it is not, set job_id_field in the connection's extra to the place of the job's id.",
        )
    return Status(state_of(server, found), found, _text(around[-1]), _names(around[-1], job_id, own_names))


def _unwrapped(claims: list[_Claim], value: Any) -> list[_Claim]:
    """Return the claims of a response that names no job, but the request's: {"status": "success", "data": {…}}."""
    near = [claim for claim in claims if claim.near]
    inner = [claim for claim in near if claim.layer is not value]
    outer = [claim for claim in near if claim.layer is value]
    return inner if inner and all(claim.is_one_of(_SUCCESS_OF_REQUEST) for claim in outer) else near


def _ambiguity(server: Server, claim: _Claim, found: list[_Claim], claims: list[_Claim], value: Any) -> str:
    """Return why a final status can't be taken for the job's, or ``""``."""
    says = f"The response says {claim.word!r}"
    # Those of the request's envelope have had their say already.
    others = found if claim.own else [c for c in claims if c in found or not c.near]
    if rivals := [c.word for c in others if c.state is not claim.state]:
        return f"{says} and {rivals[0]!r}, and which of them is the job's status is not clear"
    if claim.state is JobState.SUCCEEDED:
        if error := responses.inner_error(value) or responses.inner_error(claim.layer):
            return f"{says} with an error beside it ({error})"
        if failed := [c.word for c in claims if c.state in (JobState.FAILED, JobState.CANCELLED)]:
            return f"{says} inside a response that says {failed[0]!r}"
        if contrary := _contrary(server, claim.layer):
            return f"{says} with {contrary} beside it"
    if _may_be_the_requests(server, claim, value, enveloped=len(found) < len([c for c in claims if c.near])):
        return f"{says}, which may be about the request"
    return ""


def _contrary(server: Server, layer: Mapping[str, Any]) -> str:
    """Return what stands beside a success and says that the job is not done, or has failed."""
    for name, found in layer.items():
        if name in _PERCENTAGES and isinstance(found, (int, float)) and 0 <= found < 100 and found != 1:
            return f"{name} {found}"
        is_word = isinstance(found, str) and name not in (*_STATUSES, *_TEXTS, *JOB_IDS)
        if is_word and state_of(server, found) not in (JobState.SUCCEEDED, JobState.UNKNOWN):
            return f"{name} {word(found)!r}"
    return ""


def _may_be_the_requests(server: Server, claim: _Claim, value: Any, *, enveloped: bool) -> bool:
    """Whether a final status may be of the request: its word is used for both, and what is beside it does not tell."""
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
    # An error of the request has a message or data beside it.
    if claim.own or enveloped:
        mapped = folded(claim.word) in {folded(w) for w in server.status_map}
        return claim.is_one_of(_FAILURE_OF_REQUEST) and bool(beside) and not mapped
    return claim.layer is not value or bool(beside)


def _progress(state: JobState) -> int:
    return _PROGRESS.index(state) if state in _PROGRESS else len(_PROGRESS)


def _hint(claims: list[_Claim]) -> str:
    if claims and not claims[0].path:
        return "A status inside a list is read only in an object with the job's id."
    if not claims:
        return "Set status_field in the connection's extra."
    option = json.dumps({"status_field": claims[0].path})
    return f"If that is the job's status, set {option} in the connection's extra."


def _nothing(job_id: str, value: Any) -> str:
    found = list(_objects(value))
    others = [other for layer in found for other in _ids(layer, JOB_IDS)]
    if others and any(name in layer for layer in found for name in _STATUSES):
        return f"The response for job {job_id} is about another one, {others[0]!r}"
    return f"The response for job {job_id} holds no status that can be read"


def _claims(
    server: Server,
    job_id: str,
    value: Any,
    path: str = "",
    *,
    own: bool = False,
    near: bool = True,
    foreign: bool = False,
) -> Iterator[_Claim]:
    """Yield each status that may be the job's: those of objects with another id are not."""
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
            # {"jobs": {"<id>": {…}}}
            inner = name == job_id or (own and wraps)
            yield from _claims(
                server, job_id, found, where, own=inner, near=near and wraps, foreign=foreign and not inner
            )


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(item)


def _id_names(server: Server) -> tuple[str, ...]:
    return (*JOB_IDS, (server.job_id_field or JOB_IDS[0]).rpartition(".")[2])


def _ids(layer: Any, names: tuple[str, ...]) -> list[str]:
    return [found for name in names if (found := word(layer.get(name)))] if isinstance(layer, dict) else []


def _names(layer: Any, job_id: str, names: tuple[str, ...]) -> bool:
    found = _ids(layer, names)
    # A UUID is the same in capitals.
    if _UUID.fullmatch(job_id):
        return job_id.lower() in (other.lower() for other in found)
    return job_id in found


def _text(layer: Any) -> str:
    found = (word(layer.get(name)) for name in ("message", "reason")) if isinstance(layer, dict) else iter(())
    return next(filter(None, found), "")
