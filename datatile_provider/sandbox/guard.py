"""Rejects requests that a web page of another site makes through a browser on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping

from datatile_provider.sandbox.options import is_loopback

# A prefix instead of a list of paths, so that it covers paths that are added later.
CONTROL_PREFIX = "/sandbox/"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::[0-9]*)?")


def rejection(method: str, path: str, headers: Mapping[str, str]) -> str | None:
    """Return why a request with this decoded path is rejected, or None."""
    host = headers.get("Host", "").lower()
    match = HOST.fullmatch(host)
    # DNS rebinding: a site can resolve its own name to 127.0.0.1, and its page then has the sandbox's origin.
    # The port is not compared, because a proxy on another port may be in front of the sandbox.
    if not match or not is_loopback(match[1] or match[2]):
        return f"The Host header must be localhost or a loopback address, not {host!r}"
    origin = headers.get("Origin")
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        return f"The request comes from a page of another origin: Origin is {origin!r}, Host is {host!r}"
    # An HTML form cannot send this header. A script of another origin needs a CORS preflight first, which fails.
    if path.startswith(CONTROL_PREFIX) and method not in SAFE_METHODS and not headers.get("X-Requested-With"):
        return "A request that changes the sandbox needs the header X-Requested-With with any value"
    return None
