"""The Data Collector API over ``requests``: one request a call, each failure sorted by what the server can hold."""

from __future__ import annotations

import contextlib
import http.client
import logging
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

#: Seconds to reach the server: one that is down should be known soon.
CONNECT_TIMEOUT = 10.0
#: Seconds for a poll, at most: one that hangs must not keep a wait from its next poll.
POLL_TIMEOUT = 30.0
#: Bytes of the response to a poll that are read, at most: the triggerer's event loop stands still while it looks for
#: the status in them.
MAX_POLL_BYTES = 1 << 16
# What OpenSSL says of an answer in plain HTTP, by its version.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


class DatatileClient:
    """
    A client of one server. It tries once; who calls it decides what to do about a failure.

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
        :raises TransientError: not accepted, may be tried again.
        :raises PermanentError: not accepted, for good.
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
        # Those of requests are OSErrors too; a CA bundle of the environment that is not there gives a plain one.
        except OSError as e:
            if body.complete:
                why = f"the whole file was sent, then {reason(e, self._settings.token)}"
                raise contract.unknown_outcome(server, upload, why) from e
            sent = f"; {body.sent:,} of {len(body):,} bytes were sent, so nothing was accepted"
            raise self._failure(e, f"The {upload} did not get through to", sent) from e
        return contract.read_upload(server, upload, response, whole_body_sent=body.complete)

    def get_job(self, job_id: str) -> Job:
        """
        Poll a job once.

        :raises TransientError: no usable response now.
        :raises PermanentError: the server will not tell.
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
            raise self._failure(e, f"The poll of job {job_id} got no response from") from e
        return read_poll(server, job_id, response)

    def probe(self) -> None:
        """
        Make sure that server, paths, token and roles are right, without sending or changing anything.

        It sends no file to targets that can't exist, and asks for a job that can't exist; for that once more with a
        made-up token, which must be answered differently.

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
        # A client of its own, so that whatever blots out the token blots out this one.
        stranger = DatatileClient(replace(self._settings, token=secrets.token_hex(20)))
        contract.check_token_is_verified(server, job_url, response, stranger._test("GET", job_url))

    def _test(self, method: str, url: str) -> Response:
        try:
            return self._ask(method, url)
        except OSError as e:
            raise self._failure(e, "The connection test got no response from") from e

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
        # A connection of its own: one kept alive may be closed by the server under the first byte.
        with _Session() as session, _redacted_urllib3_log(settings.token):
            # Any auth of ours keeps requests from sending what it finds for the host in a .netrc.
            session.auth = lambda request: request
            # A silence is ended by the socket's own timeout, which says what it was; hence twice.
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
                # At the request, not the session: there the environment's bundle would win over the connection's.
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

    def _failure(self, error: OSError, what: str, note: str = "") -> errors.DatatileError:
        what = f"{what} {address_with_proxy(self._settings)}: {reason(error, self._settings.token)}{note}"
        if _certificate_error(error):
            return untrusted_certificate(what)
        return errors.TransientError(what, hint=connection_hint(error, self._settings))


def read_poll(server: Server, job_id: str, response: Response) -> Job:
    """
    Return the job that was asked for.

    :param response: the response, as far as it was read: one byte over the limit shows that it is longer.
    :raises DatatileError: as :func:`.contract.read_job`.
    """
    if len(response.body) > MAX_POLL_BYTES and 200 <= response.status < 300:
        raise errors.UnexpectedResponseError(
            f"The poll of job {job_id} got a response of more than {MAX_POLL_BYTES:,} bytes",
            hint="A job's status is shorter: check the connection's api_path and job_path.",
            status=response.status,
        )
    return contract.read_job(server, job_id, response)


def proxy_of(settings: Settings) -> str | None:
    """Return the URL of the proxy on the way to a server: the connection's, or the environment's."""
    url = settings.server.url
    found = select_proxy(url, {**get_environ_proxies(url), **settings.proxies})
    # The stubs of requests leave this one untyped.
    return str(prepend_scheme_if_needed(found, "http")) if found else None  # type: ignore[no-untyped-call]


def address_with_proxy(settings: Settings) -> str:
    """Return the address of a server, and of the proxy on the way to it, without what the proxy is told of the user."""
    proxy = proxy_of(settings)
    return settings.server.url + (f" by the proxy {parse_url(proxy)._replace(auth=None)}" if proxy else "")


def connection_hint(error: BaseException, settings: Settings) -> str:
    """Return what to check when a server can't be reached or understood; nothing when it may just be away."""
    chain = list(_chain(error))
    if any(isinstance(e, (socket.gaierror, ConnectionRefusedError)) for e in chain) and proxy_of(settings):
        return "Check the proxy: proxies in the connection's extra, or in the environment HTTP_PROXY and HTTPS_PROXY."
    if any(isinstance(e, socket.gaierror) for e in chain):
        return "Check the connection's host: its name leads nowhere."
    if any(isinstance(e, ConnectionRefusedError) for e in chain):
        return "Check the connection's host and port, and that the server is up."
    # aiohttp's own error is an SSLError that lacks the reason.
    if any(isinstance(e, ssl.SSLError) and getattr(e, "reason", None) in _NOT_TLS for e in chain):
        return "Check the connection's schema and port: the server does not speak https there."
    return ""


