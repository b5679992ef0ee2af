"""The options of a sandbox, for the command line and for :class:`Sandbox`."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

#: The name of each role in DATATILE, by its name on the command line.
ROLES = {"database-creator": "Database creator", "data-collector": "Data collector"}

STATES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")

#: The HTTP status codes of each reason to reject a request of the API.
STATUS_CODES: Mapping[str, tuple[int, ...]] = {
    "busy": (409,),
    "too_large": (413,),
    "too_fast": (429,),
    "token": (401,),
    "role": (403,),
    "not_found": (404,),
    "rejected": (400, 422),
}

# The first names of the paths of the sandbox's own pages.
_OWN_PATHS = ("sandbox", "processing-log", "databases", "openapi.json")


def is_loopback(host: str | None) -> bool:
    """Return whether a host name or address is always this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """
    The sandbox's options.

    :param host: loopback address to listen on.
    :param port: port to listen on; 0 takes a free one.
    :param token: the user's API token; random if None.
    :param folder: hash of the folder for new databases; random if None.
    :param state_dir: folder that keeps the state after a stop; if None, the state is lost.
    :param processing_seconds: duration of a job from queued to finished, in seconds.
    :param max_upload_bytes: largest file that is accepted, in bytes; 0 for no limit.
    :param uploads_per_minute: rate limit of uploads, evenly spaced; 0 for no limit.
    :param roles: the user's roles, keys of :data:`ROLES`.
    :param tls_cert: PEM certificate; with ``tls_key`` the sandbox serves https.
    :param tls_key: PEM private key of ``tls_cert``.
    :param api_path: path of the API.
    :param job_path: path of a job's status. It has ``{job_id}`` in the path or as a parameter: ``status?id={job_id}``.
    :param job_id_field: field of the job's id in responses, with dots for nested fields.
    :param bare_id: ``json`` or ``text``: the response to an upload is the job's id alone, as JSON or as plain text.
    :param numeric_ids: whether the ids of new jobs are numbers.
    :param status_field: field of the job's status in responses, with dots for nested fields.
    :param state_words: the status in responses, by state: text, a whole number, true or false. By default the state in
        lower case. Only ``QUEUED`` and ``RUNNING`` may have the same.
    :param rows_field: field of a job's imported rows in responses, with dots for nested fields.
    :param database_field: field of a job's database in responses, with dots for nested fields.
    :param callback_field: name of the form field with the callback URL.
    :param codebook_export_path: path from which a database's codebook is read, with ``{hash}``.
    :param codebook_import_path: path to which it is written, with ``{hash}``.
    :param codebook_field: name of the form field of a codebook's file.
    :param status_codes: HTTP status codes of rejections, by their reason, a key of ``STATUS_CODES``.
    :raises ValueError: an option is invalid; the message names it.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    folder: str | None = None
    state_dir: Path | None = None
    processing_seconds: float = 2.0
    max_upload_bytes: int = 0
    uploads_per_minute: float = 0
    roles: tuple[str, ...] = tuple(ROLES)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    api_path: str = "api/v2"
    job_path: str = "{api_path}/jobs/{job_id}"
    job_id_field: str = "job_id"
    bare_id: str | None = None
    numeric_ids: bool = False
    status_field: str = "status"
    state_words: Mapping[str, str | int] = dataclasses.field(default_factory=dict)
    rows_field: str = "rows"
    database_field: str = "database"
    callback_field: str = "callback"
    codebook_export_path: str = "{api_path}/projects/{hash}/api/codebook/export-v2/"
    codebook_import_path: str = "{api_path}/projects/{hash}/api/codebook/import-v2/"
    codebook_field: str = "file"
    status_codes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_server()
        self._check_paths()
        self._check_fields()
        self._check_words()
        self._check_codes()
        check_roles(self.roles)

    @property
    def upload_path(self) -> str:
        """The path of an upload, with ``{action}`` and ``{hash}``."""
        return f"/{self.api_path.strip('/')}/upload/{{action}}/{{hash}}"

    @property
    def codebook_routes(self) -> tuple[str, str, str]:
        """The paths with ``{hash}`` at which a codebook is read, as Excel and as JSON, and at which it is written."""
        api_path = self.api_path.strip("/")
        export, write = (
            "/" + path.replace("{api_path}", api_path).lstrip("/")
            for path in (self.codebook_export_path, self.codebook_import_path)
        )
        return export, f"{export.rstrip('/')}/json", write

    @property
    def job_route(self) -> tuple[str, dict[str, str]]:
        """The path of a job's status, and the parameters of its query; one of them has ``{job_id}``."""
        path, _, query = self.job_path.replace("{api_path}", self.api_path.strip("/")).lstrip("/").partition("?")
        return f"/{path}", dict(parse_qsl(query, keep_blank_values=True))

    def word(self, state: str) -> str | int:
        """Return the status that stands for a state."""
        return self.state_words.get(state, state.lower())

    def codes(self, reason: str) -> tuple[int, ...]:
        """Return the HTTP status codes of a reason to reject a request."""
        return (self.status_codes[reason],) if reason in self.status_codes else STATUS_CODES[reason]

    @property
    def extra(self) -> dict[str, Any]:
        """The options of an Airflow connection to a sandbox with these options."""
        names = ["api_path", "job_path", "rows_field", "database_field", "callback_field"]
        names += ["codebook_export_path", "codebook_import_path", "codebook_field"]
        # Without the option, a bare id is read.
        names += [] if self.bare_id else ["job_id_field"]
        extra = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(Options, name)}
        # With one of these, a status at its usual place may still be unclear.
        if self.state_words or self.bare_id or "job_id_field" in extra or self.status_field != Options.status_field:
            extra["status_field"] = self.status_field
        if self.state_words:
            extra["status_map"] = {_as_text(word): state for state, word in self.state_words.items()}
        if self.status_codes:
            extra["status_codes"] = {str(code): reason for reason, code in self.status_codes.items()}
        return extra

    def _check_server(self) -> None:
        if not is_loopback(self.host):
            raise ValueError(f"host: {self.host!r} is not a loopback address")
        for name in ("token", "folder"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", value):
                raise ValueError(f"{name}: must consist of letters, digits, - and _, not {value!r}")
        for name in ("port", "processing_seconds", "max_upload_bytes", "uploads_per_minute"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: must be zero or more, not {getattr(self, name)}")
        if self.port > 65_535:
            raise ValueError(f"port: must be 0 to 65535, not {self.port}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: must be given together")

    def _check_paths(self) -> None:
        if not re.fullmatch(r"[^\s?#{}]+", self.api_path.strip("/")):
            raise ValueError(f"api_path: must be a path without braces, not {self.api_path!r}")
        path, query = self.job_route
        values = list(query.values())
        ids = path.count("{job_id}") + values.count("{job_id}")
        if ids != 1 or re.search(r"[{}\s#]", "".join([path, *query, *values]).replace("{job_id}", "", 1)):
            raise ValueError(
                "job_path: must contain {job_id} once, in the path or as a parameter, and no other braces but "
                f"{{api_path}}, not {self.job_path!r}"
            )
        export, _, write = self.codebook_routes
        codebooks = {"codebook_export_path": export, "codebook_import_path": write}
        for name, whole in codebooks.items():
            if whole.count("{hash}") != 1 or re.search(r"[{}\s?#]", whole.replace("{hash}", "", 1)):
                raise ValueError(
                    f"{name}: must be a path that contains {{hash}} once, and no other braces but {{api_path}}, "
                    f"not {getattr(self, name)!r}"
                )
        for name, whole in {"api_path": self.upload_path, "job_path": path, **codebooks}.items():
            if whole.split("/")[1] in ("", *_OWN_PATHS):
                raise ValueError(f"{name}: must not be the path of one of the sandbox's pages, not {whole!r}")

    def _check_fields(self) -> None:
        names = ("job_id_field", "status_field", "rows_field", "database_field")
        for name in (*names, "callback_field"):
            if not all(getattr(self, name).split(".")):
                raise ValueError(f"{name}: must be a field name, not {getattr(self, name)!r}")
        for first, second in itertools.combinations(names, 2):
            outer, inner = sorted((f"{getattr(self, first)}.", f"{getattr(self, second)}."))
            if inner.startswith(outer):
                raise ValueError(f"{first} and {second}: one cannot be inside the other")
        if self.callback_field == "dataset":
            raise ValueError("callback_field: 'dataset' is the field of the file")
        if self.bare_id not in (None, "json", "text"):
            raise ValueError(f"bare_id: must be json or text, not {self.bare_id!r}")

    def _check_words(self) -> None:
        unknown = set(self.state_words) - set(STATES)
        if unknown or not all(isinstance(word, (str, int)) for word in self.state_words.values()):
            raise ValueError(
                f"state_words: must map {', '.join(STATES)} to text, whole numbers or true and false, "
                f"not {dict(self.state_words)}"
            )
        words = [_as_text(self.word(state)).casefold() for state in STATES if state != "QUEUED"]
        if len({*words}) < len(words) or _as_text(self.word("QUEUED")).casefold() in words[1:]:
            raise ValueError(
                f"state_words: only QUEUED and RUNNING may have the same word, not {dict(self.state_words)}"
            )

    def _check_codes(self) -> None:
        # A gateway sends 408, 425 and 499 too.
        allowed = set(range(400, 499)) - {408, 425}
        known = set(self.status_codes) <= set(STATUS_CODES)
        if not known or not all(type(code) is int and code in allowed for code in self.status_codes.values()):
            raise ValueError(
                f"status_codes: must map {', '.join(STATUS_CODES)} to codes from 400 to 498 except 408 and 425, "
                f"not {dict(self.status_codes)}"
            )


def _as_text(word: str | int) -> str:
    return word if isinstance(word, str) else json.dumps(word)


def check_roles(roles: object) -> tuple[str, ...]:
    """Return the roles as a tuple, or raise ``ValueError`` if they are not a list of known roles."""
    if not isinstance(roles, (list, tuple)) or not set(roles) <= set(ROLES):
        raise ValueError(f"roles: must be a list of {', '.join(ROLES)}, not {roles!r}")
    return tuple(roles)
