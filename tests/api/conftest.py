"""Fixtures for the tests of the clients: a plain environment, and certificates."""

from __future__ import annotations

from tests.support.fixtures import certificates, netrc, plain_environment

__all__ = ["certificates", "netrc", "plain_environment"]
