"""Fixtures for the tests of the commands."""

from __future__ import annotations

import logging
import os

import pytest


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tables as wide as they are without a terminal: pytest-xdist sets a width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    # pytest imports readline, which sets a width that only child processes see.
    os.unsetenv("COLUMNS")


@pytest.fixture(autouse=True)
def quiet_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the servers of the tests log off the stdout of the commands: they share one process."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)
