"""Validates an Airflow connection: the server's address, the API token and the options of the extra."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.api.models import ServerConfig
from datatile_provider.api.options import Options


@dataclass(frozen=True, slots=True)
class Settings:
    """
    A validated connection.

    :param server: the server, and what is assumed about its API.
    :param token: the API token; not shown by ``repr``.
    :param timeout: seconds without progress after which a request times out.
    :param verify: whether the server's certificate is verified, or the path of the CA bundle to verify it with.
    :param proxies: proxy URLs by scheme (``http``, ``https``); the environment's proxies are used for a missing scheme.
    :param max_upload_bytes: the largest file that is sent, in bytes; None for no limit.
    :param ledger: the URI of the ledger; ``""`` for none.
    :param ledger_optional: whether a create or append is sent when the ledger can't be used.
    :param max_connections: the most connections of an event loop for polls.
    """

    server: ServerConfig
    token: str = field(repr=False)
    timeout: float = 120.0
    verify: bool | str = True
    proxies: Mapping[str, str] = field(default_factory=dict)
    max_upload_bytes: int | None = None
    ledger: str = ""
    ledger_optional: bool = False
    max_connections: int = 100

    @classmethod
    def of(
        cls,
        conn_id: str,
        *,
        host: str | None,
        schema: str | None = None,
        port: int | None = None,
        token: str | None = None,
        extra: str | None = None,
    ) -> Settings:
        """
        Return the settings in the fields of an Airflow connection.

        :param conn_id: the connection's id, for messages.
        :param host: the server's name or URL, with or without scheme, port and base path.
        :param schema: ``https`` (default) or ``http``, if the host has no scheme.
        :param port: the port, if the host has none.
        :param token: the connection's password.
        :param extra: the connection's extra, a JSON object as text.
        :raises InvalidInputError: a field is missing or invalid; the message names it.
        """
        where = f"The connection {conn_id!r}"
        options = Options.of(where, extra)
        if not token:
            raise InvalidInputError(
                f"{where} has no token", hint="Put the API token from DATATILE's Profile page into its password."
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidInputError(
                f"{where} has a token with spaces or special characters",
                hint="Copy it again from DATATILE's Profile page, without spaces or line breaks around it.",
            )
        server = ServerConfig(
            _server_url(where, host, schema, port, options.allow_http),
            api_path=options.api_path,
            job_path=options.job_path,
            codebook_export_path=options.codebook_export_path,
            codebook_import_path=options.codebook_import_path,
            codebook_field=options.codebook_field,
            job_id_field=options.job_id_field,
            status_field=options.status_field,
            status_map=options.status_map,
            callback_field=options.callback_field,
            rows_field=options.rows_field,
            database_field=options.database_field,
            status_codes=options.status_codes,
            log_url=options.processing_log_url,
        )
        return cls(
            server,
            token,
            options.timeout,
            options.verify,
            options.proxies,
            options.max_upload_bytes,
            options.ledger,
            options.ledger_optional,
            options.max_connections,
        )


def _server_url(where: str, host: str | None, schema: str | None, port: int | None, allow_http: bool) -> str:
    host, schema = (host or "").strip(), (schema or "").strip().lower()
    if not host:
        raise InvalidInputError(f"{where} has no host", hint="Put the DATATILE server's name or URL into its host.")
    if schema not in ("", "http", "https"):
        raise InvalidInputError(
            f"{where} has an unknown schema, {schema!r}", hint="Use 'https' (the default) or 'http'."
        )
    try:
        parts = urlsplit(host if "://" in host else f"{schema or 'https'}://{host}")
        port = parts.port or port
        # The mistyped "https:/name" is parsed as the host "https" with an empty port.
        if parts.netloc.endswith(":") or (port and not 0 < port < 65_536):
            raise ValueError
        # Raises on a name that DNS cannot resolve: an empty label, or one that is too long.
        (parts.hostname or "").encode("idna")
    except ValueError:
        parts = urlsplit("")
    malformed = any(c.isspace() or not c.isprintable() for c in host) or parts.query or parts.fragment or "@" in host
    if parts.scheme not in ("http", "https") or not parts.hostname or malformed:
        raise InvalidInputError(
            f"{where} has a host that is not a server's address: {host.rpartition('@')[2]!r}",
            hint="Use a name such as datatile.example.com, or a URL such as https://datatile.example.com:8443/base.",
        )
    if schema and schema != parts.scheme:
        raise InvalidInputError(
            f"{where} has the schema {schema!r}, but its host begins with {parts.scheme!r}",
            hint="Leave the schema empty.",
        )
    if parts.scheme == "http" and not allow_http and not _is_loopback(parts.hostname):
        raise InvalidInputError(
            f"{where} would send the token and the data unencrypted to {parts.hostname}",
            hint='Use https. To allow plain http, set "allow_http": true in its extra.',
        )
    if port == {"https": 443, "http": 80}[parts.scheme]:
        # The ledger and the stored state tell servers apart by their URL.
        port = None
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _is_loopback(hostname: str) -> bool:
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"
