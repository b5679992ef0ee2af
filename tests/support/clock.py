"""Clocks that stand in for the module ``time``."""

from __future__ import annotations

import time as system
from collections.abc import Callable


class Clock:
    """
    A simulated clock, which only sleeping advances.

    :param on_sleep: is called after each sleep.
    """

    def __init__(self, now: float = 1_800_000_000.0, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.now = now
        self._on_sleep = on_sleep

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._on_sleep()


class SetClock:
    """The real clock, after someone has set the system's clock by ``offset`` seconds."""

    monotonic = staticmethod(system.monotonic)
    sleep = staticmethod(system.sleep)

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def time(self) -> float:
        return system.time() + self.offset
