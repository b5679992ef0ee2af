"""
A server that reads uploads as fast as Python can, and responds like DATATILE: ``python -m tests.support.sink``.

The job's id is the length of the request's body, all of which it has read.

It prints its port, and exits when its standard input is closed.
"""

from __future__ import annotations

import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from subprocess import PIPE, Popen
from typing import TypeVar

from tests.support.tls import Certificates

T = TypeVar("T")

BUFFER = 1 << 22


@contextmanager
def sink(certificates: Certificates | None = None) -> Iterator[str]:
    """Run the server in its own process, with TLS if certificates are given, and yield its address."""
    files = [str(certificates.certificate), str(certificates.key)] if certificates else []
    command = [sys.executable, "-m", __spec__.name, *files]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        yield f"{'https' if certificates else 'http'}://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


class _Decrypted:
    """
    A TLS connection, read in large pieces.

    Python's TLS socket reads record by record, and would be slower than the clients.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._connection = connection
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._raw = memoryview(bytearray(1 << 18))
        self._tls = context.wrap_bio(self._received, self._sent, server_side=True)
        self._wait_for(self._tls.do_handshake)
        connection.sendall(self._sent.read())

    def recv_into(self, buffer: memoryview) -> int:
        return self._wait_for(lambda: self._tls.read(1 << 14, buffer))  # type: ignore[return-value]  # a count

    def recv(self, size: int) -> bytes:
        return self._wait_for(lambda: self._tls.read(size))

    def sendall(self, data: bytes) -> None:
        self._tls.write(data)
        self._connection.sendall(self._sent.read())

    def _wait_for(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                if self._sent.pending:
                    self._connection.sendall(self._sent.read())
                if not (count := self._connection.recv_into(self._raw)):
                    raise ConnectionError("closed") from None
                self._received.write(self._raw[:count])


def _serve(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    buffer = memoryview(bytearray(BUFFER))
    # Otherwise responses wait for a delayed acknowledgement of earlier data.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(OSError), connection:
        peer = _Decrypted(connection, context) if context else connection
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := peer.recv(1 << 14)):
                return
            head += more
        head, _, start = head.partition(b"\r\n\r\n")
        if re.search(rb"^expect: *100-continue", head, re.IGNORECASE | re.MULTILINE):
            peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
        if not length:
            peer.sendall(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n")
            return
        remaining = int(length[1]) - len(start)
        # The benchmark measures the client, not this server, so the kernel discards the received data.
        receive = peer.recv_into if context else lambda b: connection.recv_into(b, 0, socket.MSG_TRUNC)
        while remaining and (count := receive(buffer)):
            remaining -= count
        if not remaining:
            response = b'{"job_id": "%s"}' % length[1]
            peer.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(response), response)
            )
            connection.shutdown(socket.SHUT_WR)


def _main() -> None:
    context = None
    if sys.argv[1:]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*sys.argv[1:])
    # All threads are daemons: they end when the standard input is closed.
    threading.Thread(target=_accept, args=(socket.create_server(("127.0.0.1", 0)), context), daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection, context), daemon=True).start()


if __name__ == "__main__":
    _main()
