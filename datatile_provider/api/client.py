"""A client of the Data Collector API over ``requests``: one request per call, each failure as an error of its kind."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.util import parse_url

from datatile_provider.api import contract, errors
from datatile_provider.api.contract import Job, Server, Upload
from datatile_provider.api.multipart import Dataset, MultipartBody
from datatile_provider.api.responses import MAX_RESPONSE_BYTES, Response, redact
from datatile_provider.api.settings import Settings

#: Seconds to connect to the server: a server that is down should be noticed soon.
CONNECT_TIMEOUT = 10.0
#: The most seconds for a poll: one that hangs must not delay the wait's next poll for longer.
POLL_TIMEOUT = 30.0
#: The most bytes of the response to a poll that are read: parsing them blocks the triggerer's event loop.
MAX_POLL_BYTES = 1 << 16
# The reasons that versions of OpenSSL give when the response is plain HTTP.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


class DatatileClient:
    """
    A client of one server. It makes one attempt; the caller decides about retries.

    :param settings: the connection.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def upload(
        self,
        upload: Upload,
        dataset: Dataset,
        callback_url: str | None = None,
        on_progress: Callable[[int, int], None] = lambda sent, size: None,
    ) -> Job:
        """
        Send a file and return the job that processes it.

        :param callback_url: where the server pushes the job's transitions.
        :param on_progress: called with the bytes sent and the bytes to send.
        :raises TransientError: not accepted; another attempt may succeed.
        :raises PermanentError: not accepted; another attempt changes nothing.
        :raises OutcomeUnknownError: the server may hold the upload.
        """
        server = self._settings.server
        body = MultipartBody(dataset, {server.callback_field: callback_url} if callback_url else {}, on_progress)
        try:
            response = self._ask(
                "POST",
                server.upload_url(upload.action, upload.target_hash),
                data=body,
                headers={"Content-Type": body.content_type},
            )
        # The exceptions of requests are OSErrors; a missing CA bundle of the environment raises a plain OSError.
        except OSError as e:
            if body.complete:
                why = f"The whole file was sent, then no response came: {reason(e, self._settings.token)}"
                raise contract.unknown_outcome(server, upload, why) from e
            sent = "Nothing was sent."
            if body.sent:
                sent = f"{body.sent:,} of {len(body):,} bytes were sent, so the file was not accepted."
            raise self._failure(e, str(upload), sent) from e
        return contract.read_upload(server, upload, response, whole_body_sent=body.complete)

    def get_job(self, job_id: str) -> Job:
        """
        Poll a job once.

        :raises TransientError: no usable response now.
        :raises PermanentError: the server will not report it.
        """
        server = self._settings.server
        url = server.job_url(contract.check_job_id(job_id))
        try:
            response = self._ask(
                "GET",
                url,
                stall_timeout=POLL_TIMEOUT - CONNECT_TIMEOUT,
                whole_timeout=POLL_TIMEOUT,
                max_bytes=MAX_POLL_BYTES + 1,
            )
        except OSError as e:
            raise self._failure(e, f"job {job_id}") from e
        return read_poll(server, job_id, response)

    def probe(self) -> None:
        """
        Check server, paths, token and roles, without sending a file or changing anything.

        It sends uploads without a file to targets that can't exist, and polls a job that can't exist. The poll is
        repeated with a made-up token, which must get another response.

        :raises DatatileError: what is wrong.
        """
        server = self._settings.server
        nowhere = "connection-test"
        job_url = server.job_url(nowhere)
        for method, url in (
            ("POST", server.upload_url(contract.Action.CREATE, nowhere)),
            ("POST", server.upload_url(contract.Action.APPEND, nowhere)),
            ("GET", job_url),
        ):
            response = self._test(method, url)
            contract.read_probe(server, url, response)
        # A client of its own, so that the made-up token is redacted as the real one is.
        stranger = DatatileClient(replace(self._settings, token=secrets.token_hex(20)))
        contract.check_token_is_verified(server, job_url, response, stranger._test("GET", job_url))

    def _test(self, method: str, url: str) -> Response:
        try:
            return self._ask(method, url)
        except OSError as e:
            raise self._failure(e, f"test of {url}") from e

    def _ask(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        data: Any = None,
        stall_timeout: float = float("inf"),
        whole_timeout: float = float("inf"),
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> Response:
        settings = self._settings
        stall_timeout = min(stall_timeout, settings.timeout)
        # A new connection: the server may close one that is kept alive while the first bytes are sent.
        with _Session() as session, _redacted_urllib3_log(settings.token):
            # With an auth set, requests does not send credentials from a .netrc.
            session.auth = lambda request: request
            # The socket's own timeout must come first, as its error says what timed out; hence twice.
            adapter = _Adapter(stall_timeout, min(whole_timeout, 2 * stall_timeout))
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            with session.request(
                method,
                url,
                data=data,
                headers={"token": settings.token, **(headers or {})},
                timeout=(min(CONNECT_TIMEOUT, stall_timeout), stall_timeout),
                stream=True,
                # Per request: on the session, the environment's CA bundle would override the connection's.
                verify=settings.verify,
                proxies=dict(settings.proxies) or None,
            ) as response:
                body = b""
                for block in response.iter_content(1 << 16):
                    body += block
                    if len(body) >= max_bytes:
                        break
                return Response(
                    response.status_code,
                    body[:max_bytes],
                    response.headers.get("Retry-After", ""),
                    response.headers.get("Location", ""),
                ).redact(settings.token)

    def _failure(self, error: OSError, subject: str, note: str = "") -> errors.DatatileError:
        certificate = _certificate_error(error)
        return no_response(
            self._settings, subject, reason(error, self._settings.token), error, note, certificate=certificate
        )


def no_response(
    settings: Settings, subject: str, why: str, error: BaseException, note: str = "", *, certificate: bool = False
) -> errors.DatatileError:
    """
    Return the error for a request that got no response.

    :param subject: the upload or the job.
    :param why: the reason, for people.
    :param error: what the HTTP library raised.
    :param note: a sentence about what was sent.
    :param certificate: whether the server's certificate could not be verified.
    """
    what = "\n".join(filter(None, [f"No response from {address_with_proxy(settings)}:\n{why}", note.rstrip(".")]))
    if certificate:
        return errors.UntrustedCertificateError(
            what,
            subject=subject,
            hint="Set verify in the connection's extra to the CA bundle that signed the server's certificate.",
        )
    return errors.ServerUnreachableError(what, subject=subject, hint=connection_hint(error, settings))


def read_poll(server: Server, job_id: str, response: Response) -> Job:
    """
    Return the job that was polled.

    :param response: the response, as far as it was read: one byte over the limit shows that it is longer.
    :raises DatatileError: as :func:`.contract.read_job`.
    """
    if len(response.body) > MAX_POLL_BYTES and 200 <= response.status < 300:
        raise errors.UnexpectedResponseError(
            f"The response has more than {MAX_POLL_BYTES:,} bytes, too many for a job's status",
            subject=f"job {job_id}",
            hint="Check the connection's api_path and job_path.",
            status=response.status,
        )
    return contract.read_job(server, job_id, response)


def proxy_of(settings: Settings) -> str | None:
    """Return the URL of the proxy for a server: the connection's, or the environment's."""
    url = settings.server.url
    found = select_proxy(url, {**get_environ_proxies(url), **settings.proxies})
    # The stubs of requests leave this one untyped.
    return str(prepend_scheme_if_needed(found, "http")) if found else None  # type: ignore[no-untyped-call]


def address_with_proxy(settings: Settings) -> str:
    """Return the address of a server and of its proxy, without the proxy's user name and password."""
    proxy = proxy_of(settings)
    return settings.server.url + (f" through the proxy {parse_url(proxy)._replace(auth=None)}" if proxy else "")


def connection_hint(error: BaseException, settings: Settings) -> str:
    """Return what to check when a server can't be reached; ``""`` when it may just be down for a moment."""
    chain = list(_chain(error))
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
    seen = list(_chain(error))
    last = next((e for e in reversed(seen) if str(e)), None)
    if last is None:
        return "timed out" if isinstance(error, TimeoutError) else type(error).__name__
    text = str(last)
    if isinstance(last, OSError) and last.errno and not isinstance(last, ssl.SSLError):
        # Without the "[Errno 111]", and without asyncio's "Connect call failed ('127.0.0.1', 443)".
        text = os.strerror(last.errno) if last.errno > 0 else last.strerror or text
    return redact(text.rstrip("."), secret)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    inner: BaseException | None = error
    while inner and inner not in seen:
        yield inner
        seen.append(inner)
        inner = _inner(inner)


def _inner(error: BaseException) -> BaseException | None:
    found = getattr(error, "reason", None)
    if isinstance(found, BaseException):
        return found
    # urllib3's ProtocolError has the reason among its arguments.
    return next((arg for arg in error.args if isinstance(arg, BaseException)), error.__cause__)


def _certificate_error(error: BaseException) -> bool:
    return any(isinstance(e, ssl.SSLCertVerificationError) for e in _chain(error))


@contextlib.contextmanager
def _redacted_urllib3_log(secret: str) -> Iterator[None]:
    """Drop urllib3's warning about invalid headers when it quotes a secret that the server echoed."""

    def has_no_secret(record: logging.LogRecord) -> bool:
        return secret not in record.getMessage()

    logger = logging.getLogger("urllib3.connection")
    logger.addFilter(has_no_secret)
    try:
        yield
    finally:
        logger.removeFilter(has_no_secret)


class _Session(requests.Session):
    """Follows no redirect. With allow_redirects=False, requests would still parse the address and read the body."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _FinalResponse(http.client.HTTPResponse):
    """Skips the interim responses 102 and 103; the standard library only skips 100."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # not in the stubs
            if not 101 < found[1] < 200:
                return found
            # The connection's watchdog limits the time for all of them.
            http.client.parse_headers(self.fp)


class _UploadConnection:
    """
    Reads a response that comes before the end of the body, and lets a slow upload take its time.

    A server may respond (413, 401) and close the connection while the body is still being sent. urllib3 reads that
    response after a BrokenPipeError. Over TLS an SSL error is raised instead, so this class converts it.
    """

    response_class = _FinalResponse
    stall_timeout: float
    whole_timeout: float
    sock: Any
    _watchdog: threading.Timer | None = None

    def send(self, data: Any) -> None:
        if self.sock is None:
            super().send(data)  # type: ignore[misc]  # the connection class that this is mixed into
            return
        # Python's timeout is for the whole of one send, and urllib3 would keep the short connect timeout.
        self.sock.settimeout(self.stall_timeout)
        try:
            super().send(data)  # type: ignore[misc]  # as above
        except TimeoutError:
            raise
        except OSError as e:
            raise BrokenPipeError(str(e)) from e

    def getresponse(self) -> Any:
        # A server that sends one byte at a time never hits the socket's timeout; this limits the whole response.
        self._watchdog = threading.Timer(self.whole_timeout, self._close_socket, [self.sock])
        self._watchdog.daemon = True
        self._watchdog.start()
        return super().getresponse()  # type: ignore[misc]  # as above

    def close(self) -> None:
        if self._watchdog:
            self._watchdog.cancel()
        super().close()  # type: ignore[misc]  # as above

    @staticmethod
    def _close_socket(sock: Any) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Sends bodies through :class:`_UploadConnection`."""

    def __init__(self, stall_timeout: float, whole_timeout: float) -> None:
        limits = {"stall_timeout": stall_timeout, "whole_timeout": whole_timeout}
        plain = type("_Http", (_UploadConnection, HTTPConnection), limits)
        secure = type("_Https", (_UploadConnection, HTTPSConnection), limits)
        self._pools = {
            "http": type("_HttpPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("_HttpsPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager
