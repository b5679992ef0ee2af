"""A server of raw sockets, which can misbehave in any way."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

#: Seconds after which reads and writes time out.
TIMEOUT = 10.0
#: The token of the connections to the servers in tests.
TOKEN = "the-secret-token"


class GoneError(Exception):
    """The client has closed the connection."""


class Peer:
    """A client's connection, on the server's side."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._read = b""

    def read(self, size: int) -> bytes:
        """
        Return this number of bytes.

        :raises GoneError: the client closed the connection before that.
        """
        while len(self._read) < size:
            self._more()
        found, self._read = self._read[:size], self._read[size:]
        return found

    def head(self) -> str:
        """Return the head of the next request; :raises GoneError: there is none."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    def request(self) -> tuple[str, bytes]:
        """Return the head and the body of the next request."""
        head = self.head()
        length = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
        return head, self.read(int(length[1]) if length else 0)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def respond(self, status: int, body: bytes = b"", *headers: str) -> None:
        """Send a whole response."""
        lines = (f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers)
        self.send("".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body)

    def reset(self) -> None:
        """Reset the connection, as a machine that goes down does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def drain(self) -> None:
        """Read on until the client closes."""
        with contextlib.suppress(GoneError):
            while True:
                self._read = b""
                self._more()

    def _more(self) -> None:
        try:
            more = self.sock.recv(1 << 16)
        except OSError as e:
            raise GoneError from e
        if not more:
            raise GoneError
        self._read += more


class RawServer:
    """
    Calls a handler for each connection, in a thread of its own; ``with`` starts and stops the server.

    :param handle: the handler of a connection, which is closed afterwards.
    :param tls: the context with the server's certificate, for https.
    """

    def __init__(self, handle: Callable[[Peer], object], tls: ssl.SSLContext | None = None) -> None:
        self._handle = handle
        self._tls = tls
        self._listener = socket.socket()
        # A small buffer: a client cannot have sent much more than is read here.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._listener.bind(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._peers: set[socket.socket] = set()
        #: Connections accepted so far, and the largest number that were open at once.
        self.connections = 0
        self.most_at_once = 0
        self.address: str = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"

    @property
    def open_connections(self) -> int:
        return len(self._peers)

    def wait_until_left(self, timeout: float = 5.0) -> bool:
        """Return whether every client closes its connection within this number of seconds."""
        deadline = time.monotonic() + timeout
        while self._peers and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._peers

    def __enter__(self) -> RawServer:
        self._listener.listen(512)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone does not wake the thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._peers):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT)

    def _start(self, run: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._peers.add(sock)
            self.most_at_once = max(self.most_at_once, len(self._peers))
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        plain = sock
        try:
            sock.settimeout(TIMEOUT)
            # Without this, data sent right before a reset waits for an acknowledgement, and the reset discards it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._handle(Peer(sock))
        except (OSError, GoneError):
            pass  # The client closed the connection; the tests check the client.
        finally:
            self._peers.discard(plain)
            sock.close()
            plain.close()
