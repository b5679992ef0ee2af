"""
Where a job stands, and which status in a response says so: pure, and total over any JSON value.

A response may hold many statuses: the request's (JSend's ``"status": "success"``), another job's, a database's. One
counts only where the response shows that it is the job's. What is not clear is never final: polling goes on, and the
log names the option that makes it clear.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from datatile_provider.api import answers
from datatile_provider.api.answers import WRAPPERS, dig, layers, word

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
    JobState.FAILED: "failed failure fail error errored rejected invalid",
    JobState.CANCELLED: "cancelled canceled aborted terminated stopped revoked",
}
_STATES = {w: state for state, words in _STATE_WORDS.items() for w in words.split()}
#: Words that APIs also use for the request itself.
_REQUEST_WORDS = ("success", "successful")
#: Names of a job's id that mean nothing else; the other ones may be a folder's or a row's as well.
SURE_JOB_IDS = ("job_id", "jobId")
JOB_IDS = (*SURE_JOB_IDS, "job", "id", "task_id", "taskId")
_STATUSES = ("status", "state", "job_status", "jobStatus")
_ERRORS = ("error", "errors", "message")
# The least finished first. A word that nobody knows may mean "running".
_PROGRESS = (JobState.QUEUED, JobState.RUNNING, JobState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Status:
    """
    The status of a job, as a response shows it.

    :param state: where the job stands.
    :param word: the server's own word; ``""`` when the response holds none.
    :param message: the text beside it.
    :param names_job: whether the response names the job's id, so that it can't be about something else.
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
    """

    path: str
    word: str
    state: JobState
    layer: Mapping[str, Any]
    own: bool


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
    own = [claim for claim in claims if claim.own]
    # {"status": "success", "data": {"status": …}}: the outer one is the request's.
    inner = [claim for claim in claims if claim.layer is not value]
    outer = [claim for claim in claims if claim.layer is value]
    enveloped = bool(inner and outer) and all(_folded(claim.word) in _REQUEST_WORDS for claim in outer)
    found = own or (inner if enveloped else claims)
    if not found:
        return Status(unclear=_nothing(job_id, value), hint="Set status_field in the connection's extra.")
    claim = min(found, key=lambda c: (_progress(c.state), -c.path.count(".")))
    message = _text(claim.layer)
    if not claim.state.finished:
        return Status(claim.state, claim.word, message, bool(own))
    unclear = _doubt(claim, found, claims, value, enveloped=enveloped)
    return Status(claim.state, claim.word, message, bool(own), unclear, _hint(claim) if unclear else "")


def reports_failure(server: Server, job_id: str, value: Any) -> str:
    """Return the word by which a response says that the job or the request failed, or ``""``."""
    around = layers(value)
    found = (c for c in _claims(server, job_id, value) if c.own or any(c.layer is layer for layer in around))
    word_at = word(dig(value, server.status_field)) if server.status_field else ""
    words = [c.word for c in found if c.state in (JobState.FAILED, JobState.CANCELLED)]
    if word_at and state_of(server, word_at) in (JobState.FAILED, JobState.CANCELLED):
        return word_at
    return next(iter(words), "")


def state_of(server: Server, status: str) -> JobState:
    """Return the state that a word stands for: by the connection's ``status_map``, then by the usual words."""
    own = {_folded(w): state for w, state in server.status_map.items()}
    return own.get(_folded(status)) or _STATES.get(_folded(status), JobState.UNKNOWN)


def _configured(server: Server, job_id: str, value: Any) -> Status:
    field = server.status_field or ""
    outer, _, _ = field.rpartition(".")
    layer = dig(value, outer) if outer else value
    found = word(dig(value, field))
    if not found:
        return Status(
            unclear=f"The response for job {job_id} holds no status at {field!r}",
            hint="Check status_field in the connection's extra.",
        )
    named = _ids(layer, SURE_JOB_IDS)
    if named and job_id not in _ids(layer, _id_names(server)):
        return Status(unclear=f"The response for job {job_id} is about another job, {named[0]!r}")
    names_job = any(job_id in _ids(each, _id_names(server)) for each in _objects(value))
    return Status(state_of(server, found), found, _text(layer), names_job)


