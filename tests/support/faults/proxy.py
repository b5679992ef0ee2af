"""The proxy, in an event loop: it passes requests on, and plays a plan's faults on them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from tests.support.faults.plan import Fault, Plan, Played

#: Bytes that the proxy's sockets hold at most, so that a client can't have sent much more than the proxy has read.
BUFFER = 1 << 16
#: Seconds for which the rest of a body is read after an early answer, so that the client gets to read that.
LINGER = 2.0
#: What a server says that holds the upload and does not show it.
HTML = b"<html><body><h1>It works</h1></body></html>"


class ClientLeftError(ConnectionError):
    """The client has closed its side in the middle of its body."""


class Proxy:
    """
    The proxy in the running event loop.

    :param upstream: the server's address, ``http://host:port``.
    """

    def __init__(self, upstream: str, plan: Plan | None = None) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost") or not parts.port:
            raise ValueError(f"no http server with a port on this machine: {upstream}")
        self._upstream = parts.hostname, parts.port
        self.plan = plan or Plan()
        self.log: list[Played] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> str:
        """Begin to serve on a port; the address."""
        sock = socket.create_server(("127.0.0.1", port), backlog=512)
        # Before the first connection: those inherit it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._server = await asyncio.start_server(self._serve, sock=sock, limit=BUFFER)
        return f"http://127.0.0.1:{sock.getsockname()[1]}"

    async def stop(self) -> None:
        """Serve no more."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            if self.plan.refuses():
                self.log.append(Played(time.time(), fault="refuse"))
                _reset(writer)
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                exchange = _Exchange(head, reader, writer, self._upstream)
                fault = self.plan.next(exchange.played.on)
                self.log.append(exchange.played)
                await exchange.run(fault)
        except (asyncio.IncompleteReadError, OSError):
            # The client, or the server, has left: so does the other side see it.
            _reset(writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._tasks.discard(task)
            writer.close()


class _Exchange:
    """One request and its answer."""

    def __init__(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: tuple[str, int],
    ) -> None:
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        self.played = Played(time.time(), method, path)
        self._head = head
        self._size = _content_length(head)
        self._reader, self._writer = reader, writer
        self._upstream = upstream

    async def run(self, fault: Fault | None) -> None:
        self.played.fault = fault.kind if fault else ""
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
        """Show the request's head, token and all, as some servers' error pages do."""
        await self._request()
        await self._send(fault.response(self._head))
        self._writer.close()

    async def echo_raw(self, fault: Fault) -> None:
        """Show the request's token where the answer's status line, or with status 200 its headers, belong."""
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
        # The answer should be there before the reset is.
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
        """Pass the request on, and return the whole answer; an answer that comes early ends the sending."""
        async with self._connected() as (reader, writer):
            answering = asyncio.ensure_future(_answer(reader))
            sending = asyncio.ensure_future(self._pump(self._size, writer))
            try:
                await asyncio.wait({answering, sending}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    broken = sending.exception()
                    if isinstance(broken, ClientLeftError):
                        raise broken
                    # A server that answers early may break off the sending.
                    self.played.forwarded = broken is None
                response = await answering
            finally:
                for task in (answering, sending):
                    task.cancel()
                await asyncio.gather(answering, sending, return_exceptions=True)
        self.played.upstream_status = int(response.split(b" ", 2)[1])
        if not self.played.forwarded:
            await self._send(response)
            await self._drain()
            raise ConnectionAbortedError("the server answered early")
        return response

    async def _pump(self, size: int, upstream: asyncio.StreamWriter | None) -> None:
        end = self.played.body_bytes + size
        while self.played.body_bytes < end:
            block = await self._reader.read(min(BUFFER, end - self.played.body_bytes))
            if not block:
                raise ClientLeftError
            self.played.body_bytes += len(block)
            if upstream:
                upstream.write(block)
                await upstream.drain()

    async def _drain(self) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._pump(self._size - self.played.body_bytes, None), LINGER)
        self._writer.close()

    async def _send(self, response: bytes) -> None:
        self._writer.write(response)
        await self._writer.drain()


async def _answer(reader: asyncio.StreamReader) -> bytes:
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
    """Break off at once, with a reset rather than an orderly end."""
    sock = writer.get_extra_info("socket")
    if sock and not writer.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
