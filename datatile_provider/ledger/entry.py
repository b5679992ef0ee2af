"""An entry of the ledger: one upload of one content to one target, by one task. The format is in docs/formats.md."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Phase(str, Enum):
    """What is known of the upload."""

    CLAIMED = "claimed"  #: It may have been sent. The task is sending it, or has ended without knowing.
    UNKNOWN = "unknown"  #: The same, and the task's error has said so.
    ACCEPTED = "accepted"  #: The server has accepted it.
    RELEASED = "released"  #: The server does not hold it, or a person said so.
    EXPIRED = "expired"  #: It is old, and is being deleted.


@dataclass(frozen=True, slots=True)
class Owner:
    """
    The task that made the entry.

    :param deployment: the base URL of its Airflow; ``""`` if it is not configured.
    :param try_number: its attempt.
    """

    deployment: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int

    def same_task(self, other: Owner) -> bool:
        """Return whether both are attempts of one task instance."""
        return self._task == other._task

    @property
    def _task(self) -> tuple[str, str, str, str, int]:
        return self.deployment, self.dag_id, self.run_id, self.task_id, self.map_index

    def __str__(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"task {self.task_id}{index} of DAG {self.dag_id}\nrun {self.run_id}, attempt {self.try_number}"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What is stored. It has no secrets.

    :param id: identifies the entry; a random UUID.
    :param server: the address of the server's API.
    :param action: ``create`` or ``append``.
    :param target: the hash of the folder or the database.
    :param sha256: the hash of the content.
    :param size: its size in bytes.
    :param name: the file's name, for people.
    :param phase: what is known of the upload.
    :param job_id: its job; ``""`` if that is not known.
    :param at: when the content was claimed, in ISO 8601, in UTC.
    :param owner: the task that sent it.
    """

    id: str
    server: str
    action: str
    target: str
    sha256: str
    size: int
    name: str
    phase: Phase
    job_id: str
    at: str
    owner: Owner

    @property
    def folder(self) -> str:
        """The folder of the target. The server's part ends with a hash, because its address has other characters."""
        server = self.server.partition("://")[2] or self.server
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", server)[:80]
        return f"{readable}-{hashlib.sha256(self.server.encode()).hexdigest()[:8]}/{self.target}"

    @classmethod
    def read(cls, content: bytes) -> Entry:
        """
        Return the entry of a file's content.

        :raises ValueError: it is not an entry.
        """
        try:
            value = json.loads(content)
            if value["version"] != _VERSION:
                raise ValueError(f"its version is {value['version']!r}, and this package reads {_VERSION}")
            owner = Owner(**{f.name: _checked(value["owner"][f.name], f.type) for f in fields(Owner)})
            found = {f.name: _checked(value[f.name], f.type) for f in fields(cls) if f.name not in ("phase", "owner")}
            entry = cls(**found, phase=Phase(value["phase"]), owner=owner)
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as e:
            raise ValueError(f"not an entry of a ledger: {type(e).__name__}: {e}") from None
        if not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"not an entry of a ledger: {entry.sha256[:80]!r} is not a SHA-256")
        return entry

    def as_bytes(self) -> bytes:
        """Return the content of the entry's file; :meth:`read` reads it."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()

    def __str__(self) -> str:
        outcomes = {
            Phase.CLAIMED: "the outcome is not known",
            Phase.UNKNOWN: "the outcome is not known",
            Phase.ACCEPTED: f"accepted{f' as job {self.job_id}' if self.job_id else ''}",
            Phase.RELEASED: "not accepted",
            Phase.EXPIRED: "expired",
        }
        # A line that begins with a time is moved by Airflow's log reader.
        when = f"sent {self.at[:10]} {self.at[11:19]} UTC"
        return f"{self.name!r} ({self.size:,} bytes)\n{when}, {outcomes[self.phase]}\n{self.owner}"


def _checked(value: Any, kind: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, {"str": str, "int": int}[kind]):
        raise TypeError(f"{value!r}")
    return value
