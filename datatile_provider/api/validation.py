"""What a hash, a job id, a URL and a duration must look like, before anything is sent."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import urlsplit

from datatile_provider.api import errors

_HASH = re.compile(r"[A-Za-z0-9._~-]{1,200}")
_ID = re.compile(r"[^\s/?#<>\"'{}\[\]\\]{1,200}")
_NO_IDS = (".", "..", "None")


def check_hash(target_hash: str) -> str:
    """
    Return the hash when it can be part of a URL's path.

    :raises InvalidInputError: it is empty, or has characters other than letters, digits, ``-``, ``_``, ``.`` and ``~``.
    """
    if is_hash(target_hash):
        return target_hash
    found = f"{target_hash!r} is not a hash" if target_hash else "The target hash is empty"
    raise errors.InvalidInputError(
        found, hint="Take the hash of the folder (create) or of the database (reload, append) from DATATILE's Drive."
    )


def check_job_id(job_id: str) -> str:
    """
    Return the job id when it can be polled.

    :raises InvalidInputError: it is empty, or can't be an id.
    """
    if is_job_id(job_id):
        return job_id
    found = f"{job_id!r} is not a job id" if job_id else "The job id is empty"
    hint = "Pass what the upload task returned: job_id=upload.output."
    if not job_id:
        hint += "\nIt returns none if a person confirmed the upload without a job id."
    raise errors.InvalidInputError(found, hint=hint)


def check_callback_url(callback_url: str | None) -> str | None:
    """
    Return the callback URL when a server can push to it.

    :raises InvalidInputError: it is not an http or https URL.
    """
    if callback_url is None or (isinstance(callback_url, str) and is_web_address(callback_url)):
        return callback_url
    raise errors.InvalidInputError(
        f"The callback URL {callback_url!r} is not an http or https URL", hint="Give a full URL, or leave it out."
    )


def is_web_address(value: str) -> bool:
    """Return whether a text is a full http or https URL."""
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port is None or parts.port > 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        return False
    plain = value.isprintable() and not any(c.isspace() for c in value)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_valid and plain


def is_hash(value: object) -> bool:
    """Return whether a value, of any type, can be a hash; see :func:`check_hash`."""
    return isinstance(value, str) and bool(_HASH.fullmatch(value)) and ".." not in value and value != "."


def is_job_id(value: object) -> bool:
    """Return whether a value, of any type, can be a job id; see :func:`check_job_id`."""
    return isinstance(value, str) and bool(_ID.fullmatch(value)) and value.isprintable() and value not in _NO_IDS


def seconds(name: str, value: float | timedelta) -> float:
    """
    Return a duration in seconds.

    :param name: the parameter's name, for the message.
    :param value: seconds or a ``timedelta``.
    :raises InvalidInputError: it is not a duration over zero.
    """
    found = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < float("inf"):
        raise errors.InvalidInputError(f"{name} must be a number of seconds or a timedelta, over zero. It is {value!r}")
    return float(found)
