"""The HTTP handlers of the codebook API."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from aiohttp import BodyPartReader, web

from datatile_provider.sandbox import codebook
from datatile_provider.sandbox.jobs import Queue
from datatile_provider.sandbox.openapi import EXCEL
from datatile_provider.sandbox.options import Options
from datatile_provider.sandbox.store import Database, RejectedError, Store

_CHUNK = 2**16


class CodebookApi:
    """
    Serves the codebooks of a store's databases.

    :param queue: reads Excel files, each in a process of its own.
    """

    def __init__(self, options: Options, store: Store, queue: Queue) -> None:
        self._options = options
        self._store = store
        self._queue = queue

    async def read(self, request: web.Request) -> web.Response:
        """Return a codebook as an Excel file."""
        found = self._database(request)
        content = await asyncio.to_thread(codebook.workbook, found.codebook, dict(found.properties))
        return web.Response(body=content, content_type=EXCEL)

    async def read_as_json(self, request: web.Request) -> web.Response:
        """Return a codebook as JSON. The vendor does not document its shape."""
        found = self._database(request)
        return web.json_response({"variables": found.codebook, "properties": found.properties})

    async def write(self, request: web.Request) -> web.Response:
        """Import a codebook from an Excel file."""
        database = self._store.check_import(request.headers.get("token"), request.match_info["hash"])
        # Deleted at the next start, if this process is killed.
        path = self._queue.path(f"codebook-{uuid.uuid4().hex}")
        try:
            await self._receive(request, path)
            found = await self._queue.read(path, "codebook.xlsx", "codebook")
        finally:
            path.unlink(missing_ok=True)
        try:
            if "reason" in found:
                raise ValueError(found["reason"])
            variables, properties = codebook.parsed(found["sheets"])
        except ValueError as error:
            raise RejectedError(422, f"The codebook cannot be read: {error}") from error
        self._store.declare(database, variables, properties)
        return web.json_response({"variables": len(variables)})

    def _database(self, request: web.Request) -> Database:
        self._store.check_token(request.headers.get("token"))
        return self._store.find_database(request.match_info["hash"])

    async def _receive(self, request: web.Request, path: Path) -> None:
        if request.content_type != "multipart/form-data":
            raise RejectedError(400, "The request is not multipart/form-data")
        size = 0
        try:
            parts = await request.multipart()
            while (part := await parts.next()) is not None:
                if not isinstance(part, BodyPartReader) or part.name != self._options.codebook_field:
                    continue
                with path.open("wb") as file:
                    while not part.at_eof():
                        size += file.write(await part.read_chunk(_CHUNK))
                        self._store.check_size(size)
        # Older releases of aiohttp raise AssertionError for a malformed body.
        except (ValueError, AssertionError) as error:
            raise RejectedError(400, f"The body is not well-formed multipart/form-data: {error}") from error
        except ConnectionError:
            raise RejectedError(400, "The connection was lost during the import") from None
        if not size:
            raise RejectedError(400, f"The part named {self._options.codebook_field}, with the codebook, is missing")
