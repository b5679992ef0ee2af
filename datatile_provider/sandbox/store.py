"""The sandbox's state: a user, folders, databases and jobs, and the rules by which uploads are accepted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import pendulum

from datatile_provider.sandbox import codebook
from datatile_provider.sandbox.options import ROLES, Options, check_roles

TARGETS = {"create": "folder", "reload": "database", "append": "database"}
FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
USER = "researcher@datatile.example"
EMAIL_TEXTS = {
    "QUEUED": "is queued",
    "RUNNING": "is running",
    "SUCCEEDED": "has succeeded",
    "FAILED": "has failed",
    "CANCELLED": "was cancelled",
}


class RejectedError(Exception):
    """
    A request is rejected.

    :param status: the HTTP status of the response.
    :param message: why it is rejected.
    :param retry_after: the header ``Retry-After``, in seconds.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclasses.dataclass
class Folder:
    hash: str
    name: str
    can_edit: bool = True


@dataclasses.dataclass
class Database:
    """A database; ``updated_at`` is ISO 8601 in UTC, as all times of the state."""

    hash: str
    name: str
    folder: str
    updated_at: str
    rows: int = 0
    variables: list[str] = dataclasses.field(default_factory=list)
    can_edit: bool = True
    #: The codebook that was imported, with its properties, and what the loads have kept.
    declared: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    properties: dict[str, bool] = dataclasses.field(default_factory=dict)
    contents: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def codebook(self) -> list[dict[str, Any]]:
        """The codebook, as it is exported."""
        return codebook.merged(self.contents, self.declared)


@dataclasses.dataclass
class Transition:
    """The start of a job's state, with a message for the user."""

    state: str
    time: str
    message: str


@dataclasses.dataclass
class Job:
    """
    A job. ``hash`` is its upload's target, and ``size`` is in bytes.

    ``fixed_status`` is reported instead of its state.
    """

    job_id: str
    action: str
    hash: str
    filename: str
    size: int
    callback: str | None
    database: str | None = None
    rows: int | None = None
    total_rows: int | None = None
    fixed_status: str | None = None
    transitions: list[Transition] = dataclasses.field(default_factory=list)

    @property
    def state(self) -> str:
        return self.transitions[-1].state

    @property
    def finished(self) -> bool:
        return self.state in FINAL


@dataclasses.dataclass
class Callback:
    """A callback that was sent; ``status`` is the response's HTTP status, or None with an ``error``."""

    job_id: str
    url: str
    state: str
    time: str
    status: int | None
    error: str | None


def now() -> str:
    """Return the current time in UTC, as ISO 8601."""
    return pendulum.now("UTC").isoformat(timespec="milliseconds")


