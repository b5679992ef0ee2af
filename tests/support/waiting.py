"""Waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T | None], description: str, timeout: float = 10.0) -> T:
    """
    Call a function until its result is true, and return the result.

    :param timeout: seconds.
    :raises TimeoutError: the result was not true in time.
    """
    deadline = time.monotonic() + timeout
    # The intervals grow: a condition may be a request to a busy server.
    pause = 0.005
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {timeout:.0f} s: {description}")
        time.sleep(pause)
        pause = min(0.1, pause * 2)
    return value
