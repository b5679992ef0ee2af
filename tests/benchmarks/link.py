"""
A link of limited bandwidth to a server on this machine: ``python -m tests.benchmarks.link PORT BYTES_A_SECOND``.

It prints its port, and exits when its standard input is closed.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from subprocess import PIPE, Popen

PIECE = 1 << 16
#: Seconds by which a sleep may be too long without a loss of bandwidth.
SLACK = 0.02


@contextmanager
def link(port: int, rate: float) -> Iterator[int]:
    """
    Run a link in its own process, and yield its port.

    :param rate: bytes per second, in each direction, for all connections together.
    """
    command = [sys.executable, "-m", __spec__.name, str(port), str(rate)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        yield int(process.stdout.readline())
        process.stdin.close()


class _Direction:
    """One direction of the link."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free = 0.0

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE):
                self._take(len(piece))
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _take(self, size: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now - SLACK) + size / self._rate
            wait = self._free - now
        if wait > 0:
            time.sleep(wait)


def _main() -> None:
    port, rate = int(sys.argv[1]), float(sys.argv[2])
    forward, backward = _Direction(rate), _Direction(rate)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=forward.pump, args=(near, far), daemon=True).start()
            threading.Thread(target=backward.pump, args=(far, near), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    _main()