class Store:
    """
    The state of the sandbox, saved in a JSON file. :class:`.Sandbox` documents what changes it.

    :param directory: the folder of the file. An existing file is loaded.
    """

    def __init__(self, options: Options, directory: Path) -> None:
        self._options = options
        self._file = directory / "state.json"
        self._busy: set[str] = set()
        self._next_upload = 0.0
        kept = json.loads(self._file.read_text("utf-8")) if self._file.exists() else {}
        self.token: str = options.token or kept.get("token") or secrets.token_hex(20)
        self.root: str = kept.get("root") or secrets.token_hex(8)
        self.folder: str = options.folder or kept.get("folder") or secrets.token_hex(8)
        self.roles = options.roles
        self.folders = {row["hash"]: Folder(**row) for row in kept.get("folders", ())}
        self.folders.setdefault(self.root, Folder(self.root, "Root"))
        self.folders.setdefault(self.folder, Folder(self.folder, "Surveys"))
        self.databases = {row["hash"]: Database(**row) for row in kept.get("databases", ())}
        self.jobs: dict[str, Job] = {}
        for row in kept.get("jobs", ()):
            transitions = [Transition(**transition) for transition in row.pop("transitions")]
            self.jobs[row["job_id"]] = Job(**row, transitions=transitions)
        self.callbacks = [Callback(**row) for row in kept.get("callbacks", ())]
        self.save()

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data, with what follows from it."""
        jobs = self.jobs.values()
        return self._saved() | {
            "roles": list(self.roles),
            "jobs": [dataclasses.asdict(job) | {"state": job.state} for job in jobs],
            "mails": [mail for job in jobs for mail in mails(job)],
            "uploads": [
                {
                    "action": job.action,
                    "hash": job.hash,
                    "filename": job.filename,
                    "size": job.size,
                    "job_id": job.job_id,
                    "time": job.transitions[0].time,
                }
                for job in jobs
            ],
        }

    def save(self) -> None:
        """Write the file atomically."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._saved()), "utf-8")
        os.replace(new, self._file)

    def _saved(self) -> dict[str, Any]:
        return {
            "token": self.token,
            "root": self.root,
            "folder": self.folder,
            "folders": [dataclasses.asdict(folder) for folder in self.folders.values()],
            "databases": [dataclasses.asdict(database) for database in self.databases.values()],
            "jobs": [dataclasses.asdict(job) for job in self.jobs.values()],
            "callbacks": [dataclasses.asdict(callback) for callback in self.callbacks],
        }

    def check_token(self, token: str | None) -> None:
        """Reject a request whose token is missing, wrong or no longer valid."""
        if not secrets.compare_digest((token or "").encode("utf-8", "surrogateescape"), self.token.encode()):
            raise RejectedError(401, "The token is missing, wrong, or replaced by a newer one")

    def _check_upload(self, token: str | None, action: str, target: str, size: int) -> None:
        self.check_token(token)
        if action not in TARGETS:
            raise RejectedError(404, f"No such action: {action}. Use one of {', '.join(TARGETS)}")
        role = "database-creator" if action == "create" else "data-collector"
        if role not in self.roles:
            raise RejectedError(403, f"{action} needs the role {ROLES[role]}")
        found = self.find_target(target)
        kind = "folder" if target in self.folders else "database"
        if kind != TARGETS[action]:
            raise RejectedError(422, f"{action} needs the hash of a {TARGETS[action]}; {target} is a {kind}")
        if target == self.root:
            raise RejectedError(422, "create needs a folder other than the root folder")
        if not found.can_edit:
            raise RejectedError(403, f"You may not edit the {kind} {found.name}")
        self.check_size(size)
        if target in self._busy or any(job.hash == target and not job.finished for job in self.jobs.values()):
            raise RejectedError(409, f"The previous upload to the {kind} {found.name} is still in progress")
        wait = self._next_upload - time.monotonic()
        if wait > 0:
            raise RejectedError(429, "Too many uploads; try again later", retry_after=math.ceil(wait))

    def check_size(self, size: int) -> None:
        """Reject a file that is too large."""
        limit = self._options.max_upload_bytes
        if limit and size > limit:
            raise RejectedError(413, f"The file is larger than {limit} bytes")

    @contextlib.contextmanager
    def receiving(self, token: str | None, action: str, target: str, size: int) -> Iterator[None]:
        """
        Check an upload, and keep its destination busy while the file is received.

        :param token: the token of the request, if there is one.
        :param action: ``create``, ``reload`` or ``append``.
        :param target: the hash of the folder or database.
        :param size: the least number of bytes that the file has.
        :raises RejectedError: it is not accepted.
        """
        self._check_upload(token, action, target, size)
        if self._options.uploads_per_minute:
            self._next_upload = time.monotonic() + 60 / self._options.uploads_per_minute
        self._busy.add(target)
        try:
            yield
        finally:
            self._busy.discard(target)

    def accept(self, job: Job) -> None:
        """Queue the job of a completely received upload."""
        job.database = job.hash if job.hash in self.databases else None
        self.jobs[job.job_id] = job
        self.move(job, "QUEUED")

    def move(self, job: Job, state: str, message: str = "") -> None:
        job.transitions.append(Transition(state, now(), message))
        self.save()

    def finish(self, job: Job, rows: int, variables: Sequence[dict[str, Any]]) -> None:
        """Load a file that was read into its database, or fail the job if their variables do not match."""
        if job.action == "create":
            database = Database(secrets.token_hex(8), PurePath(job.filename).stem, job.hash, now())
        else:
            database = self.databases[job.hash]
        kept = database.variables if job.action == "append" else []
        loaded = codebook.load(database.declared, database.properties, variables)
        # Waves are matched by name, without regard to case (documented).
        known = {name.casefold() for name in kept}
        if not loaded.variables:
            self.move(job, "FAILED", f"{database.name} declares no variable of {job.filename}")
            return
        if kept and not any(entry["name"].casefold() in known for entry in loaded.variables):
            self.move(job, "FAILED", f"{job.filename} has no variable in common with {database.name}")
            return
        new = (entry["name"] for entry in loaded.variables)
        database.variables = [*kept, *(name for name in new if name.casefold() not in known)]
        database.contents = codebook.merged(database.contents if job.action == "append" else [], loaded.variables)
        database.rows = rows + (database.rows if job.action == "append" else 0)
        database.updated_at = now()
        self.databases[database.hash] = database
        job.database, job.rows, job.total_rows = database.hash, rows, database.rows
        note = f"; {loaded.note}" if loaded.note else ""
        self.move(job, "SUCCEEDED", f"{rows} rows read; {database.name} holds {database.rows}{note}")

    def find_job(self, job_id: str) -> Job:
        """Return a job; reject the request if there is none."""
        if job_id not in self.jobs:
            raise RejectedError(404, f"No such job: {job_id}")
        return self.jobs[job_id]

    def find_target(self, target: object) -> Folder | Database:
        """Return a folder or database by its hash; reject the request if there is none."""
        found = self.folders.get(str(target)) or self.databases.get(str(target))
        if found is None:
            raise RejectedError(404, f"No folder or database has the hash {target}")
        return found

    def find_database(self, target: str) -> Database:
        """Return a database by its hash; reject the request if there is none."""
        if target not in self.databases:
            raise RejectedError(404, f"No database has the hash {target}")
        return self.databases[target]

    def check_import(self, token: str | None, target: str) -> Database:
        """Return the database that a codebook may be imported to; reject the request otherwise."""
        self.check_token(token)
        if "data-collector" not in self.roles:
            raise RejectedError(403, f"The import of a codebook needs the role {ROLES['data-collector']}")
        database = self.find_database(target)
        if not database.can_edit:
            raise RejectedError(403, f"You may not edit the database {database.name}")
        return database

    def declare(self, database: Database, variables: list[dict[str, Any]], properties: dict[str, bool]) -> None:
        """Replace the codebook that was imported before."""
        database.declared, database.properties = variables, properties
        self.save()

    def add_database(self, name: str, rows: int, variables: Sequence[str]) -> str:
        contents = [codebook.variable(variable) for variable in variables]
        database = Database(secrets.token_hex(8), name, self.folder, now(), rows, list(variables), contents=contents)
        self.databases[database.hash] = database
        self.save()
        return database.hash

    def regenerate_token(self) -> str:
        self.token = secrets.token_hex(20)
        self.save()
        return self.token

    def set_permission(self, target: str, can_edit: bool) -> None:
        self.find_target(target).can_edit = can_edit
        self.save()

    def set_roles(self, roles: Sequence[str]) -> None:
        self.roles = check_roles(roles)

    def set_status(self, job: Job, status: str | None) -> None:
        job.fixed_status = status
        self.save()

    def add_callback(self, job_id: str, url: str, state: str, status: int | None, error: str | None) -> None:
        self.callbacks.append(Callback(job_id, url, state, now(), status, error))
        self.save()


def mails(job: Job) -> list[dict[str, str]]:
    """Return the emails that DATATILE would have sent about a job, oldest first."""
    return [
        {
            "to": USER,
            "subject": f"DATATILE: {job.action} {job.filename}: {transition.state.lower()}",
            "body": f"Job {job.job_id} {EMAIL_TEXTS[transition.state]}. {transition.message}".strip(),
            "time": transition.time,
        }
        for transition in job.transitions
    ]
