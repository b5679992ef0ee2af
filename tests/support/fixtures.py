"""Fixtures for tests that open connections."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.rawserver import TOKEN
from tests.support.tls import Certificates

if TYPE_CHECKING:
    from datatile_provider.hooks.datatile import DatatileHook


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatatileHook]:
    """
    Set an Airflow connection to a server, and return a hook for it.

    The server is an address, or has a ``connection``. Other arguments change fields of the connection, or omit them if
    they are None.
    """

    def connect(server: Any, *, conn_id: str = "datatile_default", **fields: Any) -> DatatileHook:
        # Not at the top: the tests of the clients do without Airflow.
        from datatile_provider.hooks.datatile import DatatileHook

        address = {"conn_type": "datatile", "host": server, "password": TOKEN}
        connection = {**(address if isinstance(server, str) else server.connection), **fields}
        present = {name: value for name, value in connection.items() if value is not None}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(present))
        return DatatileHook(conn_id)

    return connect


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies, CA bundle and netrc of this machine's environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc with a password for 127.0.0.1."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login somebody password hunter2\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """A file of three interviews."""
    path = tmp_path / "wave 1.csv"
    path.write_text("respondent,vote\n1,2\n2,1\n3,2\n")
    return path
