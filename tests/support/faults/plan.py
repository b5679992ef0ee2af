"""The kinds of faults, and the plan of which is injected next."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any

#: The kinds of faults; the proxy has a method of each name. ``forward`` is no fault: it forwards one request.
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
    One fault.

    :param kind: one of :data:`KINDS`.
    :param on: the requests that it applies to: ``upload``, ``poll`` or ``any``.
    :param after: bytes of the body (``reset_in_body``, ``respond_early``) or of the response (``reset_in_response``)
        to forward first.
    :param seconds: how long ``delay`` and ``respond_instead`` delay the response, ``drip`` each byte of it, and
        ``stall_in_body`` the body.
    :param status: the status of the response.
    :param retry_after: the header Retry-After, in seconds.
    :param as_date: send Retry-After as a date.
    :param times: the number of consecutive requests with this fault.
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
        """Return the HTTP response of this fault."""
        headers = [f"HTTP/1.1 {self.status} Fault", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        if self.retry_after is not None:
            # A date has no fractions of a second, and must not be too early.
            date = formatdate(time.time() + self.retry_after + 1, usegmt=True)
            headers.append(f"Retry-After: {date if self.as_date else self.retry_after}")
        return "\r\n".join([*headers, "Connection: close", "", ""]).encode() + body


@dataclasses.dataclass
class LoggedRequest:
    """A request, and the fault that was injected, if any. A refused connection has no method and path."""

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
    The faults to inject: those of a list in order, then random ones.

    :param faults: the list.
    :param seed: seed of the random faults.
    :param rate: the share of requests with a random fault, 0 to 1.
    :param kinds: the kinds of the random faults; by default all that do not wait.
    :param on: the requests that get random faults: ``upload``, ``poll`` or ``any``.
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
        Return the plan of a JSON value: a list of faults, or ``{"faults": …, "seed": …, "rate": …, …}``.

        :raises ValueError: it is not a plan.
        :raises TypeError: it is not a plan.
        """
        options = {"faults": value} if isinstance(value, list) else dict(value)
        return cls([Fault(**fault) for fault in options.pop("faults", ())], **options)

    def refuses_connection(self) -> bool:
        """Return whether to refuse a new connection."""
        if self._faults and self._faults[0].kind == "refuse":
            self._faults.pop(0)
            return True
        # It is not known yet whether a new connection is for an upload or a poll.
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