def _doubt(claim: _Claim, found: list[_Claim], claims: list[_Claim], value: Any, *, enveloped: bool) -> str:
    """Return why a final status can't be taken for the job's, or ``""``."""
    says = f"The response says {claim.word!r}"
    if rivals := [c.word for c in found if c.state is not claim.state]:
        return f"{says} and {rivals[0]!r}, and which of them is the job's status is not clear"
    if claim.state is JobState.SUCCEEDED:
        if error := answers.inner_error(value):
            return f"{says} with an error beside it ({error})"
        if failed := [c.word for c in claims if c.state in (JobState.FAILED, JobState.CANCELLED)]:
            return f"{says} inside a response that says {failed[0]!r}"
    if claim.own or _is_about_the_job(claim, value, enveloped=enveloped):
        return ""
    return f"{says}, which may be about the request: it does not name the job"


def _is_about_the_job(claim: _Claim, value: Any, *, enveloped: bool) -> bool:
    """Whether a final status in an object without an id can only be the job's, and not the request's."""
    beside = [found for name, found in claim.layer.items() if name not in _STATUSES and (found or name not in _ERRORS)]
    if enveloped:
        return _folded(claim.word) not in _REQUEST_WORDS or not any(isinstance(f, (dict, list)) for f in beside)
    if claim.state is JobState.SUCCEEDED:
        return _folded(claim.word) not in _REQUEST_WORDS or not beside
    # An error of the request has a message or data beside it.
    return claim.layer is value and not beside


def _progress(state: JobState) -> int:
    return _PROGRESS.index(state) if state in _PROGRESS else len(_PROGRESS)


def _hint(claim: _Claim) -> str:
    if not claim.path:
        return "Set status_field in the connection's extra to where the job's status is."
    return f"If that is the job's status, set {json.dumps({'status_field': claim.path})} in the connection's extra."


def _nothing(job_id: str, value: Any) -> str:
    found = list(_objects(value))
    others = [other for layer in found for other in _ids(layer, JOB_IDS)]
    if others and any(name in layer for layer in found for name in _STATUSES):
        return f"The response for job {job_id} is about another one, {others[0]!r}"
    return f"The response for job {job_id} holds no status that can be read"


def _claims(
    server: Server, job_id: str, value: Any, path: str = "", *, own: bool = False, foreign: bool = False
) -> Iterator[_Claim]:
    """Yield each status that may be the job's: those of objects with another id are not."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                yield from _claims(server, job_id, item, "\0", foreign=foreign)
        return
    if not isinstance(value, dict):
        return
    ids = _ids(value, _id_names(server))
    if ids:
        own = job_id in ids
    foreign = not own and (foreign or bool(ids))
    for name, found in value.items():
        where = f"{path}.{name}" if path else name
        if name in _STATUSES and not foreign and (status := word(found)):
            yield _Claim("" if "\0" in where else where, status, state_of(server, status), value, own)
        elif isinstance(found, (dict, list)):
            # {"jobs": {"<id>": {…}}}
            inner = name == job_id or (own and name in WRAPPERS)
            yield from _claims(server, job_id, found, where, own=inner, foreign=foreign and not inner)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(item)


def _id_names(server: Server) -> tuple[str, ...]:
    return (*JOB_IDS, (server.job_id_field or JOB_IDS[0]).rpartition(".")[2])


def _ids(layer: Any, names: tuple[str, ...]) -> list[str]:
    return [found for name in names if (found := word(layer.get(name)))] if isinstance(layer, dict) else []


def _text(layer: Any) -> str:
    found = (word(layer.get(name)) for name in ("message", "reason")) if isinstance(layer, dict) else iter(())
    return next(filter(None, found), "")


def _folded(status: str) -> str:
    return "".join(c for c in status.casefold() if c.isalnum())
