"""Reads a server's responses: pure, total over any bytes, and without knowledge of uploads and jobs."""

from __future__ import annotations

import email.utils
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pendulum

#: The largest response that a client reads, in bytes. A job's status is far smaller.
MAX_RESPONSE_BYTES = 1 << 20
#: The most bytes of the response to a poll that are read: parsing them blocks the triggerer's event loop.
MAX_POLL_BYTES = 1 << 16
#: The largest codebook that is read, in bytes.
MAX_CODEBOOK_BYTES = 1 << 26
_MAX_MESSAGE = 500
_MAX_DEPTH = 8
#: Keys under which APIs wrap the content of a response, as in ``{"data": {…}}``.
WRAPPERS = ("data", "result", "response", "job", "payload", "attributes")
_MESSAGES = ("message", "error", "errors", "detail", "details", "reason", "description", "title")
_MARKUP = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^<>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Response:
    """
    An HTTP response, reduced to what is read.

    :param status: the HTTP status code.
    :param body: the body, at most :data:`MAX_RESPONSE_BYTES` of it.
    :param retry_after: the header ``Retry-After``.
    :param location: the header ``Location``.
    :param at: when the response arrived.
    """

    status: int
    body: bytes = b""
    retry_after: str = ""
    location: str = ""
    at: datetime = field(default_factory=lambda: pendulum.now("UTC"))

    @classmethod
    def of(cls, status: int, body: bytes, headers: Mapping[str, str], secret: str) -> Response:
        """Return a response with a secret masked, in case the server echoed it."""
        # Latin-1 decodes any bytes, and encodes the text back to the same bytes.
        body = redact(body.decode("latin-1"), secret).encode("latin-1")
        return cls(status, body, headers.get("Retry-After", ""), redact(headers.get("Location", ""), secret))


def redact(text: str, secret: str) -> str:
    """Return a text with a secret masked."""
    # Shorter secrets would mask ordinary words. Airflow's secrets masker has the same minimum length.
    if len(secret) < 5:
        return text
    # The secret itself, then as JSON, PHP's JSON, HTML and a URL encode it.
    in_json = json.dumps(secret)[1:-1]
    for encoded in (secret, in_json, in_json.replace("/", r"\/"), html.escape(secret), quote(secret, safe="")):
        text = text.replace(encoded, "***")
    return text


def retry_after_seconds(response: Response) -> float | None:
    """Return the seconds that ``Retry-After`` asks to wait, as a number or until a date; None without a valid value."""
    value = response.retry_after.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        # A date without a time zone is in UTC.
        then = pendulum.instance(email.utils.parsedate_to_datetime(value), tz="UTC")
        return max(0.0, (then - pendulum.instance(response.at)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse(body: bytes) -> Any:
    """Return the JSON value of a body, cleaned for logs and databases; None if the body is not JSON."""
    try:
        try:
            value = json.loads(body, parse_constant=lambda _: None)
        except UnicodeDecodeError:
            # Some servers write JSON in Latin-1.
            value = json.loads(body.decode("latin-1"), parse_constant=lambda _: None)
        return _cleaned(value, _MAX_DEPTH)
    except (ValueError, RecursionError):
        return None


def _cleaned(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(k): _cleaned(v, depth - 1) for k, v in value.items()} if depth else {}
    if isinstance(value, list):
        return [_cleaned(v, depth - 1) for v in value] if depth else []
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return None
    return value


def _text(value: str) -> str:
    # Databases reject NUL, and a lone surrogate cannot be encoded.
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def layers(value: Any) -> list[Mapping[str, Any]]:
    """Return a response and the JSON objects nested in it as wrappers (``{"data": {…}}``), outermost first."""
    found: list[Mapping[str, Any]] = []
    while isinstance(value, dict):
        found.append(value)
        value = next((value[name] for name in WRAPPERS if isinstance(value.get(name), dict)), None)
    return found


def with_innermost(value: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response with these fields in its innermost layer, which is read first."""
    wrapper = next((name for name in WRAPPERS if isinstance(value.get(name), dict)), None)
    inner = {wrapper: with_innermost(value[wrapper], fields)} if wrapper else fields
    return {**value, **inner}


def dig(value: Any, path: str) -> Any:
    """Return the value at a dotted path (``result.id``), or None."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def word(value: Any) -> str:
    """Return a JSON string or integer as trimmed text, and ``""`` for any other value."""
    if isinstance(value, str):
        return _shorten(value)
    if isinstance(value, int) and not isinstance(value, bool):
        # json.loads rejects integers that are too long for str().
        return str(value)
    return ""


def inner_error(value: Any) -> str:
    """Return the error inside a 2xx response, or ``""``."""
    for layer in layers(value):
        for name, found in layer.items():
            if any(part in name.lower() for part in ("error", "fail", "exception")) and not _is_negative(found):
                return _message(layer) or _shorten(f"{name}: {found}")
            if name in ("success", "ok") and _is_negative(found):
                return _message(layer) or _shorten(f"{name}: {json.dumps(found)}")
    return ""


def _is_negative(value: Any) -> bool:
    return not value or (isinstance(value, str) and value.strip().lower() in ("0", "false", "no", "none", "null"))


def has_error_status(value: Any) -> bool:
    """Return whether there is an HTTP error status inside a response, as in ``{"code": 500}``."""
    names = ("code", "status", "status_code", "statusCode")
    return any(re.fullmatch(r"[45][0-9][0-9]", word(layer.get(name))) for layer in layers(value) for name in names)


def plain_text(response: Response) -> str:
    """Return the body as text, or ``""`` if it is not UTF-8."""
    try:
        return response.body.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return ""


def server_message(response: Response) -> str:
    """Return the server's message for a person, on one line of at most 500 characters."""
    value = parse(response.body)
    if isinstance(value, dict):
        text = next(filter(None, (_message(layer) for layer in reversed(layers(value)))), "")
        return _shorten(text or (json.dumps(value, ensure_ascii=False) if value else ""))
    text = plain_text(response)
    if response.body and not text:
        return f"{len(response.body)} bytes that are not text"
    if re.search(r"<\s*(!doctype|html|head|body|h1|p|title)\b", text, re.IGNORECASE):
        # html.parser takes quadratic time on some pages. The text is cut because html.unescape raises on a character
        # reference with thousands of digits.
        text = html.unescape(" ".join(_MARKUP.sub(" ", text).split())[:4_000])
    return _shorten(text)


def _message(layer: Mapping[str, Any]) -> str:
    return _shorten(next(filter(None, (" ".join(_strings(layer.get(name))) for name in _MESSAGES)), ""))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        yield word(value)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        yield _message(value)


def _shorten(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    text = _text(" ".join(printable.split()))
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"
