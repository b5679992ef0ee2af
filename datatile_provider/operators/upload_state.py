"""The state of a task's upload, kept from one attempt to the next where Airflow has a state store (3.3 and later)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from datatile_provider.api.validation import check_job_id
from datatile_provider.state_store import StateStore

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_KEY = "datatile_upload"
_VERSION = 1
#: Seconds for which a call of the store is retried while Airflow's API server does not respond.
STORE_TIMEOUT = 120.0


class Phase(str, Enum):
    """How far an upload has come."""

    SENDING = "sending"  #: It is being sent; whether the server has it is not known yet.
    ACCEPTED = "accepted"  #: The server responded with a job.
    DONE = "done"  #: The task returned the job.
    REPORTED = "reported"  #: The task failed with an unknown outcome or an unsuccessful job, and its error said so.


_WITH_JOB = (Phase.ACCEPTED, Phase.DONE)


@dataclass(frozen=True, slots=True)
class Sent:
    """
    What was uploaded where.

    :param server: the address of the server's API.
    :param action: what the upload does.
    :param target: the folder's or the database's hash.
    :param name: the file's name; another name alone is no other upload.
    :param size: its size in bytes; -1 when it is not known.
    :param version: what tells whether the file has changed, without reading it.
    :param sha256: the hash of its content, once it was sent.
    """

    server: str
    action: str
    target: str
    name: str = ""
    size: int = -1
    version: str = ""
    sha256: str = ""

    def moved_to(self, now: Sent) -> list[str]:
        """Return how the place of a later upload differs: its server, action and target."""
        pairs = [(name, getattr(self, name), getattr(now, name)) for name in ("server", "action", "target")]
        return [f"{name}: before {was}, now {is_now}" for name, was, is_now in pairs if was != is_now]


class Numbers(NamedTuple):
    """
    Airflow's numbers that distinguish a person's clear from its own retry.

    :param max_tries: a clear sets it to the attempts so far plus ``retries``; a retry does not change it.
    :param retries: the task's ``retries``.
    :param try_number: the attempt.
    :param clears: how often the run was cleared; -1 when it is not known. A clear of a task may not be counted.
    """

    max_tries: int
    retries: int
    try_number: int
    clears: int

    @classmethod
    def of(cls, context: Context, retries: int) -> Numbers:
        """Return the numbers of a task's context."""
        ti: Any = context["ti"]
        clears = getattr(context.get("dag_run"), "clear_number", None)
        return cls(ti.max_tries or 0, retries, ti.try_number or 0, -1 if clears is None else clears)


@dataclass(frozen=True, slots=True)
class Record:
    """
    What is stored; the format is in docs/formats.md.

    :param phase: how far the upload has come.
    :param text: the upload, or the error that was reported, for people.
    :param sent: the upload; an attempt that only resumes its job never changes it.
    :param job_id: its job, from ``ACCEPTED`` on.
    :param airflow: Airflow's numbers at that time.
    :param answer: what a person answered about this upload, who and when; see
        :class:`~datatile_provider.operators.question.Answer`.
    """

    phase: Phase
    text: str
    sent: Sent
    job_id: str
    airflow: Numbers
    answer: Mapping[str, str] | None = None

    @classmethod
    def of(cls, value: Any) -> Record:
        """
        Return the record of a stored value.

        :raises ValueError: it is not a record.
        """
        try:
            if value["version"] != _VERSION:
                raise ValueError(f"its version is {value['version']!r}, and this package reads {_VERSION}")
            found = cls(
                Phase(value["phase"]),
                _checked(value["text"], str),
                Sent(**{name: _checked(value["sent"][name], kind) for name, kind in _SENT.items()}),
                _checked(value["job_id"], str),
                Numbers(*(_checked(value["airflow"][name], int) for name in Numbers._fields)),
                _checked(value["answer"], dict) if "answer" in value else None,
            )
            # A person may confirm an upload without knowing its job.
            confirmed = found.phase is Phase.DONE and found.answer and not found.job_id
            if found.phase in _WITH_JOB and not confirmed:
                check_job_id(found.job_id)
        except (TypeError, KeyError, ValueError) as e:
            raise ValueError(f"not the record of an upload: {type(e).__name__}: {e}") from None
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values; :meth:`of` reads them."""
        return {
            "version": _VERSION,
            "phase": self.phase.value,
            "text": self.text,
            "sent": asdict(self.sent),
            "job_id": self.job_id,
            "airflow": self.airflow._asdict(),
            **({"answer": dict(self.answer)} if self.answer else {}),
        }


_SENT = {"server": str, "action": str, "target": str, "name": str, "size": int, "version": str, "sha256": str}


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r}")
    return value


class UploadState:
    """Reads and writes the record in the task's state store. On an Airflow without a store it does nothing."""

    def __init__(self, context: Context, retries: int) -> None:
        # An expired record would let a task that is cleared later send its file again.
        self._store = StateStore(context, _KEY, never_expires=True, retry_for=STORE_TIMEOUT)
        self.lasts = self._store.lasts  #: Whether the next attempt can read what this one writes.
        self.airflow = Numbers.of(context, retries)
        self.answer: Mapping[str, str] | None = None  #: Stored with the record, if there is one.
        self._known: Record | None = None

    @property
    def known(self) -> Record | None:
        """The record that was read or written last."""
        return self._known

    def read(self) -> Record | None:
        """
        Return the record of the attempts before.

        :raises ValueError: what is stored is not a record.
        """
        value = self._store.get()
        self._known = None if value is None else Record.of(value)
        return self._known

    def write(self, phase: Phase, text: str, sent: Sent, job_id: str = "") -> None:
        """Store how far an upload has come."""
        self._write(Record(phase, text, sent, job_id, self.airflow, self.answer))

    def advance(self, phase: Phase, text: str | None = None) -> None:
        """Store how far the known upload has come; the upload does not change."""
        if known := self._known:
            text = known.text if text is None else text
            answer = self.answer or known.answer
            self._write(replace(known, phase=phase, text=text, airflow=self.airflow, answer=answer))

    def _write(self, record: Record) -> None:
        if record != self._known:
            self._store.set(record.as_dict())
        self._known = record

    def forget(self) -> None:
        """Delete the record: the server does not have this upload."""
        if self._known is not None:
            self._store.delete()
        self._known = None
