"""Responses for the tests of the contract, and checks of every result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from datatile_provider.api import errors
from datatile_provider.api.models import Action, Job, ServerConfig, Upload
from datatile_provider.api.responses import Response

SERVER = ServerConfig("https://datatile.example.com")
UPLOAD = Upload(Action.APPEND, "abc123", "wave.sav", 10)
SUCCESS_WORDS = ["succeeded", "success", "successful", "completed", "complete", "finished", "done"]
LONGEST_MESSAGE = 2_000


def response_of(body: object, status: int = 200, **headers: Any) -> Response:
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Response(status, raw, **headers)


def presentable(value: str) -> bool:
    return value.isprintable() and len(value) <= LONGEST_MESSAGE


def checked(result: object) -> object:
    """Assert that the result of reading a response can be logged and stored, and return it."""
    if isinstance(result, Job):
        assert all(presentable(text) for text in (result.id, result.status, result.message))
        json.dumps(result.as_dict(), allow_nan=False, ensure_ascii=False).encode()
    else:
        text = str(result)
        assert all(line.isprintable() for line in text.split("\n")), text
        assert len(text) <= LONGEST_MESSAGE
    return result


#: The error of an upload by the meaning of its status code, as in the option ``status_codes``.
KIND_OF_MEANING: dict[str, type[errors.DatatileError]] = {
    "busy": errors.DestinationBusyError,
    "too_large": errors.FileTooLargeError,
    "too_fast": errors.RateLimitedError,
    "token": errors.TokenRefusedError,
    "role": errors.RoleMissingError,
    "not_found": errors.NotFoundError,
    "rejected": errors.PermanentError,
}


def outcome(read: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return checked(read(*args, **kwargs))
    except errors.DatatileError as e:
        return checked(e)


def one_line(text: object) -> str:
    """Return a text of several lines, such as an error's, on one line."""
    return " ".join(str(text).split())
