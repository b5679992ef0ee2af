"""The proxy, in an event loop: it forwards requests, and injects the faults of a plan."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from tests.support.faults.plan import Fault, LoggedRequest, Plan

#: Bytes of the sockets' buffers: a client cannot have sent much more than the proxy has read.
BUFFER = 1 << 16
#: Seconds for which the rest of a body is read after an early response, so that the client can read the response.
LINGER = 2.0
#: The response of a server that does not show whether it has accepted the upload.
HTML = b"<html><body><h1>It works</h1></body></html>"


class ClientLeftError(ConnectionError):
    """The client closed the connection before the end of its body."""


class Proxy:
    """
    A proxy in the running event loop.

    :param upstream: the server's address, ``http://host:port``.
    """

    def __init__(self, upstream: str, plan: Plan | None = None) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost") or not parts.port:
            raise ValueError(f"no http server with a port on this machine: {upstream}")
        self._upstream = parts.hostname, parts.port
        self.plan = plan or Plan()
        self.log: list[LoggedRequest] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> str:
        """Start to serve on a port, and return the address."""
        sock = socket.create_server(("127.0.0.1", port), backlog=512)
        # Connections inherit this option, so it is set before the first one.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._server = await asyncio.start_server(self._serve, sock=sock, limit=BUFFER)
        return f"http://127.0.0.1:{sock.getsockname()[1]}"

    async def stop(self) -> None:
        """Stop serving."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            if self.plan.refuses_connection():
                self.log.append(LoggedRequest(time.time(), fault="refuse"))
                _reset(writer)
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                exchange = _Exchange(head, reader, writer, self._upstream)
                fault = self.plan.next(exchange.logged.on)
                self.log.append(exchange.logged)
                await exchange.run(fault)
        except (asyncio.IncompleteReadError, OSError):
            # The client or the server has closed its connection: reset the other one.
            _reset(writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._tasks.discard(task)
            writer.close()


class _Exchange:
    """One request and its response."""

    def __init__(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: tuple[str, int],
    ) -> None:
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        self.logged = LoggedRequest(time.time(), method, path)
        self._head = head
        self._size = _content_length(head)
        self._reader, self._writer = reader, writer
        self._upstream = upstream

    async def run(self, fault: Fault | None) -> None:
        self.logged.fault = fault.kind if fault else ""
        await getattr(self, fault.kind if fault else "forward")(fault)

    async def forward(self, fault: Fault | None) -> None:
        await self._send(await self._request())

    async def reset_in_body(self, fault: Fault) -> None:
        with contextlib.suppress(OSError):
            async with self._connected() as (_, upstream):
                await self._pump(fault.after, upstream)
                _reset(upstream)
        _reset(self._writer)

    async def reset_after_body(self, fault: Fault) -> None:
        async with self._connected() as (_, upstream):
            await self._pump(self._size - 1, upstream)
            await self._pump(1, None)
            _reset(upstream)
        _reset(self._writer)

    async def reset_before_response(self, fault: Fault) -> None:
        await self._request()
        _reset(self._writer)

    async def reset_in_response(self, fault: Fault) -> None:
        response = await self._request()
        await self._send(response[: fault.after])
        await asyncio.sleep(0.05)
        _reset(self._writer)

    async def truncated_response(self, fault: Fault) -> None:
        response = await self._request()
        await self._send(response[:-10])
        self._writer.close()

    async def garbage(self, fault: Fault) -> None:
        await self._request()
        await self._send(b"\x00\xff\x16\x03 this is no HTTP\r\n\r\n")
        self._writer.close()

    async def html_body(self, fault: Fault) -> None:
        await self._request()
        await self._send(dataclasses.replace(fault, status=200).response(HTML))
        self._writer.close()

    async def echo(self, fault: Fault) -> None:
        """Respond with the request's head, including the token, as the error pages of some servers do."""
        await self._request()
        await self._send(fault.response(self._head))
        self._writer.close()

    async def echo_raw(self, fault: Fault) -> None:
        """Respond with the token in place of the status line, or with status 200 in place of the headers."""
        await self._request()
        [token] = [line for line in self._head.split(b"\r\n") if line.lower().startswith(b"token:")]
        status_line = b"HTTP/1.1 200 OK\r\n" if fault.status == 200 else b""
        await self._send(status_line + token.replace(b":", b"") + b"\r\n\r\n")
        self._writer.close()

    async def delay(self, fault: Fault) -> None:
        response = await self._request()
        await asyncio.sleep(fault.seconds)
        await self._send(response)

    async def stall_in_body(self, fault: Fault) -> None:
        await self._pump(fault.after, None)
        await asyncio.sleep(fault.seconds)
        _reset(self._writer)

    async def drip(self, fault: Fault) -> None:
        for byte in await self._request():
            await self._send(bytes([byte]))
            await asyncio.sleep(fault.seconds)

    async def respond_early(self, fault: Fault) -> None:
        await self._pump(min(fault.after, self._size), None)
        await self._send(fault.response())
        # Let the response arrive before the reset.
        await asyncio.sleep(0.05)
        _reset(self._writer)

    async def respond_instead(self, fault: Fault) -> None:
        await self._pump(self._size, None)
        await asyncio.sleep(fault.seconds)
        await self._send(fault.response())
        self._writer.close()

    async def respond_after(self, fault: Fault) -> None:
        await self._request()
        await self._send(fault.response())
        self._writer.close()

    async def close_kept_alive(self, fault: Fault) -> None:
        await self.forward(fault)
        with contextlib.suppress(OSError):
            await self._reader.read(1)
        _reset(self._writer)

    async def refuse(self, fault: Fault) -> None:
        _reset(self._writer)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(_without_connection(self._head, "Connection: close"))
            yield reader, writer
        finally:
            writer.close()

    async def _request(self) -> bytes:
        """Forward the request, and return the whole response; an early response ends the forwarding."""
        async with self._connected() as (reader, writer):
            responding = asyncio.ensure_future(_response(reader))
            sending = asyncio.ensure_future(self._pump(self._size, writer))
            try:
                await asyncio.wait({responding, sending}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    error = sending.exception()
                    if isinstance(error, ClientLeftError):
                        raise error
                    # A server that responds early may close the connection while the body is still sent.
                    self.logged.forwarded = error is None
                response = await responding
            finally:
                for task in (responding, sending):
                    task.cancel()
                await asyncio.gather(responding, sending, return_exceptions=True)
        self.logged.upstream_status = int(response.split(b" ", 2)[1])
        if not self.logged.forwarded:
            await self._send(response)
            await self._drain()
            raise ConnectionAbortedError("the server responded early")
        return response

    async def _pump(self, size: int, upstream: asyncio.StreamWriter | None) -> None:
        end = self.logged.body_bytes + size
        while self.logged.body_bytes < end:
            block = await self._reader.read(min(BUFFER, end - self.logged.body_bytes))
            if not block:
                raise ClientLeftError
            self.logged.body_bytes += len(block)
            if upstream:
                upstream.write(block)
                await upstream.drain()

    async def _drain(self) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._pump(self._size - self.logged.body_bytes, None), LINGER)
        self._writer.close()

    async def _send(self, response: bytes) -> None:
        self._writer.write(response)
        await self._writer.drain()


async def _response(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(_content_length(head))
    return _without_connection(head) + body


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _without_connection(head: bytes, *instead: str) -> bytes:
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join([first, *kept, *(line.encode() for line in instead), b"", b""])


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with a reset, not with an orderly shutdown."""
    sock = writer.get_extra_info("socket")
    if sock and not writer.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
