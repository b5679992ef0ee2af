"""A StatsD server that collects the metrics of this package."""

from __future__ import annotations

import re
import socket
import threading
from types import TracebackType


class StatsD:
    """
    Collects the metrics ``airflow.datatile.*``; ``with`` starts and stops it.

    ``metrics`` holds the name, without this prefix, the value and the kind of each.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self.metrics: list[tuple[str, str, str]] = []

    def __enter__(self) -> StatsD:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Settings with which Airflow sends its metrics here."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._socket.getsockname()[1]),
        }

    def values(self, name: str) -> list[str]:
        """Return the values of a metric so far."""
        return [value for found, value, _ in list(self.metrics) if found == name]

    def stop(self) -> None:
        """Collect what was sent before now, then stop."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            # Datagrams of this machine arrive in the order in which they were sent.
            sender.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()

    def _collect(self) -> None:
        while datagram := self._socket.recv(1 << 16):
            for line in datagram.decode().splitlines():
                if found := re.fullmatch(r"airflow\.datatile\.(.*):([-+0-9.]+)\|(\w+)", line):
                    self.metrics.append((found[1], found[2], found[3]))