def untrusted_certificate(what: str) -> errors.UntrustedCertificateError:
    """Return the error for a server whose certificate could not be verified."""
    return errors.UntrustedCertificateError(
        what,
        hint="Set verify in the connection's extra to the CA bundle that signed the server's certificate.",
    )


def reason(error: BaseException, secret: str) -> str:
    """
    Return the innermost reason of a chain of exceptions, for a person.

    :param secret: what is blotted out: libraries quote what they can't read, and an odd server may echo the token.
    """
    seen = list(_chain(error))
    last = next((e for e in reversed(seen) if str(e)), None)
    if last is None:
        return "the time for it was over" if isinstance(error, TimeoutError) else type(error).__name__
    return redact(f"{type(last).__name__}: {last}", secret)


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
    if error.args and isinstance(error.args[0], BaseException):
        return error.args[0]
    return error.__cause__


def _certificate_error(error: BaseException) -> bool:
    return any(isinstance(e, ssl.SSLCertVerificationError) for e in _chain(error))


@contextlib.contextmanager
def _redacted_urllib3_log(secret: str) -> Iterator[None]:
    """Keep urllib3's warning about headers that it can't read from quoting a secret that the server echoed."""

    def without_secret(record: logging.LogRecord) -> bool:
        return secret not in record.getMessage()

    logger = logging.getLogger("urllib3.connection")
    logger.addFilter(without_secret)
    try:
        yield
    finally:
        logger.removeFilter(without_secret)


class _Session(requests.Session):
    """Follows no redirect; told not to, requests would still read it whole, and trip over an odd address."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _FinalResponse(http.client.HTTPResponse):
    """Passes over interim responses (102, 103); the standard library does so for 100 alone."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # not in the stubs
            if not 101 < found[1] < 200:
                return found
            # The whole of them is bounded as every other response, by the connection's watchdog.
            http.client.parse_headers(self.fp)


class _UploadConnection:
    """
    Lets an early answer be read, and a slow line be slow.

    A server may answer (413, 401) and close while the body is still being sent. urllib3 then reads that answer when
    the break shows as a broken pipe; over TLS it shows as an SSL error instead, so it is made into one here.
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
        # Python bounds the whole of one send, and urllib3 leaves the short timeout for connecting in force.
        self.sock.settimeout(self.stall_timeout)
        try:
            super().send(data)  # type: ignore[misc]  # likewise
        except TimeoutError:
            raise
        except OSError as e:
            raise BrokenPipeError(str(e)) from e

    def getresponse(self) -> Any:
        # A server that drips its response makes progress forever; this bounds the whole response.
        self._watchdog = threading.Timer(self.whole_timeout, self._close_socket, [self.sock])
        self._watchdog.daemon = True
        self._watchdog.start()
        return super().getresponse()  # type: ignore[misc]  # likewise

    def close(self) -> None:
        if self._watchdog:
            self._watchdog.cancel()
        super().close()  # type: ignore[misc]  # likewise

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
