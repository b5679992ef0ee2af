"""The HTTP server: the Data Collector API, the web pages, and the endpoints that control the sandbox."""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pendulum
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.typedefs import Handler
from jinja2 import Environment, PackageLoader, StrictUndefined

from datatile_provider.sandbox.codebook_api import CodebookApi
from datatile_provider.sandbox.guard import rejection
from datatile_provider.sandbox.jobs import Queue, receipt, response
from datatile_provider.sandbox.openapi import document
from datatile_provider.sandbox.options import STATUS_CODES, Options, is_loopback
from datatile_provider.sandbox.store import Job, RejectedError, Store, mails

log = logging.getLogger(__name__)

# Bytes that a multipart request may have besides the file.
ENVELOPE = 16 * 1024
CHUNK = 1024 * 1024
# A file name as browsers, curl and requests send it: only '"', CR and LF are escaped, as %22, %0D and %0A.
PLAIN_FILENAME = re.compile(r';\s*filename="([^"]*)"\s*(?:;|$)')

PAGES = Environment(
    loader=PackageLoader("datatile_provider.sandbox"),
    # File names, variables and messages come from uploads.
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
PAGES.filters["parse"] = pendulum.parse


class Server:
    """
    Serves a store over HTTP.

    :param directory: the folder that keeps received files until their job is finished.
    """

    def __init__(self, options: Options, store: Store, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._options = options
        self._store = store
        self._job_path, self._job_query = options.job_route
        self.queue = Queue(options, store, directory)
        codebooks = CodebookApi(options, store, self.queue)
        read_codebook, read_as_json, write_codebook = options.codebook_routes
        app = web.Application(middlewares=[_handle_rejections])
        app.add_routes(
            [
                web.get("/", self._drive_page),
                web.get("/openapi.json", self._document),
                web.get("/processing-log", self._log_page),
                web.get("/processing-log/", self._log_page),
                web.get("/processing-log/{job_id}", self._job_page),
                web.get("/databases/{hash}", self._database_page),
                web.get("/sandbox/state", self._state),
                web.post("/sandbox/token", self._regenerate_token),
                web.post("/sandbox/databases", self._add_database),
                web.post("/sandbox/permissions", self._set_permission),
                web.post("/sandbox/roles", self._set_roles),
                web.post("/sandbox/jobs/{job_id}/cancel", self._cancel),
                web.post("/sandbox/jobs/{job_id}/status", self._set_status),
                # After the pages: its path may be {job_id} alone.
                web.post(options.upload_path, self._in_dialect(self._upload)),
                web.get(read_codebook, self._in_dialect(codebooks.read)),
                web.get(read_as_json, self._in_dialect(codebooks.read_as_json)),
                web.post(write_codebook, self._in_dialect(codebooks.write)),
                web.get(self._job_path, self._in_dialect(self._job)),
            ]
        )
        # After an early rejection, the server keeps reading for a short time, so that the client can read the response.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, lingering_time=0.5, read_bufsize=CHUNK)

    async def start(self) -> str:
        """
        Start the server and return its URL.

        :raises OSError: the port is in use, or the certificate cannot be read.
        """
        host = self._options.host
        tls = None
        if self._options.tls_cert:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            try:
                tls.load_cert_chain(self._options.tls_cert, self._options.tls_key)
            except OSError as error:
                raise OSError(
                    f"{self._options.tls_cert} and {self._options.tls_key} are not a certificate and its key: {error}"
                ) from error
        await self._runner.setup()
        bind = "127.0.0.1" if host == "localhost" else host
        await web.TCPSite(self._runner, bind, self._options.port, ssl_context=tls).start()
        self.queue.start()
        port = self._runner.addresses[0][1]
        return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        await self.queue.stop()
        await self._runner.cleanup()

    def _in_dialect(self, handler: Handler) -> Handler:
        """Return a handler of the API that rejects requests with the status codes of the options."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except RejectedError as error:
                reason = next(reason for reason, codes in STATUS_CODES.items() if error.status in codes)
                error.status = self._options.status_codes.get(reason, error.status)
                raise

        return handle

    async def _upload(self, request: web.Request) -> web.Response:
        action, target = request.match_info["action"], request.match_info["hash"]
        length = max(0, (request.content_length or 0) - ENVELOPE)
        with self._store.receiving(request.headers.get("token"), action, target, length):
            unique = uuid.uuid4()
            # As a number, an id has 53 bits: more are not exact in every reader of JSON.
            job_id = str(unique.int >> 75) if self._options.numeric_ids else unique.hex
            path = self.queue.path(job_id)
            try:
                filename, callback = await self._receive(request, path)
                job = Job(job_id, action, target, filename, path.stat().st_size, callback)
                self._store.accept(job)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        self.queue.add(job)
        body = receipt(self._options, job)
        return web.Response(text=str(body)) if self._options.bare_id == "text" else web.json_response(body)

    async def _receive(self, request: web.Request, path: Path) -> tuple[str, str | None]:
        """Write the file to ``path``, and return its name and the callback URL."""
        if request.content_type != "multipart/form-data":
            raise RejectedError(400, "The request is not multipart/form-data")
        try:
            filename, callback = await self._read_parts(await request.multipart(), path)
            # An upload is accepted only after the last byte of the request.
            while not request.content.at_eof():
                await request.content.readany()
        # Older releases of aiohttp raise AssertionError for a malformed body.
        except (ValueError, AssertionError) as error:
            raise RejectedError(400, f"The body is not well-formed multipart/form-data: {error}") from error
        except ConnectionError:
            log.info("A client disconnected during an upload; the upload is discarded")
            raise RejectedError(400, "The connection was lost during the upload") from None
        if filename is None:
            raise RejectedError(400, "The part named dataset, which holds the file, is missing")
        return filename, callback

    async def _read_parts(self, parts: MultipartReader, path: Path) -> tuple[str | None, str | None]:
        filename = callback = None
        while (part := await parts.next()) is not None:
            if not isinstance(part, BodyPartReader):
                raise RejectedError(400, "Nested multipart parts are not supported")
            if part.name == "dataset":
                if filename is not None:
                    raise RejectedError(400, "There are several parts named dataset")
                filename = _filename(part)
                await self._write(part, path)
            elif part.name == self._options.callback_field:
                callback = _callback((await part.read()).decode())
        return filename, callback

    async def _write(self, part: BodyPartReader, path: Path) -> None:
        size = 0
        with path.open("wb") as file:
            while not part.at_eof():
                size += file.write(await part.read_chunk(CHUNK))
                self._store.check_size(size)
        if not size:
            raise RejectedError(400, "The file is empty")

    async def _job(self, request: web.Request) -> web.Response:
        self._store.check_token(request.headers.get("token"))
        job_id = request.match_info.get("job_id", "")
        for name, value in self._job_query.items():
            given = request.query.get(name)
            if given is None or value not in (given, "{job_id}"):
                raise RejectedError(400, f"The query parameter {name} is missing or wrong")
            job_id = given if value == "{job_id}" else job_id
        return web.json_response(response(self._options, self._store.find_job(job_id)))

    async def _document(self, request: web.Request) -> web.Response:
        return web.json_response(document(self._options))

    async def _drive_page(self, request: web.Request) -> web.Response:
        return _page("drive.html", store=self._store)

    async def _log_page(self, request: web.Request) -> web.Response:
        return _page("processing_log.html", store=self._store)

    async def _job_page(self, request: web.Request) -> web.Response:
        job = self._store.find_job(request.match_info["job_id"])
        return _page("job.html", store=self._store, job=job, mails=mails(job))

    async def _database_page(self, request: web.Request) -> web.Response:
        return _page("database.html", database=self._store.find_database(request.match_info["hash"]))

    async def _state(self, request: web.Request) -> web.Response:
        return web.json_response(self._store.snapshot())

    async def _regenerate_token(self, request: web.Request) -> web.Response:
        return web.json_response({"token": self._store.regenerate_token()})

    async def _add_database(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name, rows, variables = body.get("name", "Database"), body.get("rows", 0), body.get("variables", [])
        if not isinstance(name, str) or type(rows) is not int or rows < 0 or not isinstance(variables, list):
            raise RejectedError(400, "A database has a name, a number of rows and a list of variables")
        return web.json_response({"hash": self._store.add_database(name, rows, list(map(str, variables)))})

    async def _set_permission(self, request: web.Request) -> web.Response:
        body = await _body(request)
        if not isinstance(body.get("can_edit"), bool):
            raise RejectedError(400, "can_edit must be true or false")
        self._store.set_permission(str(body.get("hash")), body["can_edit"])
        return web.json_response({})

    async def _set_roles(self, request: web.Request) -> web.Response:
        body = await _body(request)
        try:
            self._store.set_roles(body.get("roles", ()))
        except ValueError as error:
            raise RejectedError(400, str(error)) from error
        return web.json_response({})

    async def _cancel(self, request: web.Request) -> web.Response:
        job = await self.queue.cancel(request.match_info["job_id"])
        return web.json_response(response(self._options, job))

    async def _set_status(self, request: web.Request) -> web.Response:
        status = (await _body(request)).get("status")
        job = self._store.find_job(request.match_info["job_id"])
        if status is not None and not isinstance(status, str):
            raise RejectedError(400, "status must be text, or null to report the state again")
        self._store.set_status(job, status)
        return web.json_response(response(self._options, job))


@web.middleware
async def _handle_rejections(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        if reason := rejection(request.method, request.path, request.headers):
            raise RejectedError(403, reason)
        return await handler(request)
    except web.HTTPNotFound:
        if not _wants_page(request):
            raise
        return _page("error.html", 404, title="Page not found", text=f"The sandbox has no page at {request.path}.")
    except RejectedError as error:
        if _wants_page(request):
            return _page("error.html", error.status, title="Request rejected", text=f"{error}.")
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        response = web.json_response({"error": str(error)}, status=error.status, headers=headers)
        if not request.content.at_eof():
            response.force_close()
        return response


def _wants_page(request: web.Request) -> bool:
    # Browsers ask for HTML. Other clients usually send "*/*" or nothing.
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")


def _page(template: str, status: int = 200, **context: Any) -> web.Response:
    return web.Response(text=PAGES.get_template(template).render(context), content_type="text/html", status=status)


async def _body(request: web.Request) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        body = await request.json() if request.can_read_body else {}
        if isinstance(body, dict):
            return body
    raise RejectedError(400, "The body is not a JSON object")


def _filename(part: BodyPartReader) -> str:
    header = part.headers.get("Content-Disposition", "")
    plain = None if "filename*=" in header else PLAIN_FILENAME.search(header)
    if plain:
        filename = plain[1]
        for escaped, character in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
            filename = filename.replace(escaped, character)
    else:
        filename = part.filename or ""
    filename = filename.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "")
    if not filename:
        raise RejectedError(400, "The part named dataset has no file name")
    return filename


def _callback(url: str) -> str | None:
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not is_loopback(parts.hostname):
        raise RejectedError(400, "The callback URL must be an http or https URL on this machine")
    return url
