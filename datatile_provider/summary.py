"""
The summary of an upload or a wait: one small XCom, which the page DATATILE in Airflow's menu reads.

The format is in docs/formats.md. A summary that can't be stored is logged: it never changes what the task does.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from datatile_provider.api import errors
from datatile_provider.api.states import JobState

if TYPE_CHECKING:
    from datatile_provider.api.models import Job, ServerConfig, Upload

#: The key of the XCom, and the version of its value.
KEY, VERSION = "datatile", 1
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Summary:
    """
    What one attempt of a task has done; each method returns a new summary.

    :param kind: ``upload`` or ``wait``.
    :param state: ``accepted``, ``succeeded``, ``failed`` or ``unknown``; ``""`` before the file was accepted.
    :param code: the error's code, see :mod:`datatile_provider.api.errors`.
    :param message: the last message, in one line.
    :param action: what the upload does; ``target`` is the folder's or database's hash, ``file`` the file's name.
    :param size: the file's size in bytes; -1 when it is not known.
    :param server: the address of the server's API.
    :param job: the job's id; ``job_url`` and ``log_url`` are its page and the processing log.
    :param database: the database that the job reports.
    :param rows: the rows that the job reports.
    :param sent_at: when the last attempt of the upload began; ``accepted_at`` is when the server had accepted the file,
        and ``ended_at`` when the task ended. ISO 8601 in UTC.
    :param send_seconds: how long it took until the server had accepted the file.
    :param process_seconds: how long the task then waited for the job.
    :param attempts: the number of attempts of the upload; 0 for a wait.
    """

    kind: str
    state: str = ""
    code: str = ""
    message: str = ""
    action: str = ""
    target: str = ""
    file: str = ""
    size: int = -1
    server: str = ""
    job: str = ""
    job_url: str = ""
    log_url: str = ""
    database: str = ""
    rows: int | None = None
    sent_at: str = ""
    accepted_at: str = ""
    ended_at: str = ""
    send_seconds: float | None = None
    process_seconds: float | None = None
    attempts: int = 0

    @classmethod
    def of(cls, value: Any) -> Summary | None:
        """Return the summary of a stored value; None if it is not one of this version."""
        if not isinstance(value, dict) or value.get("version") != VERSION or "kind" not in value:
            return None
        return cls(**{name: given for name, given in value.items() if name in _FIELDS})

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values; :meth:`of` reads them."""
        return {"version": VERSION, **asdict(self)}

    def sending(self, server: ServerConfig, upload: Upload, attempts: int, now: float) -> Summary:
        """Return the summary at the start of an attempt of the upload, which is the first, the second or so on."""
        sent: dict[str, Any] = {"file": upload.name, "size": upload.size, "sent_at": _iso(now), "attempts": attempts}
        return replace(self.at(server), **sent, **_NOT_ACCEPTED)

    def at(self, server: ServerConfig, job_id: str = "") -> Summary:
        """Return the summary with the addresses of a server and a job."""
        job_url, log_url = server.job_page_url(job_id), server.processing_log_url
        return replace(self, server=server.address, job=job_id, job_url=job_url, log_url=log_url)

    def accepted(self, server: ServerConfig, job: Job, now: float) -> Summary:
        """Return the summary of an upload that the server has accepted."""
        sent = _seconds(self.sent_at)
        took = None if sent is None else round(max(0.0, now - sent), 3)
        found = self.at(server, job.id)
        return replace(found, state="accepted", accepted_at=_iso(now), send_seconds=took)._reported(job)

    def ended(self, job: Job, now: float, *, started: float | None = None) -> Summary:
        """
        Return the summary at the end of a task without an error.

        :param started: when the wait for the job started, in seconds since the epoch; of an upload it is known.
        """
        done = job.state is JobState.SUCCEEDED
        found = replace(self, state="succeeded" if done else "accepted", code="", job=job.id, ended_at=_iso(now))
        return (found._processed(started, now) if done else found)._reported(job)

    def failed(self, error: errors.DatatileError, job: Job | None, now: float, started: float | None = None) -> Summary:
        """Return the summary at the end of a task with an error; see :meth:`ended`."""
        unknown = isinstance(error, (errors.OutcomeUnknownError, errors.JobTimeoutError, errors.JobStatusUnclearError))
        # The hint and the next steps are in the log.
        text = type(error)(error.what, server_message=error.server_message, status=error.status).paragraph
        found = replace(
            self,
            state="unknown" if unknown or isinstance(error, errors.UploadInterruptedError) else "failed",
            code=error.code,
            message=_short(text),
            job=job.id if job else self.job,
            log_url=self.log_url or error.log_url,
            ended_at=_iso(now),
        )
        return found._processed(started, now)

    def _reported(self, job: Job) -> Summary:
        return replace(
            self,
            message=_short(job.message),
            database=job.database or self.database,
            rows=self.rows if job.rows is None else job.rows,
            action=self.action or job.action,
        )

    def _processed(self, started: float | None, now: float) -> Summary:
        begun = _seconds(self.accepted_at) if started is None else started
        return self if begun is None else replace(self, process_seconds=round(max(0.0, now - begun), 3))

    def push(self, ti: Any, log: Any) -> None:
        """Store the summary as an XCom of a task instance; an error is logged."""
        try:
            ti.xcom_push(key=KEY, value=self.as_dict())
        except Exception as e:  # any XCom backend's
            log.warning("The summary of the task could not be stored as an XCom: %s", e)

    def recalled(self, ti: Any, task_id: str) -> Summary:
        """Return what this attempt of the task has pushed, also in an earlier process, or else this summary."""
        with suppress(Exception):  # any XCom backend's
            return Summary.of(ti.xcom_pull(task_ids=task_id, key=KEY, map_indexes=ti.map_index)) or self
        return self


_FIELDS = {field.name for field in fields(Summary)}
_NOT_ACCEPTED: dict[str, Any] = {"state": "", "accepted_at": "", "send_seconds": None}


def _short(text: str) -> str:
    """Return a text as one short line."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 1]}…"


def _iso(now: float) -> str:
    return datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(iso: str) -> float | None:
    # Python 3.10 does not read a "Z".
    return datetime.fromisoformat(iso.replace("Z", "+00:00")).timestamp() if iso else None
