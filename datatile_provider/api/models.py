"""
The Data Collector API as data: a server, an upload, a job. The addresses of requests are built here.

DATATILE documents the upload's address, method and part name; the header ``token``; that the response to an upload
holds the id of a processing job; that an upload is rejected while an earlier one to the same destination is processing,
when the file is too large and when uploads come too fast; and that a new token invalidates the old one at once.
The rest is assumed, and each assumption is a field of :class:`ServerConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote

from datatile_provider.api import errors, responses
from datatile_provider.api.states import JobState
from datatile_provider.api.validation import is_hash, is_job_id


class Action(str, Enum):
    """What an upload does to its target (documented)."""

    CREATE = "create"  #: Makes a new database in a folder, which may not be the root.
    RELOAD = "reload"  #: Replaces all data of a database.
    APPEND = "append"  #: Adds to a database.

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


class OnUnknown(str, Enum):
    """What follows when the outcome of an upload is unknown."""

    FAIL = "fail"  #: The task fails without retries.
    ASK = "ask"  #: A person is asked in Airflow.
    RESEND = "resend"  #: The file is sent again. The server may then have the data twice.

    @classmethod
    def of(cls, value: str, *allowed: OnUnknown) -> OnUnknown:
        """
        Return the member of that name.

        :param allowed: the members that can be given; all if there are none.
        :raises InvalidInputError: there is no such member.
        """
        names = [member.value for member in allowed or cls]
        if value not in names:
            raise errors.InvalidInputError(
                f"There is no on_unknown={value!r} here", hint=f"Use one of: {', '.join(names)}."
            )
        return cls(value)


class OnRepeat(str, Enum):
    """What follows when the same content went to the same target before."""

    FAIL = "fail"  #: The task fails without retries.
    ASK = "ask"  #: A person is asked in Airflow.
    WARN = "warn"  #: The file is sent, with a warning in the log.
    ALLOW = "allow"  #: The file is sent.

    @classmethod
    def of(cls, value: str | None, action: str) -> OnRepeat:
        """
        Return the member of that name; if there is none, the default of the action.

        :raises InvalidInputError: there is no such member.
        """
        if action == Action.RELOAD.value:
            return cls.ALLOW
        if value is None:
            return cls.FAIL if action == Action.APPEND.value else cls.WARN
        names = [member.value for member in cls]
        if value not in names:
            raise errors.InvalidInputError(f"There is no on_repeat={value!r}", hint=f"Use one of: {', '.join(names)}.")
        return cls(value)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """
    A DATATILE server, and what is assumed about its API.

    :param url: scheme, host, port and base path, without a slash at the end.
    :param api_path: the API's path on the server (assumed).
    :param job_path: the path of a job's status (assumed); ``{api_path}`` and ``{job_id}`` are filled in.
    :param codebook_export_path: the path from which a database's codebook is read (documented); ``{api_path}`` and
        ``{hash}`` are filled in.
    :param codebook_import_path: the path to which it is written. Documented with a ``{projectId}``; that this is the
        hash is assumed.
    :param codebook_field: the form field of the file that is written (assumed).
    :param job_id_field: the field of the job's id in the response to an upload, with dots for nested fields; None tries
        the usual names, and a bare id.
    :param status_field: the field of the status in the response to a poll, with dots for nested fields; None tries the
        usual names.
    :param status_map: the server's own words for states, in addition to the usual ones.
    :param callback_field: the form field for the callback URL (assumed).
    :param rows_field: the field with the number of imported rows in the response about a finished job, with dots for
        nested fields; None tries the usual names.
    :param database_field: the field with the database's hash there.
    :param status_codes: the meanings of the server's own HTTP status codes, by name, as in the option ``status_codes``.
    :param log_url: the address of the processing log. With ``{job_id}`` in it, it leads to that job's own page.
    """

    url: str
    api_path: str = "api/v2"
    job_path: str = "{api_path}/jobs/{job_id}"
    codebook_export_path: str = "{api_path}/projects/{hash}/api/codebook/export-v2/"
    codebook_import_path: str = "{api_path}/projects/{hash}/api/codebook/import-v2/"
    codebook_field: str = "file"
    job_id_field: str | None = None
    status_field: str | None = None
    status_map: Mapping[str, JobState] = field(default_factory=lambda: MappingProxyType({}))
    callback_field: str = "callback"
    rows_field: str | None = None
    database_field: str | None = None
    status_codes: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
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

    def codebook_export_url(self, database: str) -> str:
        """Return the address from which a database's codebook is read."""
        return self._of_database(self.codebook_export_path, database)

    def codebook_import_url(self, database: str) -> str:
        """Return the address to which a database's codebook is written."""
        return self._of_database(self.codebook_import_path, database)

    def job_url(self, job_id: str) -> str:
        """Return the address of a job's status (assumed)."""
        return self._job_url.replace("{job_id}", quote(job_id, safe=""))

    def job_id_in(self, url: str) -> str:
        """Return the id of the job whose status is at an address, or ``""``."""
        before, _, after = self._job_url.partition("{job_id}")
        job_id = unquote(url[len(before) : len(url) - len(after)])
        return job_id if is_job_id(job_id) and self.job_url(job_id) == url else ""

    def _of_database(self, path: str, database: str) -> str:
        return f"{self.url}/{path.replace('{api_path}', self.api_path).replace('{hash}', database)}"

    @property
    def _job_url(self) -> str:
        return f"{self.url}/{self.job_path.replace('{api_path}', self.api_path)}"


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
        if not isinstance(error, (errors.JobFailedError, errors.JobCancelledError)):
            return self
        state = JobState.FAILED if isinstance(error, errors.JobFailedError) else JobState.CANCELLED
        return replace(self, state=state, message=error.server_message)

    @property
    def rows(self) -> int | None:
        """The number of rows that were imported, if the server reports it (assumed)."""
        found = self._detail("rows", "row_count", "rowCount")
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

    @property
    def database(self) -> str:
        """The hash of the database that was created or changed, if the server reports it (assumed)."""
        found = self._detail("database", "database_hash", "databaseHash")
        return found if is_hash(found) else ""

    @property
    def action(self) -> str:
        """The upload's action, if the server reports it (assumed)."""
        found = self._detail("action")
        return found if isinstance(found, str) and found in {a.value for a in Action} else ""

    def _detail(self, *names: str) -> Any:
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
