"""Arguments for the clients in tests, and misbehaving servers that both clients must handle."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from datatile_provider.api.dataset import Dataset
from datatile_provider.api.models import Action, Job, ServerConfig, Upload
from datatile_provider.api.settings import Settings
from tests.support.rawserver import TIMEOUT, TOKEN, GoneError, Peer

if TYPE_CHECKING:
    from datatile_provider.hooks.datatile import DatatileHook

MIB = 1 << 20

#: Responses that are not HTTP, or that do not match their headers.
GARBAGE = {
    "no http": b"hello\r\n\r\n",
    "binary": bytes(range(256)) * 10,
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "odd status": b"HTTP/1.1 two hundred\r\n\r\n",
    "odd length": b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n{}",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "cut short": b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"status":',
    "odd chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    "half a gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"
    + gzip.compress(b"[]")[:15],
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 50_000 + b"\r\n",
    "odd redirect": b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    "redirect nowhere": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
    "odd cookie": b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff\x00=;;=\r\nContent-Length: 2\r\n\r\n{}",
    "latin-1 header": b"HTTP/1.1 503 \xdcberlastet\r\nRetry-After: \xe4\r\nContent-Length: 0\r\n\r\n",
}


def settings_for(url: str, **kwargs: Any) -> Settings:
    """Return the settings of a server, with a short timeout."""
    return Settings(ServerConfig(url), TOKEN, **{"timeout": 5.0, **kwargs})


def dataset_of_size(size: int) -> Dataset:
    """Return a dataset of zeros."""
    return Dataset("wave.sav", size, "1", "here", lambda: nullcontext(io.BytesIO(bytes(size))), lambda: "1")


def upload_of(dataset: Dataset, action: Action = Action.APPEND) -> Upload:
    return Upload(action, "abc123", dataset.name, dataset.size)


class Proxy:
    """An HTTP proxy that records its requests; a handler for :class:`~tests.support.rawserver.RawServer`."""

    def __init__(self) -> None:
        self.heads: list[str] = []

    def __call__(self, peer: Peer) -> None:
        """Respond to plain HTTP in place of the server, and tunnel ``CONNECT`` requests to this machine."""
        head, _ = peer.request()
        self.heads.append(head)
        if not head.startswith("CONNECT"):
            # Like DATATILE, name the polled job.
            job_id = head.split()[1].rpartition("/jobs/")[2]
            peer.respond(
                200, json.dumps({"job_id": job_id if "/jobs/" in head else "by-proxy", "status": "done"}).encode()
            )
            return
        port = int(head.split()[1].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as onward:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(onward, peer.sock), daemon=True)
            back.start()
            _pump(peer.sock, onward)
            back.join(TIMEOUT)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def drip(peer: Peer) -> None:
    """Respond so slowly that no single read times out, and never end."""
    peer.head()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    _drip(peer)


def drip_head(peer: Peer) -> None:
    """The same, within the headers."""
    peer.head()
    peer.send(b"HTTP/1.1 200 OK\r\nX: ")
    _drip(peer)


def _drip(peer: Peer) -> None:
    pause = threading.Event()
    for _ in range(int(TIMEOUT / 0.05)):
        peer.send(b" ")
        pause.wait(0.05)
    raise GoneError


def endless(sent: list[int]) -> Callable[[Peer], None]:
    """
    Return a handler whose response has 200 MiB and no length.

    :param sent: gets an element for each MiB that was sent.
    """

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n")
        for _ in range(200):
            peer.send(b"x" * MIB)
            sent.append(1)

    return handle


def finished(hook: DatatileHook, job: Job) -> Job:
    """Return a sandbox's job once it has succeeded."""
    return hook.wait_for_job(job.id, poll_interval=0.05, timeout=10)
