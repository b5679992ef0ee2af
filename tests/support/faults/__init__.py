"""
A proxy that injects faults between a client and a DATATILE server, on loopback only.

In a test, :class:`FaultProxy` is a context manager. ``python -m tests.support.faults --upstream URL`` runs the proxy
as a process, which prints its addresses as a line of JSON.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from tests.support.faults.plan import KINDS, Fault, LoggedRequest, Plan
from tests.support.faults.proxy import Proxy

__all__ = ["KINDS", "Fault", "FaultProxy", "LoggedRequest", "Plan"]


class FaultProxy:
    """
    A proxy in its own thread.

    :param upstream: the server's address.
    :param faults: the faults to inject, in this order.
    """

    #: The proxy's address, without a slash at the end.
    url: str

    def __init__(self, upstream: str, *faults: Fault) -> None:
        self._proxy = Proxy(upstream, Plan(faults))

    def __enter__(self) -> FaultProxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults", daemon=True)
        self._thread.start()
        self.url = self._run(self._proxy.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def log(self) -> list[LoggedRequest]:
        """The requests and injected faults so far."""
        return list(self._proxy.log)

    def inject(self, *faults: Fault) -> None:
        """Inject these faults from now on."""
        self._proxy.plan = Plan(faults)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
