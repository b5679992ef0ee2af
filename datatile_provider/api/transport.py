"""What both clients share: time limits, proxies, and the reason why a request got no response."""

from __future__ import annotations

import logging
import os
import socket
import ssl

from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy
from urllib3.util import parse_url

from datatile_provider.api import errors
from datatile_provider.api.responses import Response, redact
from datatile_provider.api.settings import Settings

#: Seconds to connect to the server: a server that is down should be noticed soon.
CONNECT_TIMEOUT = 10.0
#: The most seconds for a poll: one that hangs must not delay the wait's next poll for longer.
POLL_TIMEOUT = 30.0
#: The most bytes of a response's body that are logged.
LOGGED_BYTES = 2048
# The reasons that versions of OpenSSL give when the response is plain HTTP.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_log = logging.getLogger(__name__)


def logged(method: str, url: str, response: Response) -> Response:
    """Return a response, and log it at level debug as the server sent it, without the secret."""
    if not _log.isEnabledFor(logging.DEBUG):
        return response
    headers = {"Location": response.location, "Retry-After": response.retry_after}
    shown = "".join(f"{name}: {value} " for name, value in headers.items() if value)
    body = response.body[:LOGGED_BYTES].decode("utf-8", "replace")
    _log.debug("%s %s: status %s %s%r", method, url, response.status, shown, body)
    return response


def no_response(
    settings: Settings, subject: str, error: BaseException, *, why: str = "", note: str = ""
) -> errors.DatatileError:
    """
    Return the error for a request that got no response.

    :param subject: the upload or the job.
    :param error: what the HTTP library raised.
    :param why: the reason, for people, if the error does not say it.
    :param note: what was sent, as a sentence without its full stop.
    """
    why = why or reason(error, settings.token)
    what = "\n".join(filter(None, [f"No response from {address_with_proxy(settings)}:\n{why}", note]))
    chain = _chain(error)
    if any(isinstance(e, ssl.SSLCertVerificationError) for e in chain):
        return errors.UntrustedCertificateError(
            what,
            subject=subject,
            hint="Set verify in the connection's extra to the CA bundle that signed the server's certificate.",
        )
    return errors.ServerUnreachableError(what, subject=subject, hint=_hint(chain, settings))


def proxy_of(settings: Settings) -> str | None:
    """Return the URL of the proxy for a server: the connection's, or the environment's."""
    url = settings.server.url
    found = select_proxy(url, {**get_environ_proxies(url), **settings.proxies})
    if not found:
        return None
    return str(prepend_scheme_if_needed(found, "http"))  # type: ignore[no-untyped-call]  # not in the stubs


def address_with_proxy(settings: Settings) -> str:
    """Return the address of a server and of its proxy, without the proxy's user name and password."""
    proxy = proxy_of(settings)
    return settings.server.url + (f" through the proxy {parse_url(proxy)._replace(auth=None)}" if proxy else "")


def _hint(chain: list[BaseException], settings: Settings) -> str:
    """Return what to check when a server can't be reached; ``""`` when it may just be down for a moment."""
    if any(isinstance(e, (socket.gaierror, ConnectionRefusedError)) for e in chain) and proxy_of(settings):
        return "Check the proxy: proxies in the connection's extra, or in the environment HTTP_PROXY and HTTPS_PROXY."
    if any(isinstance(e, socket.gaierror) for e in chain):
        return "Check the connection's host: its name can't be resolved."
    if any(isinstance(e, ConnectionRefusedError) for e in chain):
        return "Check the connection's host and port, and that the server is up."
    # aiohttp's own SSLError has no reason.
    if any(isinstance(e, ssl.SSLError) and getattr(e, "reason", None) in _NOT_TLS for e in chain):
        return "Check the connection's schema and port: the server does not speak https there."
    return ""


def reason(error: BaseException, secret: str) -> str:
    """
    Return the innermost reason of a chain of exceptions, for a person.

    :param secret: redacted in the result: libraries quote what they can't parse, and a server may echo the token.
    """
    last = next((e for e in reversed(_chain(error)) if str(e)), None)
    if last is None:
        return "timed out" if isinstance(error, TimeoutError) else type(error).__name__
    text = str(last)
    if isinstance(last, OSError) and last.errno and not isinstance(last, ssl.SSLError):
        # Without the "[Errno 111]", and without asyncio's "Connect call failed ('127.0.0.1', 443)".
        text = os.strerror(last.errno) if last.errno > 0 else last.strerror or text
    return redact(text.rstrip("."), secret)


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    inner: BaseException | None = error
    while inner and inner not in chain:
        chain.append(inner)
        # urllib3's ProtocolError has the reason among its arguments.
        candidates = (getattr(inner, "reason", None), *inner.args)
        inner = next((found for found in candidates if isinstance(found, BaseException)), inner.__cause__)
    return chain
