"""A fast server in its own process: it serves the status of jobs to clients of DATATILE, dbt Cloud and Airbyte."""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any

from tests.support.tls import Certificates

COUNTED = ("connections", "handshakes", "polls", "others", "jobs")
_CONNECTIONS, _HANDSHAKES, _POLLS, _OTHERS, _JOBS = range(len(COUNTED))
#: A job's id is the time of its end, in milliseconds since the epoch. Jobs with this id or a higher one never end.
NEVER = 10**14


@dataclass(frozen=True, slots=True)
class StatusServer:
    """
    A running server.

    :param netloc: its address and port.
    :param tls: whether it uses TLS.
    :param counted: what it has counted so far, shared with its process, in the order of :data:`COUNTED`.
    """

    netloc: str
    tls: bool
    counted: Any

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.netloc}"

    def counts(self) -> dict[str, int]:
        return dict(zip(COUNTED, self.counted, strict=True))

    def forget_jobs(self) -> None:
        """Count the jobs that are polled from now on."""
        self.counted[_JOBS] = 0


@contextmanager
def serving(certificates: Certificates | None = None, *, delay: float = 0.0) -> Iterator[StatusServer]:
    """
    Run a server.

    :param certificates: for TLS.
    :param delay: seconds before each response.
    """
    context = multiprocessing.get_context("spawn")
    pipe, server_pipe = context.Pipe()
    counted = RawArray("q", len(COUNTED))
    process = context.Process(target=_serve, args=(server_pipe, counted, certificates, delay), daemon=True)
    process.start()
    try:
        if not pipe.poll(30):
            raise RuntimeError("The status server did not start within 30 s")
        yield StatusServer(f"127.0.0.1:{pipe.recv()}", certificates is not None, counted)
    finally:
        process.kill()
        process.join(10)


def _serve(pipe: Connection, counted: Any, certificates: Certificates | None, delay: float) -> None:
    async def serve() -> None:
        context: ssl.SSLContext | None = certificates.server_context() if certificates else None
        jobs: set[bytes] = set()
        server = await asyncio.get_running_loop().create_server(
            lambda: _Peer(counted, delay, jobs), "127.0.0.1", 0, ssl=context, backlog=4096
        )
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


class _Peer(asyncio.Protocol):
    def __init__(self, counted: Any, delay: float, jobs: set[bytes]) -> None:
        self._counted = counted
        self._jobs = jobs
        self._delay = delay
        self._read = b""
        counted[_CONNECTIONS] += 1

    def connection_made(self, transport: Any) -> None:
        # With TLS, this is called after the handshake.
        self._transport = transport
        self._counted[_HANDSHAKES] += transport.get_extra_info("ssl_object") is not None

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end]
            size = end + 4 + _body_size(head)
            if len(self._read) < size:
                return
            self._read = self._read[size:]
            asyncio.get_running_loop().call_later(self._delay, self._respond, head) if self._delay else self._respond(
                head
            )

    def _respond(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1].partition(b"?")[0]
        body = _body(path)
        if not self._counted[_JOBS]:
            self._jobs.clear()
        self._jobs.add(path)
        self._counted[_JOBS] = len(self._jobs)
        self._counted[_OTHERS if body == _TOKEN else _POLLS] += 1
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )


_TOKEN = b'{"access_token": "t0", "token_type": "Bearer", "expires_in": 86400}'


def _body_size(head: bytes) -> int:
    if head.startswith(b"GET"):
        return 0
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0] or 0)


def _body(path: bytes) -> bytes:
    if path.endswith(b"/token"):
        return _TOKEN
    job_id = path.rstrip(b"/").rpartition(b"/")[2]
    done = int(job_id) <= time.time() * 1000
    if b"/runs/" in path:
        return b'{"data": {"id": %s, "status": %d}}' % (job_id, 10 if done else 3)
    if b"/api/v2/" in path:
        return b'{"job_id": "%s", "status": "%s"}' % (job_id, b"done" if done else b"running")
    return (
        b'{"jobId": %s, "status": "%s", "jobType": "sync", "startTime": "2026-01-01T00:00:00Z", "connectionId": "c0"}'
        % (job_id, b"succeeded" if done else b"running")
    )
