"""A client of the Data Collector API over ``requests``: one request per call, each failure as an error of its kind."""

from __future__ import annotations

import contextlib
import http.client
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from datatile_provider.api import errors, parsing
from datatile_provider.api.dataset import Dataset
from datatile_provider.api.models import Action, Job, Upload
from datatile_provider.api.multipart import MultipartBody
from datatile_provider.api.responses import MAX_CODEBOOK_BYTES, MAX_POLL_BYTES, MAX_RESPONSE_BYTES, Response
from datatile_provider.api.settings import Settings
from datatile_provider.api.transport import CONNECT_TIMEOUT, POLL_TIMEOUT, logged, no_response, reason
from datatile_provider.api.validation import check_job_id


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
        before_end: Callable[[], None] = lambda: None,
    ) -> Job:
        """
        Send a file and return the job that processes it.

        :param callback_url: where the server pushes the job's transitions.
        :param on_progress: called with the bytes sent and the bytes to send.
        :param before_end: called before the last bytes, when the whole file was read. Raises to abort the upload.
        :raises TransientError: not accepted; another attempt may succeed.
        :raises PermanentError: not accepted; another attempt changes nothing.
        :raises OutcomeUnknownError: the server may hold the upload.
        """
        server = self._settings.server
        fields = {server.callback_field: callback_url} if callback_url else {}
        body = MultipartBody(dataset, fields, on_progress, before_end)
        try:
            response = self._ask("POST", server.upload_url(upload.action, upload.target_hash), body)
        # The exceptions of requests are OSErrors; a missing CA bundle of the environment raises a plain OSError.
        except OSError as e:
            if body.complete:
                why = f"The whole file was sent, then no response came: {reason(e, self._settings.token)}"
                raise parsing.unknown_outcome(server, upload, why) from e
            sent = "Nothing was sent"
            if body.sent:
                sent = f"{body.sent:,} of {len(body):,} bytes were sent, so the file was not accepted"
            raise no_response(self._settings, str(upload), e, note=sent) from e
        return parsing.read_upload(server, upload, response, whole_body_sent=body.complete)

    def get_job(self, job_id: str) -> Job:
        """
        Poll a job once.

        :raises TransientError: no usable response now.
        :raises PermanentError: the server will not report it.
        """
        server = self._settings.server
        try:
            response = self._ask("GET", server.job_url(check_job_id(job_id)), is_poll=True)
        except OSError as e:
            raise no_response(self._settings, f"job {job_id}", e) from e
        return parsing.read_job(server, job_id, response)

    def get_codebook(self, database: str, write: Callable[[bytes], None]) -> None:
        """
        Read a database's codebook, an Excel file (documented).

        :param database: the database's hash.
        :param write: called with each block of the file. What was written counts only if no error is raised.
        :raises TransientError: no usable response now.
        :raises PermanentError: the server will not return it.
        """
        server, subject = self._settings.server, f"codebook of {database}"
        size = 0

        def count(block: bytes) -> None:
            nonlocal size
            size += len(block)
            write(block)

        try:
            response = self._ask("GET", server.codebook_export_url(database), write=count)
        except OSError as e:
            raise no_response(self._settings, subject, e) from e
        parsing.read_codebook(server, subject, response, size)

    def import_codebook(self, database: str, dataset: Dataset) -> None:
        """
        Send a codebook to a database. Twice has the same result as once, so no outcome is unknown (assumed).

        :param database: the database's hash.
        :param dataset: an Excel file.
        :raises TransientError: no usable response now.
        :raises PermanentError: the server has rejected it.
        """
        server, subject = self._settings.server, f"codebook {dataset.name!r} for {database}"
        body = MultipartBody(dataset, {}, part=server.codebook_field)
        try:
            response = self._ask("POST", server.codebook_import_url(database), body)
        except OSError as e:
            raise no_response(self._settings, subject, e) from e
        parsing.read_codebook_import(server, subject, response)

    def probe(self) -> None:
        """
        Check server, paths, token and roles, without sending a file or changing anything.

        It sends uploads without a file to targets that can't exist, and polls a job that can't exist. The poll is
        repeated with a made-up token, which must get another response.

        :raises DatatileError: what is wrong.
        """
        for _, error in self.probes():
            if error:
                raise error

    def probes(self) -> Iterator[tuple[str, errors.DatatileError | None]]:
        """Yield each request of :meth:`probe`, by what it tests, with its error; it is sent when it is asked for."""
        server = self._settings.server
        nowhere = "connection-test"
        job_url = server.job_url(nowhere)
        response = None
        for what, method, url in (
            ("create", "POST", server.upload_url(Action.CREATE, nowhere)),
            ("append", "POST", server.upload_url(Action.APPEND, nowhere)),
            ("job", "GET", job_url),
        ):
            try:
                response = self._test(method, url)
                parsing.read_probe(server, url, response)
                yield what, None
            except errors.DatatileError as e:
                yield what, e
                # The response to an earlier request is not the one to compare with.
                response = None
        if response is None:
            return
        # A client of its own, so that the made-up token is redacted as the real one is.
        stranger = DatatileClient(replace(self._settings, token=secrets.token_hex(20)))
        try:
            parsing.check_token_is_verified(server, job_url, response, stranger._test("GET", job_url))
            yield "made-up token", None
        except errors.DatatileError as e:
            yield "made-up token", e

    def _test(self, method: str, url: str) -> Response:
        try:
            return self._ask(method, url)
        except OSError as e:
            raise no_response(self._settings, f"test of {url}", e) from e

    def _ask(
        self,
        method: str,
        url: str,
        body: MultipartBody | None = None,
        *,
        is_poll: bool = False,
        write: Callable[[bytes], None] | None = None,
    ) -> Response:
        settings = self._settings
        max_bytes = MAX_POLL_BYTES + 1 if is_poll else MAX_CODEBOOK_BYTES + 1 if write else MAX_RESPONSE_BYTES
        stall_timeout = min(POLL_TIMEOUT - CONNECT_TIMEOUT, settings.timeout) if is_poll else settings.timeout
        # The socket's own timeout must come first, as its error says what timed out; hence twice.
        whole_timeout = min(POLL_TIMEOUT, 2 * stall_timeout) if is_poll else 2 * stall_timeout
        # A new connection: the server may close one that is kept alive while the first bytes are sent.
        with _Session() as session, _redacted_urllib3_log(settings.token):
            # With an auth set, requests does not send credentials from a .netrc.
            session.auth = lambda request: request
            adapter = _Adapter(stall_timeout, whole_timeout)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            with session.request(
                method,
                url,
                data=body,
                headers={"token": settings.token, **({"Content-Type": body.content_type} if body else {})},
                timeout=(min(CONNECT_TIMEOUT, stall_timeout), stall_timeout),
                stream=True,
                # Per request: on the session, the environment's CA bundle would override the connection's.
                verify=settings.verify,
                proxies=dict(settings.proxies) or None,
            ) as response:
                content, size = b"", 0
                for block in response.iter_content(1 << 16):
                    size += len(block)
                    if write and response.ok:
                        write(block)
                    content += block[: min(max_bytes, MAX_RESPONSE_BYTES) - len(content)]
                    if size >= max_bytes:
                        break
                received = Response.of(response.status_code, content, response.headers, settings.token)
                return logged(method, url, received)


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
