"""Fixtures for the tests of the hook: a sandbox, and a connection to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.sandbox import Sandbox
from tests.support.fixtures import certificates, connect, plain_environment, survey
from tests.support.rawserver import TOKEN

__all__ = ["certificates", "connect", "plain_environment", "survey"]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(token=TOKEN, processing_seconds=0.1) as sandbox:
        yield sandbox


@pytest.fixture
def hook(sandbox, connect) -> DatatileHook:
    found: DatatileHook = connect(sandbox.url)
    return found
