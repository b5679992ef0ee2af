"""What a task remembers of its upload from one try to the next, where Airflow can keep it (3.3 and later)."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_KEY = "datatile_upload"
#: Seconds for which a write is tried while Airflow's API server does not answer; its own client gives up sooner.
PATIENCE = 120.0
_PAUSE = 3.0


class Phase(str, Enum):
    """How far an upload is known to have come."""

    SENDING = "sending"
    """It is about to be sent; nobody knows yet whether the server holds it."""
    ACCEPTED = "accepted"
    """The server answered with a job."""
    DONE = "done"
    """The task returned the job."""
    TOLD = "told"
    """The task failed as nobody knows whether the server holds the file, or as its job did not succeed, and said so."""


@dataclass(frozen=True, slots=True)
class Record:
    """
    What is remembered.

    :param phase: how far the upload came.
    :param text: what it is, or what was said of it, for people.
    :param upload: its action, file and target.
    :param job_id: its job, from ``ACCEPTED`` on.
    :param max_tries: Airflow's ``max_tries`` at that time: it grows when a person clears the task, not when Airflow
        itself tries again.
    """

    phase: Phase
    text: str
    upload: str
    job_id: str
    max_tries: int

    @classmethod
    def of(cls, value: Any) -> Record:
        """
        Return the record that a stored value holds.

        :raises ValueError: it holds none.
        """
        try:
            texts = text, upload, job_id = value["text"], value["upload"], value["job_id"]
            phase, max_tries = Phase(value["phase"]), value["max_tries"]
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"not a record of an upload: {value!r}") from None
        if not all(isinstance(text, str) for text in texts) or not isinstance(max_tries, int):
            raise ValueError(f"not a record of an upload: {value!r}")
        return cls(phase, text, upload, job_id, max_tries)


class Step(Enum):
    """What a try begins with."""

    UPLOAD = "upload"
    FOLLOW = "take up the job that the server already has"
    RETURN = "return the job of a try that had succeeded"
    UNKNOWN = "fail: a try ended between sending and knowing"
    TELL_AGAIN = "fail as the try before did"


def first_step(record: Record | None, upload: str, max_tries: int, *, may_send_again: bool) -> Step:
    """
    Return what a try begins with.

    :param record: what the tries before left behind.
    :param upload: the task's action, file and target now.
    :param max_tries: Airflow's ``max_tries`` now.
    :param may_send_again: whether an upload of unknown outcome may be sent again: a reload, or by the user's choice.
    """
    if record is None:
        return Step.UPLOAD
    if record.phase is Phase.SENDING:
        return Step.UPLOAD if may_send_again else Step.UNKNOWN
    cleared = max_tries != record.max_tries
    if record.phase is Phase.ACCEPTED:
        # Who mends the task and clears it wants the other upload.
        return Step.UPLOAD if cleared and upload != record.upload else Step.FOLLOW
    # Airflow may try again what has ended: the report of a task's end can be lost when its API server is down.
    if cleared:
        return Step.UPLOAD
    return Step.RETURN if record.phase is Phase.DONE else Step.TELL_AGAIN


class Memory:
    """
    Keeps the record in the task's state store; on an Airflow without one it keeps nothing.

    :param context: the task's context.
    :param upload: the task's action, file and target.
    """

    def __init__(self, context: Context, upload: str) -> None:
        self._store: Any = context.get("task_state_store")
        self.upload = upload
        self.max_tries: int = context["ti"].max_tries or 0
        self._known: Record | None = None

    @property
    def lasts(self) -> bool:
        """Whether the next try will know what this one writes."""
        return self._store is not None

    def read(self) -> Record | None:
        """
        Return what the tries before left behind.

        :raises ValueError: something that is no record.
        """
        value = self._patiently(lambda: self._store.get(_KEY)) if self._store is not None else None
        self._known = Record.of(value) if value is not None else None
        return self._known

    def write(self, phase: Phase, text: str, job_id: str = "") -> None:
        """Remember how far the upload has come."""
        record = Record(phase, text, self.upload, job_id, self.max_tries)
        if self._store is not None and record != self._known:
            self._patiently(lambda: self._store.set(_KEY, {**asdict(record), "phase": phase.value}))
        self._known = record

    def forget(self) -> None:
        """Remember nothing: the server holds nothing of this upload."""
        if self._store is not None and self._known is not None:
            self._patiently(lambda: self._store.delete(_KEY))
        self._known = None

    @staticmethod
    def _patiently(call: Any) -> Any:
        from airflow.sdk.exceptions import AirflowRuntimeError

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return call()
            except AirflowRuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
