"""Reads an Airflow connection for a command."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.api.settings import Settings
from datatile_provider.hooks.datatile import DatatileHook

_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


@contextlib.contextmanager
def _airflows_database() -> Iterator[None]:
    """Let Airflow 3 read connections of its database, as its own command ``connections test`` does."""
    before = os.environ.get(_CONTEXT)
    os.environ[_CONTEXT] = "server"
    try:
        yield
    finally:
        os.environ.pop(_CONTEXT)
        if before is not None:
            os.environ[_CONTEXT] = before


def connection(conn_id: str) -> tuple[Callable[[Mapping[str, Any]], Settings], Mapping[str, Any]]:
    """
    Return a function that returns a connection's settings with further options, and the connection's own options.

    :param conn_id: the connection's id.
    :raises InvalidInputError: there is no such connection, or a field of it is wrong.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    hook = DatatileHook(conn_id)
    try:
        with _airflows_database():
            conn = hook.get_connection(conn_id)
    except AirflowNotFoundException as e:
        raise InvalidInputError(str(e), hint="Add it in Airflow, or set it in an environment variable.") from None
    fields: dict[str, Any] = {"host": conn.host, "schema": conn.schema, "port": conn.port, "token": conn.password}
    # Raises for an extra that is not valid.
    Settings.of(conn_id, **fields, extra=conn.extra)
    own = json.loads(conn.extra) if conn.extra and conn.extra.strip() else {}

    def settings(options: Mapping[str, Any]) -> Settings:
        return Settings.of(conn_id, **fields, extra=json.dumps({**own, **options}))

    return settings, own


def options_of(text: str) -> dict[str, Any]:
    """
    Return the options of a command line: a JSON object, or ``@`` and the path of a file with one.

    :raises InvalidInputError: it is not, or the file cannot be read.
    """
    try:
        found = json.loads(Path(text[1:]).read_text("utf-8") if text.startswith("@") else text)
    except (OSError, ValueError, RecursionError) as e:
        raise InvalidInputError(f"--extra cannot be read as JSON: {e}") from None
    if not isinstance(found, dict):
        raise InvalidInputError("--extra is not a JSON object", hint='Write it as in {"job_id_field": "result.id"}.')
    return found
