"""Fixtures for the tests of the hook: a sandbox, a connection to it, and a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.sandbox import Sandbox
from tests.support.clients import TOKEN
from tests.support.fixtures import certificates, plain_environment

__all__ = ["certificates", "plain_environment"]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatatileHook]:
    """Return a function that sets the connection ``study`` and returns a hook for it."""

    def connect(host: str, token: str = TOKEN, **extra: Any) -> DatatileHook:
        fields = {"conn_type": "datatile", "host": host, "password": token, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_STUDY", json.dumps(fields))
        return DatatileHook("study")

    return connect


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
