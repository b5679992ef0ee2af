"""Which certificate authorities are trusted."""

from __future__ import annotations

import contextlib
import os
import ssl

import certifi

from datatile_provider.api import errors


def tls_context(bundle: str) -> ssl.SSLContext:
    """
    Return a TLS context that trusts the certificate authorities of a CA bundle.

    :param bundle: the path of a PEM file, or of a folder as ``c_rehash`` makes it.
    :raises OSError: the bundle cannot be read, or is not a CA bundle.
    """
    is_folder = os.path.isdir(bundle)
    return ssl.create_default_context(cafile=None if is_folder else bundle, capath=bundle if is_folder else None)


def ssl_context(bundle: str | None) -> ssl.SSLContext:
    """
    Return a TLS context for a CA bundle, or one that trusts any server.

    :raises InvalidInputError: the bundle cannot be used.
    """
    if bundle is None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return tls_context(bundle)
    except OSError as e:
        raise errors.InvalidInputError(f"The CA bundle {bundle} of the environment cannot be used ({e})") from e


def bundle_of(verify: bool | str) -> str | None:
    """Return the CA bundle to check a server's certificate with; None if it is not checked."""
    if isinstance(verify, str):
        return verify
    # As requests does, so that uploads and waits trust the same servers.
    found = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    return found or certifi.where() if verify else None


def mtime_of(bundle: str | None) -> int:
    """Return when a bundle was last changed, in nanoseconds; 0 if that can't be read."""
    # Loading a bundle that can't be read raises the error.
    with contextlib.suppress(OSError):
        return os.stat(bundle).st_mtime_ns if bundle else 0
    return 0
