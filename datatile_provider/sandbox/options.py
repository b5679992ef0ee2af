"""The options of a sandbox, for the command line and for :class:`Sandbox`."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path

#: The name of each role in DATATILE, by its name on the command line.
ROLES = {"database-creator": "Database creator", "data-collector": "Data collector"}

STATES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")


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
    :param job_path: path of a job's status, with ``{job_id}`` in it.
    :param job_id_field: field of the job's id in responses, with dots for nested fields.
    :param status_field: field of the job's status in responses, with dots for nested fields.
    :param state_words: the status in responses, by state; by default the state in lower case.
    :param callback_field: name of the form field with the callback URL.
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
    job_path: str = "api/v2/jobs/{job_id}"
    job_id_field: str = "job_id"
    status_field: str = "status"
    state_words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    callback_field: str = "callback"

    def __post_init__(self) -> None:
        self._check_server()
        self._check_responses()
        check_roles(self.roles)

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

    def _check_responses(self) -> None:
        if self.job_path.count("{job_id}") != 1 or re.search(r"[{}]", self.job_path.replace("{job_id}", "")):
            raise ValueError(f"job_path: must contain {{job_id}} once and no other braces, not {self.job_path!r}")
        for name in ("job_id_field", "status_field", "callback_field"):
            if not all(getattr(self, name).split(".")):
                raise ValueError(f"{name}: must be a field name, not {getattr(self, name)!r}")
        outer, inner = sorted((f"{self.job_id_field}.", f"{self.status_field}."))
        if inner.startswith(outer):
            raise ValueError("job_id_field and status_field: one cannot be inside the other")
        unknown = set(self.state_words) - set(STATES)
        if unknown or not all(isinstance(word, str) for word in self.state_words.values()):
            raise ValueError(f"state_words: must map {', '.join(STATES)} to text, not {dict(self.state_words)}")


def check_roles(roles: object) -> tuple[str, ...]:
    """Return the roles as a tuple, or raise ``ValueError`` if they are not a list of known roles."""
    if not isinstance(roles, (list, tuple)) or not set(roles) <= set(ROLES):
        raise ValueError(f"roles: must be a list of {', '.join(ROLES)}, not {roles!r}")
    return tuple(roles)
