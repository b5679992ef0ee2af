"""Validates an Airflow connection: the server's address, the API token and the options of the extra."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.api.models import ServerConfig
from datatile_provider.api.states import JobState, folded
from datatile_provider.api.tls import tls_context
from datatile_provider.api.validation import is_web_address


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
    """

    server: ServerConfig
    token: str = field(repr=False)
    timeout: float = 120.0
    verify: bool | str = True
    proxies: Mapping[str, str] = field(default_factory=dict)
    max_upload_bytes: int | None = None

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
        options = _Options(where, extra)
        if not token:
            raise InvalidInputError(
                f"{where} has no token",
                hint="Put the API token from DATATILE's Profile page into its password.",
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidInputError(
                f"{where} has a token with spaces or special characters",
                hint="Copy it again from DATATILE's Profile page, without spaces or line breaks around it.",
            )
        default_server = ServerConfig(_server_url(where, host, schema, port, options.take("allow_http", _flag, False)))
        server = ServerConfig(
            default_server.url,
            api_path=options.take("api_path", _path, default_server.api_path),
            job_path=options.take("job_path", _job_path, default_server.job_path),
            job_id_field=options.take("job_id_field", _field, default_server.job_id_field),
            status_field=options.take("status_field", _field, default_server.status_field),
            status_map=options.take("status_map", _status_map, default_server.status_map),
            callback_field=options.take("callback_field", _name, default_server.callback_field),
            log_url=options.take("processing_log_url", _web_address, default_server.log_url),
        )
        default = cls(server, token)
        settings = cls(
            server,
            token,
            timeout=options.take("timeout", _seconds, default.timeout),
            verify=options.take("verify", _verify, default.verify),
            proxies=options.take("proxies", _proxies, default.proxies),
            max_upload_bytes=options.take("max_upload_bytes", _bytes, default.max_upload_bytes),
        )
        options.reject_unknown()
        return settings


class _Options:
    """The options of an extra. Each is taken once; one that was not taken is unknown."""

    def __init__(self, where: str, extra: str | None) -> None:
        self._where = where
        self._known: list[str] = []
        try:
            self._given = json.loads(extra) if extra and extra.strip() else {}
        except (ValueError, RecursionError) as e:
            raise InvalidInputError(
                f"{where} has an extra that is not JSON ({e})", hint="Check its quotes, commas and brackets."
            ) from None
        if not isinstance(self._given, dict):
            raise InvalidInputError(
                f"{where} has an extra that is not a JSON object", hint='Write it as in {"timeout": 300}.'
            )

    def take(self, name: str, read: Callable[[Any], Any], default: Any) -> Any:
        self._known.append(name)
        value = self._given.get(name)
        # Airflow's connection form stores an empty field as an empty string.
        if value is None or value == "":
            return default
        try:
            return read(value)
        except ValueError as e:
            raise InvalidInputError(f"{self._where} has an invalid {name!r} in its extra: {e}") from None

    def reject_unknown(self) -> None:
        for name in self._given:
            if name not in self._known:
                # Slow to import, and only needed here.
                import difflib

                close = difflib.get_close_matches(name, self._known, n=1)
                raise InvalidInputError(
                    f"{self._where} has an unknown option {name!r} in its extra",
                    hint=f"Did you mean {close[0]!r}?" if close else f"The options are: {', '.join(self._known)}.",
                )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip().isprintable() or not value.strip():
        raise ValueError("it must be text")
    return value.strip()


def _name(value: Any) -> str:
    name = _text(value)
    if any(c.isspace() for c in name) or not all(name.split(".")):
        raise ValueError("it must be a field name, with dots for nested fields")
    return name


def _field(value: Any) -> str:
    path = _text(value)
    if not all(name.strip() for name in path.split(".")):
        raise ValueError("it must be a field name, with dots for nested fields")
    return path


def _path(value: Any) -> str:
    path = _text(value).strip("/")
    if not path or "://" in path or ".." in path or any(c.isspace() or c in "?#" for c in path):
        raise ValueError("it must be a path on the server, such as 'api/v2'")
    return path


def _job_path(value: Any) -> str:
    path = _text(value).lstrip("/")
    if "{job_id}" not in path or "://" in path or ".." in path or any(c.isspace() or c == "#" for c in path):
        raise ValueError("it must be a path on the server with {job_id} in it, such as '{api_path}/jobs/{job_id}'")
    return path


def _flag(value: Any) -> bool:
    # A connection URI can hold only text.
    found = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError("it must be true or false")
    return found


def _seconds(value: Any) -> float:
    # The error messages of float() and int() would repeat the value.
    with contextlib.suppress(ValueError, OverflowError):
        if isinstance(value, (int, float, str)) and not isinstance(value, bool) and 0 < float(value) <= 86_400:
            return float(value)
    raise ValueError("it must be a number of seconds above 0 and at most 86400")


def _bytes(value: Any) -> int:
    with contextlib.suppress(ValueError):
        if isinstance(value, (int, str)) and not isinstance(value, bool) and int(value) > 0:
            return int(value)
    raise ValueError("it must be a whole number of bytes above 0")


def _object(value: Any) -> dict[str, str]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError("it must be a JSON object with text as values")
    return found


def _status_map(value: Any) -> dict[str, JobState]:
    states = [s.value for s in JobState if s is not JobState.UNKNOWN]
    if not all(v in states for v in _object(value).values()):
        raise ValueError(f"it must map the server's statuses to {', '.join(states)}")
    found = {word: JobState(state) for word, state in _object(value).items()}
    seen: dict[str, str] = {}
    for word, state in found.items():
        other = seen.setdefault(folded(word), word)
        if found[other] is not state:
            raise ValueError(f"{other!r} and {word!r} are the same status, and it maps them to two states")
    return found


def _proxies(value: Any) -> dict[str, str]:
    found = _object(value)
    if not set(found) <= {"http", "https"} or not all(is_web_address(v) for v in found.values()):
        raise ValueError("it must map 'http' and 'https' to proxy URLs")
    return found


def _verify(value: Any) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
        return _flag(value)
    if isinstance(value, str) and os.path.exists(value):
        try:
            _check_bundle(value, os.stat(value).st_mtime_ns)
        except OSError as e:
            raise ValueError(f"the CA bundle cannot be used ({e})") from None
        return value
    raise ValueError("it must be true, false, or the path of a CA bundle on this machine")


@functools.lru_cache(maxsize=16)
def _check_bundle(bundle: str, mtime_ns: int) -> None:
    """Make sure that a CA bundle can be loaded. Cached by the file's time, since loading takes tens of milliseconds."""
    tls_context(bundle)


def _web_address(value: Any) -> str:
    if not is_web_address(_text(value)):
        raise ValueError("it must be an http or https URL")
    return _text(value)


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
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _is_loopback(hostname: str) -> bool:
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"
