"""What a rehearsal writes down: each request with its response, and what this provider makes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from datatile_provider.api import errors, parsing
from datatile_provider.api.models import Job, ServerConfig, Upload
from datatile_provider.api.responses import Response


class Step(str, Enum):
    """A step of a rehearsal, in the order of the run. The value is for people."""

    REACH = "poll a job that does not exist"
    CREATE = "create"
    FIND = "look for the job"
    APPEND = "append"
    RELOAD = "reload"
    BUSY = "a second upload while one runs"
    CALLBACK = "reload with a callback"
    DAMAGED = "reload with a damaged file"
    NO_TARGET = "append to a database that does not exist"
    STRANGER = "reload with a made-up token"


#: The steps that send a whole file and expect its job to succeed.
GOOD = (Step.CREATE, Step.APPEND, Step.RELOAD)


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    A request and its response.

    :param parts: the names of the request's form fields.
    :param upload: the upload, if it is one; otherwise it polls ``job_id``.
    :param response: the response with the token redacted; None if there was none.
    :param error: why there was no response.
    :param whole_body_sent: whether the last byte of the request was sent.
    """

    step: Step
    method: str
    url: str
    parts: tuple[str, ...] = ()
    upload: Upload | None = None
    job_id: str = ""
    response: Response | None = None
    error: errors.DatatileError | None = None
    whole_body_sent: bool = True

    @property
    def succeeded(self) -> bool:
        """Whether the response has a status of 2xx."""
        return self.response is not None and 200 <= self.response.status < 300


Reading = Job | errors.DatatileError


def reading(server: ServerConfig, exchange: Exchange) -> Reading:
    """Return how this provider reads a response: as a job, or as an error."""
    response = exchange.response
    if response is None:
        return exchange.error or errors.ServerUnreachableError("The rehearsal was stopped before a response came")
    try:
        if exchange.upload is None:
            return parsing.read_job(server, exchange.job_id, response)
        return parsing.read_upload(server, exchange.upload, response, whole_body_sent=exchange.whole_body_sent)
    except errors.DatatileError as e:
        return e


def described(found: Reading, *, upload: bool) -> str:
    """Return a reading in plain words, on one line."""
    if isinstance(found, Job):
        status = f"status {found.status!r}, read as {found.state.value}" if found.status else "no status yet"
        return f"accepted as job {found.id}, {status}" if upload else status
    kind = "rejected"
    if isinstance(found, errors.OutcomeUnknownError | errors.UnexpectedResponseError):
        kind = "unclear"
    elif found.status is None:
        kind = "no response"
    # An unclear response is shown in full in the report.
    message = found.server_message if kind == "rejected" else ""
    said = f': "{message}"' if message else ""
    what = f". {found.what}" if kind != "rejected" else ""
    return " ".join(f"{kind}, {found.code} ({found.status or '-'}){said}{what}".split())


@dataclass
class Record:
    """
    What a rehearsal has seen so far.

    :param server: the server, with what was learned during the run.
    :param configured: the options of the connection and of the command line, of those that say how a server speaks.
    :param folder: the hash of the folder that it creates a database in.
    :param name: the file's name, which is only this run's.
    :param learned: the options that the run has learned, beyond the configured ones.
    :param database: the hash of the database, when it is known.
    :param database_given: whether a person gave that hash, not the server.
    :param finished: words that a person has confirmed as those of a finished job.
    :param failed: words that a person has confirmed as those of a failed job.
    :param callback: ``""`` when there was none, else what a person said about its arrival.
    :param busy_while: the status of the first upload's job after the second upload's response; ``""`` if unknown.
    :param ended: why the run ended early; ``""`` if it did not.
    """

    server: ServerConfig
    configured: Mapping[str, Any]
    folder: str
    name: str
    learned: dict[str, Any] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    database: str = ""
    database_given: bool = False
    finished: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    callback: str = ""
    busy_while: str = ""
    ended: str = ""

    def read(self, *steps: Step, upload: bool) -> list[tuple[Exchange, Reading]]:
        """Return the uploads or the polls of some steps, or of all, with their readings."""
        return [
            (exchange, reading(self.server, exchange))
            for exchange in self.exchanges
            if (exchange.upload is not None) == upload and (not steps or exchange.step in steps)
        ]

    def polls(self, job_id: str) -> list[Exchange]:
        """Return the polls of a job in order, without those that only looked for it or had a made-up token."""
        skipped = (Step.FIND, Step.STRANGER, Step.REACH)
        return [e for e in self.exchanges if not e.upload and e.job_id == job_id and e.step not in skipped]

    def uploads(self, job_id: str) -> list[Exchange]:
        """Return the uploads that were accepted as a job."""
        return [e for e, found in self.read(upload=True) if isinstance(found, Job) and found.id == job_id]

    def jobs(self, *steps: Step) -> list[Job]:
        """Return the last status of each job that was accepted in some steps, or in all."""
        last: dict[str, Job] = {}
        for exchange, found in self.read(*steps, upload=True) + self.read(*steps, upload=False):
            if isinstance(found, Job) and exchange.step not in (Step.STRANGER, Step.REACH, Step.FIND):
                last[found.id] = found
        return list(last.values())
