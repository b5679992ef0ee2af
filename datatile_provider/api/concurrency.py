"""
How many polls of one server may be outstanding at a time: an adaptive concurrency limit, pure.

The limit follows AIMD with a slow start, as TCP's congestion control does:

- It starts at a few. It grows only while polls queue for longer than 0.1 s: it doubles with each round of responses,
  and grows by one once it was lowered.
- 503 halves it. So does 429; after several in a row, no poll is sent for a while.
- A round whose median latency is more than twice that of the few lowers it by a quarter.
- Every minute, a limit that is not used halves, and one that the latency had lowered is measured afresh.

A round is as many responses as the limit, all to polls that were sent since the limit changed.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from datatile_provider.api.polling import MAX_RETRY_AFTER

#: The limit at the start. Neither 503 nor the latency lowers it further.
FEW = 8
#: Seconds for which a poll must queue to show that more connections are needed.
NEEDED = 0.1
#: How many times its value for the few polls the latency may have.
SLOWER = 2.0
#: What the limit is multiplied with when the server slows down, and when it rejects a poll.
SLOWER_FACTOR, REJECTED_FACTOR = 0.75, 0.5
#: The number of 429 in a row after which no poll is sent for a while. A server may also limit the polls of one job.
IN_A_ROW = 5
#: Seconds for which then no poll is sent, unless the server says it; doubled each time, up to the maximum.
PAUSE, MAX_PAUSE = 1.0, 60.0
#: Seconds after which a limit that is not used, or that the latency has lowered, is reconsidered.
RECONSIDERED = 60.0


@dataclass(slots=True)
class ConcurrencyLimit:
    """
    The limit for one server. All times are in seconds of one monotonic clock.

    :param most: the highest limit, at least 2; a half of it, or less, is the lowest that the latency leads to.
    :param now: the time.
    """

    most: int
    now: float
    limit: int = field(init=False)
    few: int = field(init=False)
    resumes: float = field(init=False)  #: When polls may be sent again. In the past, unless the server is too fast.
    surplus: int = field(init=False, default=0)  #: The number of connections to close. The latency closes none.
    _changed: float = field(init=False)
    _reconsidered: float = field(init=False)
    _threshold: int = field(init=False)  # Below it, the limit doubles.
    _latencies: list[float] = field(init=False, default_factory=list)
    _base: float = field(init=False, default=0.0)  # The latency with few polls.
    _needed: bool = field(init=False, default=False)  # Whether a poll had to queue in this round.
    _used: bool = field(init=False, default=False)  # The same, since the limit was reconsidered.
    _slowed: bool = field(init=False, default=False)
    _in_a_row: int = field(init=False, default=0)
    _pause: float = field(init=False, default=PAUSE)

    def __post_init__(self) -> None:
        self.limit = self.few = min(FEW, self.most // 2)
        self._threshold = self.most
        self.resumes = self._changed = self._reconsidered = self.now

    def queued(self, seconds: float) -> None:
        """
        Note that a poll has to queue because the limit is reached.

        :param seconds: for which it has queued so far.
        """
        if seconds >= NEEDED:
            self._needed = self._used = True

    def responded(self, sent: float, now: float) -> None:
        """
        Note any other response.

        :param sent: when the poll was sent over a connection that was open.
        """
        self._in_a_row, self._pause = 0, PAUSE
        if sent < self._changed:
            return
        self._latencies.append(now - sent)
        if len(self._latencies) >= self.limit:
            self._end_round(statistics.median(self._latencies), now)

    def overloaded(self, sent: float, now: float) -> None:
        """Note a 503. A gateway may respond so for some jobs only, so the few polls are always sent."""
        if sent >= self._changed and self.limit > self.few:
            self._reject(self.few, now)

    def too_fast(self, sent: float, now: float, retry_after: float | None) -> None:
        """
        Note a 429.

        :param retry_after: seconds that the server asks to wait.
        """
        self._in_a_row += 1
        if sent >= self._changed and self.limit > 1:
            self._reject(1, now)
        if self._in_a_row >= IN_A_ROW and sent >= self.resumes:
            self.resumes = now + min(self._pause if retry_after is None else retry_after, MAX_RETRY_AFTER)
            self._pause = min(2 * self._pause, MAX_PAUSE)

    def reason(self, now: float) -> str:
        """Return why polls queue, for a person; empty while the limit still grows quickly."""
        if now < self.resumes or self._in_a_row >= IN_A_ROW:
            return "the server rejects them as too frequent (429)"
        if self.limit >= self.most:
            return f"all {self.most} connections are in use (max_connections)"
        return "the server slows down or rejects polls" if self.limit >= self._threshold else ""

    def _end_round(self, latency: float, now: float) -> None:
        self._base = latency if self.limit <= self.few else min(latency, self._base)
        due = now - self._reconsidered >= RECONSIDERED
        if due and (self._slowed or not self._used):
            # Below the old limit it doubles again, if that is needed.
            self._threshold = self.limit if self._slowed else self.most
            # After a 429, the limit may be below that at the start. Only a need raises it.
            limit = self.few if self._slowed else min(self.limit, max(self.few, self.limit // 2))
            self.surplus += self.limit - limit
            self._set(limit, now)
        elif self.limit > self.few and latency > SLOWER * self._base:
            self._lower(SLOWER_FACTOR, self.few, now)
            self._slowed = True
        elif self._needed and self.limit < self.most:
            self._set(min(2 * self.limit, self._threshold) if self.limit < self._threshold else self.limit + 1, now)
        else:
            self._set(self.limit, now)
        if due:
            self._reconsidered, self._used, self._slowed = now, False, False

    def _reject(self, lowest: int, now: float) -> None:
        before = self.limit
        self._lower(REJECTED_FACTOR, lowest, now)
        self.surplus += before - self.limit

    def _lower(self, factor: float, lowest: int, now: float) -> None:
        self._threshold = max(lowest, int(factor * self.limit))
        self._set(self._threshold, now)

    def _set(self, limit: int, now: float) -> None:
        # A response to a poll that was sent before says nothing about the new limit.
        if limit != self.limit:
            self._changed = now
        if limit > self.limit:
            self.surplus = 0
        self.limit, self._needed = limit, False
        self._latencies.clear()
