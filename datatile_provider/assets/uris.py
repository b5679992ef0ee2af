"""The URIs of databases, like ``datatile://{server}/databases/{hash}``, and of files, for assets and for lineage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.api.validation import check_hash

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset
    from airflow.providers.common.compat.sdk import Asset

    from datatile_provider.hooks.dataset import DatasetLike

SCHEME = "datatile"
_HTTPS = 443


def database_uri(server: str, database_hash: str) -> str:
    """Return the normalized URI of a database."""
    authority = server.partition("://")[2] or server
    path = f"databases/{check_hash(database_hash)}"
    return sanitize_uri(urlsplit(f"{SCHEME}://{authority.rstrip('/')}/{path}")).geturl()


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Return the URI of a database's asset in its normalized form, for Airflow.

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

    return Dataset(*openlineage_name(asset.uri))


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
    Return the URI of a file as an Airflow asset; ``""`` for an open file without a name.

    It is not percent-encoded if the file is local, and has no connection id.
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
