"""Which faults there are, and which one is played next."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any

#: What can be played; the proxy's methods of these names say how. ``forward`` lets a request through, to have its turn.
KINDS = (
    "forward",
    "refuse",
    "reset_in_body",
    "reset_after_body",
    "reset_before_response",
    "reset_in_response",
    "truncated_response",
    "garbage",
    "html_body",
    "echo",
    "echo_raw",
    "delay",
    "stall_in_body",
    "drip",
    "respond_early",
    "respond_instead",
    "respond_after",
    "close_kept_alive",
)
_NOT_RANDOM = ("forward", "delay", "stall_in_body", "drip")


@dataclasses.dataclass(frozen=True)
class Fault:
    """
    One fault, played once.

    :param kind: one of :data:`KINDS`.
    :param on: what it is played on: ``upload``, ``poll`` or ``any``.
    :param after: bytes of the body (``reset_in_body``, ``respond_early``) or of the answer (``reset_in_response``) to
        let through first.
    :param seconds: how long ``delay`` and ``respond_instead`` hold the answer back, ``drip`` each of its bytes, and
        ``stall_in_body`` the body.
    :param status: the status to answer with.
    :param retry_after: the header Retry-After, in seconds.
    :param as_date: give Retry-After as a date.
    :param times: how often in a row it is played.
    """

    kind: str
    on: str = "any"
    after: int = 1
    seconds: float = 0.0
    status: int = 503
    retry_after: int | None = None
    as_date: bool = False
    times: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.on not in ("upload", "poll", "any"):
            raise ValueError(f"no such fault: {self}")

    def response(self, body: bytes = b'{"error": "a fault of the proxy"}') -> bytes:
        """Return the HTTP answer that this fault gives."""
        headers = [f"HTTP/1.1 {self.status} Fault", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        if self.retry_after is not None:
            # A date has no fractions, and must not be early.
            date = formatdate(time.time() + self.retry_after + 1, usegmt=True)
            headers.append(f"Retry-After: {date if self.as_date else self.retry_after}")
        return "\r\n".join([*headers, "Connection: close", "", ""]).encode() + body


@dataclasses.dataclass
class Played:
    """A request that came, and the fault that was played on it, if any; a refused connection has no request."""

    at: float
    method: str = ""
    path: str = ""
    fault: str = ""
    body_bytes: int = 0
    forwarded: bool = False
    upstream_status: int = 0

    @property
    def on(self) -> str:
        return "upload" if self.method == "POST" else "poll"


class Plan:
    """
    Which fault is played next: those of a list in their order, then at random.

    :param faults: the list.
    :param seed: of the random ones.
    :param rate: the share of requests with a random fault, 0 to 1.
    :param kinds: the random ones' kinds; all that need no waiting, when not given.
    :param on: the requests that get random ones: ``upload``, ``poll`` or ``any``.
    """

    def __init__(
        self,
        faults: Iterable[Fault] = (),
        *,
        seed: int = 0,
        rate: float = 0.0,
        kinds: Iterable[str] = (),
        on: str = "any",
    ) -> None:
        self._faults = [fault for fault in faults for _ in range(fault.times)]
        self._random = random.Random(seed)
        self._rate = rate
        self._kinds = list(kinds) or [kind for kind in KINDS if kind not in _NOT_RANDOM]
        self._on = on
        if unknown := set(self._kinds) - set(KINDS):
            raise ValueError(f"no such faults: {unknown}")

    @classmethod
    def of(cls, value: Any) -> Plan:
        """
        Return the plan that JSON tells: a list of faults, or ``{"faults": …, "seed": …, "rate": …, …}``.

        :raises ValueError: it tells none.
        :raises TypeError: likewise.
        """
        options = {"faults": value} if isinstance(value, list) else dict(value)
        return cls([Fault(**fault) for fault in options.pop("faults", ())], **options)

    def refuses(self) -> bool:
        """Whether a new connection is refused."""
        if self._faults and self._faults[0].kind == "refuse":
            self._faults.pop(0)
            return True
        # A new connection does not tell what it is for.
        at_random = self._on == "any" and "refuse" in self._kinds
        return at_random and self._random.random() < self._rate / len(self._kinds)

    def next(self, on: str) -> Fault | None:
        """Return the fault for a request."""
        for fault in self._faults:
            if fault.on in (on, "any") and fault.kind != "refuse":
                self._faults.remove(fault)
                return fault
        kinds = [kind for kind in self._kinds if kind != "refuse"]
        if self._on in (on, "any") and kinds and self._random.random() < self._rate:
            kind = self._random.choice(kinds)
            early = kind in ("respond_early", "respond_instead")
            status = self._random.choice((409, 429, 503) if early else (500, 502, 504))
            return Fault(kind, on, status=status, retry_after=self._random.choice((None, 1)) if early else None)
        return None
