"""Keeps the web pages of other sites from reading or changing the sandbox through a browser on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .options import is_loopback

# A prefix instead of a list: a path that is added later is covered too.
CONTROLS = "/sandbox/"
READING = ("GET", "HEAD", "OPTIONS")
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+))(?::[0-9]*)?")


def refusal(method: str, path: str, headers: Mapping[str, str]) -> str | None:
    """
    Return why a request is refused, or None.

    :param method: the HTTP method.
    :param path: the path, decoded.
    :param headers: the headers, by their usual spelling or without regard to case.
    """
    host = headers.get("Host", "").lower()
    match = HOST.fullmatch(host)
    # A site can let its own name resolve to 127.0.0.1; then the page has the same origin as the sandbox.
    # The port is not compared: a proxy on another port may stand before the sandbox.
    if not match or not is_loopback(match[1] or match[2]):
        return f"The Host header must name this machine, as localhost or 127.0.0.1, and it is {host!r}"
    origin = headers.get("Origin")
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        return f"The request comes from a page of another origin: Origin is {origin!r}, and Host is {host!r}"
    # A form cannot send this header. A script of another origin must ask for permission first, and never gets it.
    if path.startswith(CONTROLS) and method not in READING and not headers.get("X-Requested-With"):
        return "A request that changes the sandbox needs the header X-Requested-With, with any value"
    return None
