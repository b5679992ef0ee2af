"""Reads a document from a file or a URL, up to a size."""

from __future__ import annotations

import time
from pathlib import Path

from datatile_provider.cli.openapi.load import MAX_BYTES, DocumentError, too_large

#: Seconds without progress, and in total.
_TIMEOUT = (10, 30)
_TOTAL_SECONDS = 300
_BLOCK = 1 << 16


def is_url(spec: str) -> bool:
    """Return whether a document is named by its URL."""
    return spec.lower().startswith(("http://", "https://"))


def fetch(spec: str) -> bytes:
    """
    Return the bytes of a document.

    :param spec: its file, or its http or https URL.
    :raises DocumentError: it cannot be read, or is too large.
    """
    return _from_url(spec) if is_url(spec) else _from_file(spec)


def _from_file(spec: str) -> bytes:
    try:
        path = Path(spec)
        # A pipe or a device might never end.
        if path.exists() and not path.is_file():
            raise DocumentError("It is not a file", subject=spec, hint="Give a file or an http(s) URL.")
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DocumentError(
            f"The document cannot be read ({reason})", subject=spec, hint="Check the path, and that you may read it."
        ) from None
    if len(body) > MAX_BYTES:
        raise too_large()
    return body


def _from_url(spec: str) -> bytes:
    import requests

    deadline = time.monotonic() + _TOTAL_SECONDS
    body = bytearray()
    try:
        with requests.get(spec, timeout=_TIMEOUT, stream=True) as response:
            if not response.ok:
                raise DocumentError(
                    f"The server responded with {response.status_code} {response.reason or ''}".rstrip(),
                    subject=spec,
                    hint="Check the URL. If the document needs a login, download it and give the file.",
                )
            for block in response.iter_content(_BLOCK):
                body += block
                if len(body) > MAX_BYTES:
                    raise too_large()
                if time.monotonic() > deadline:
                    raise DocumentError(
                        f"The document was not complete after {_TOTAL_SECONDS} seconds",
                        subject=spec,
                        hint="Download it, and give the file.",
                    )
    except (requests.RequestException, ValueError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(
            f"The document cannot be downloaded ({type(error).__name__})",
            subject=spec,
            hint="Check the URL and the way to the server, or download the document and give the file.",
        ) from None
    return bytes(body)
