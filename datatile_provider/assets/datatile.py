"""DATATILE's databases as Airflow assets, with URIs like ``datatile://{server}/databases/{hash}``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.api.models import Action, Job, ServerConfig, Upload
from datatile_provider.api.validation import check_hash
from datatile_provider.hooks.datatile import DatatileHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset
    from airflow.providers.common.compat.sdk import Asset, Context

    from datatile_provider.hooks.dataset import DatasetLike

SCHEME = "datatile"
_HTTPS = 443


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
    :return: the asset.
    :raises InvalidInputError: the hash or the connection is invalid.
    :raises ValueError: the server is not a name or URL.
    """
    from airflow.providers.common.compat.sdk import Asset

    address = DatatileHook(datatile_conn_id).get_conn().server.url if server is None else server
    return Asset(uri=database_uri(address, database_hash), extra=extra)


def database_uri(server: str, database_hash: str) -> str:
    """Return the normalized URI of a database."""
    authority = server.partition("://")[2] or server
    path = f"databases/{check_hash(database_hash)}"
    return sanitize_uri(urlsplit(f"{SCHEME}://{authority.rstrip('/')}/{path}")).geturl()


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Return a database's URI in its normalized form, for Airflow.

    :param uri: the URI of an asset.
    :raises ValueError: the URI has no server or no database.
    """
    base, _, database_hash = uri.path.rpartition("/databases/")
    try:
        check_hash(database_hash)
        host, port = uri.hostname, uri.port
    except ValueError as e:
        reason = e.what if isinstance(e, InvalidInputError) else e
        raise ValueError(f"{uri.geturl()!r} is not the URI of a DATATILE database: {reason}") from None
    if not host or "@" in uri.netloc or uri.query or uri.fragment or not uri.path.startswith("/"):
        raise ValueError(f"{uri.geturl()!r} does not have the form datatile://server/databases/hash")
    name = f"[{host}]" if ":" in host else host
    authority = name if port in (None, _HTTPS) else f"{name}:{port}"
    return SplitResult(SCHEME, authority, f"{base}/databases/{database_hash}", "", "")


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> OpenLineageDataset:
    """Return the OpenLineage dataset of a database's asset."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    namespace, name = openlineage_name(asset.uri)
    return Dataset(namespace=namespace, name=name)


def openlineage_name(uri: str) -> tuple[str, str]:
    """Return the OpenLineage namespace and name of a file's or a database's URI."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return scheme, rest
    parts = urlsplit(uri)
    base, found, database_hash = parts.path.rpartition("/databases/")
    if scheme == SCHEME and found:
        return f"{SCHEME}://{parts.netloc}{base}", f"databases/{database_hash}"
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def file_uri(dataset: DatasetLike) -> str:
    """
    Return the URI of a file as an Airflow asset: not percent-encoded if it is local, and without a connection id.

    :param dataset: the file.
    :return: the URI; ``""`` for an open file without a name.
    """
    given = getattr(dataset, "name", "") if hasattr(dataset, "read") else dataset
    text = "" if isinstance(given, int) else str(given)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return f"file://{Path(text).absolute()}" if text else ""
    if scheme == "file":
        return f"file://{url2pathname(urlsplit(text).path)}"
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def describe_outlets(outlets: Iterable[Any], context: Context, job: Job, action: str = "") -> None:
    """
    Add the job to the asset events of a task's outlets that are DATATILE databases.

    :param outlets: the task's outlets.
    :param context: the task's context.
    :param job: the finished job.
    :param action: the upload's action; if it is ``""``, the action that the job reports (assumed).
    """
    extra = {"job_id": job.id, "action": action or job.action, "rows": job.rows}
    try:
        for outlet in outlets:
            if str(getattr(outlet, "uri", "")).startswith(f"{SCHEME}://"):
                context["outlet_events"][outlet].extra.update({k: v for k, v in extra.items() if v not in (None, "")})
    except Exception as e:  # the job has succeeded, so an event without details must not fail the task
        logging.getLogger(__name__).error("The job could not be added to the events of the task's outlets: %s", e)


def collect_lineage(hook: DatatileHook, server: ServerConfig, upload: Upload, dataset: DatasetLike) -> None:
    """Report the file and the database of an accepted upload to Airflow's hook lineage collector."""
    # The server has accepted the file, so an error here must not fail the task.
    with contextlib.suppress(Exception):
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        collector: Any = get_hook_lineage_collector()  # type: ignore[no-untyped-call]  # Airflow's own
        source = file_uri(dataset)
        if source:
            collector.add_input_asset(context=hook, uri=source)
        # The hash of a new database is not known yet.
        if upload.action is not Action.CREATE:
            collector.add_output_asset(context=hook, uri=database_uri(server.url, upload.target_hash))
