"""DATATILE's databases as Airflow assets."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from datatile_provider.api.models import Job
from datatile_provider.assets.uris import SCHEME, database_uri
from datatile_provider.hooks.datatile import DatatileHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Asset, Context


def database_asset(
    database_hash: str,
    *,
    server: str | None = None,
    datatile_conn_id: str = DatatileHook.default_conn_name,
    extra: dict[str, Any] | None = None,
) -> Asset:
    """
    Return the asset of a database, for a task's ``outlets`` and a DAG's ``schedule``.

    :param database_hash: the database's hash.
    :param server: the server's name or URL, as in the connection's host. Without it, the connection is read at each
        call: in a DAG file, each time that the file is parsed.
    :param datatile_conn_id: the id of the Airflow connection to read the server from.
    :param extra: the asset's extra.
    :raises InvalidInputError: the hash or the connection is invalid.
    :raises ValueError: the server is not a name or URL.
    """
    from airflow.providers.common.compat.sdk import Asset

    address = DatatileHook(datatile_conn_id).get_conn().server.url if server is None else server
    return Asset(uri=database_uri(address, database_hash), extra=extra)


def describe_outlets(outlets: Iterable[Any], context: Context, job: Job, action: str = "") -> None:
    """
    Add the finished job to the asset events of a task's outlets that are DATATILE databases.

    :param action: the upload's action; if it is ``""``, the action that the job reports (assumed).
    """
    extra = {"job_id": job.id, "action": action or job.action, "rows": job.rows}
    try:
        for outlet in outlets:
            if str(getattr(outlet, "uri", "")).startswith(f"{SCHEME}://"):
                context["outlet_events"][outlet].extra.update({k: v for k, v in extra.items() if v not in (None, "")})
    except Exception as e:  # the job has succeeded, so an event without details must not fail the task
        logging.getLogger(__name__).error("The job could not be added to the events of the task's outlets: %s", e)
