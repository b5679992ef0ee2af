"""The queue of the polls of one server: which poll is sent next. All waits for that server share it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from datatile_provider.api.concurrency import ConcurrencyLimit
from datatile_provider.api.models import Job
from datatile_provider.api.settings import Settings

#: Seconds after which a poll without a response counts as slow. A poll is never cancelled for others before that.
SLOW = 1.0


class Poll:
    """
    One poll of a job, running or done, shared by the waits that need it at about the same time.

    :param settings: the connection that it is made with.
    :param is_slow: whether the job's last poll was slow; later, whether this one is.
    """

    job: asyncio.Task[Job]
    admitted: asyncio.Future[None]  #: Done when the poll may be sent.

    def __init__(self, settings: Settings, *, is_slow: bool = False) -> None:
        self.settings = settings
        self.is_slow = is_slow
        self.is_last = False  #: Whether it is a wait's last poll.
        self.cancelled_for_others = False
        self.waiters = 0  #: The number of waits that wait for it.
        self.started = time.monotonic()
        self.sent: float | None = None  #: When the request was sent; None while the poll is queued.
        self.connected = 0.0  #: When its connection was open. Opening one takes several round trips.

    def start(self, poll: Coroutine[Any, Any, Job]) -> None:
        """Send the request."""
        self.job = asyncio.create_task(poll)
        # When all waits for it are cancelled, nothing else reads its error.
        self.job.add_done_callback(lambda task: task.cancelled() or task.exception())

    def cancel_for_others(self) -> None:
        """Cancel the poll, as other polls need its connection."""
        self.cancelled_for_others = True
        self.job.cancel()

    async def until(self, then: float | None = None) -> bool:
        """
        Wait for the response, or until a time of the monotonic clock; return whether it has come.

        The poll goes on when this is cancelled: other waits may wait for it too.
        """
        if not self.job.done():
            await asyncio.wait({self.job}, timeout=None if then is None else max(0.0, then - time.monotonic()))
        return self.job.done()

    @property
    def age(self) -> float:
        """Seconds since the request was sent."""
        return 0.0 if self.sent is None else time.monotonic() - self.sent

    @property
    def queued(self) -> float:
        """Seconds for which it was in the queue."""
        return (time.monotonic() if self.sent is None else self.sent) - self.started


class PollQueue:
    """
    Decides which poll is sent next.

    A poll takes one of a limited number of connections. When it has no response soon, it counts as slow, and the next
    poll gets the connection. A job whose last poll was slow starts among the slow ones, so that such jobs never take
    the connections of the others. At a wait's deadline the job's last poll goes first.

    :param limit: how many polls may be outstanding.
    """

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self.limit = limit
        self._last: OrderedDict[Poll, None] = OrderedDict()
        self._usual: OrderedDict[Poll, None] = OrderedDict()
        self._later: OrderedDict[Poll, None] = OrderedDict()
        self._quick: dict[Poll, asyncio.TimerHandle] = {}
        self._slow: OrderedDict[Poll, None] = OrderedDict()  # oldest first
        self._resume: asyncio.TimerHandle | None = None

    async def enter(self, poll: Poll) -> None:
        """Wait until a poll may be sent. :meth:`leave` must follow, also after an error."""
        poll.admitted = asyncio.get_running_loop().create_future()
        queue = self._last if poll.is_last else self._later if poll.is_slow else self._usual
        queue[poll] = None
        self._admit()
        await poll.admitted

    def responded(self, poll: Poll) -> None:
        """Note a response that does not say that the server is overloaded or polled too fast."""
        # A job that is slow by itself says nothing about the server.
        if not poll.is_slow:
            self.limit.responded(poll.connected, time.monotonic())

    def leave(self, poll: Poll) -> None:
        """Let the next polls be sent."""
        for queue in (self._last, self._usual, self._later, self._slow):
            queue.pop(poll, None)
        if timer := self._quick.pop(poll, None):
            timer.cancel()
        self._admit()

    def prioritize(self, poll: Poll) -> None:
        """Send a poll before the others: its wait is at the deadline."""
        poll.is_last = True
        for queue in (self._usual, self._later):
            if poll in queue:
                del queue[poll]
                self._last[poll] = None
        self._admit()

    def close(self) -> None:
        """Forget the time at which polls are sent again."""
        if self._resume:
            self._resume.cancel()

    def _admit(self) -> None:
        limit, now = self.limit, time.monotonic()
        # A wait's last poll is also sent when the server is too slow for more than the few, or asks for a pause.
        while self._last and self._has_room(max(limit.few, limit.limit)):
            self._send(self._last)
        if now < limit.resumes:
            if self._resume is None or self._resume.cancelled() or self._resume.when() <= _loop().time():
                self._resume = _loop().call_later(limit.resumes - now, self._admit)
            return
        kept = min(len(self._slow) + len(self._later), limit.most // 2)
        while self._usual and self._has_room(min(limit.limit, limit.most - kept)):
            self._send(self._usual)
        if self._usual and len(self._quick) >= limit.limit:
            limit.queued(next(iter(self._usual)).queued)
        while self._later and len(self._slow) < limit.most // 2 and self._has_room(limit.most):
            self._slow[_first(self._later)] = None

    def _has_room(self, most_quick: int) -> bool:
        quick = len(self._quick)
        return quick < most_quick and quick + len(self._slow) < self.limit.most

    def _send(self, queue: OrderedDict[Poll, None]) -> None:
        poll = _first(queue)
        self._quick[poll] = self._timer(poll)

    def _timer(self, poll: Poll) -> asyncio.TimerHandle:
        # The more polls hang, the sooner the next one is sent.
        patience = SLOW / (1 + len(self._slow) / self.limit.limit)
        return _loop().call_later(patience, self._mark_slow, poll)

    def _mark_slow(self, poll: Poll) -> None:
        """Give a slow poll's connection to the next poll; when too many are slow, the oldest is cancelled."""
        if len(self._slow) >= self.limit.most - self.limit.few:
            oldest = next(iter(self._slow))
            if not (self._last or self._usual) or oldest.age < SLOW:
                self._quick[poll] = self._timer(poll)
                return
            del self._slow[oldest]
            oldest.cancel_for_others()
        del self._quick[poll]
        self._slow[poll] = None
        self._admit()


_loop = asyncio.get_running_loop


def _first(queue: OrderedDict[Poll, None]) -> Poll:
    poll, _ = queue.popitem(last=False)
    # A cancelled poll has not left the queue yet.
    if not poll.admitted.done():
        poll.admitted.set_result(None)
    return poll
