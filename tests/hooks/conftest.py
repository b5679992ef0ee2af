"""Fixtures for the tests of the hook: a sandbox, a connection to it, and a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.sandbox import Sandbox
from tests.support.fixtures import certificates, connect, plain_environment
from tests.support.rawserver import TOKEN

__all__ = ["certificates", "connect", "plain_environment"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(token=TOKEN, processing_seconds=0.1) as sandbox:
        yield sandbox


@pytest.fixture
def hook(sandbox, connect) -> DatatileHook:
    return connect(sandbox.url)


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    path = tmp_path / "wave 1.csv"
    path.write_text("respondent,vote\n1,0\n2,1\n3,1\n")
    return path
