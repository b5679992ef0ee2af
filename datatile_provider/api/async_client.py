"""A client of the Data Collector API over ``aiohttp``, for waits: all waits for a server share one session."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import aiohttp
from yarl import URL

from datatile_provider.api import errors, parsing
from datatile_provider.api.models import Job
from datatile_provider.api.responses import MAX_POLL_BYTES, Response
from datatile_provider.api.settings import Settings
from datatile_provider.api.tls import bundle_of, mtime_of, ssl_context
from datatile_provider.api.transport import (
    CONNECT_TIMEOUT,
    POLL_TIMEOUT,
    address_with_proxy,
    logged,
    no_response,
    proxy_of,
)
from datatile_provider.api.validation import check_job_id

#: The most connections to a server for quick polls, however many jobs are waited for.
MAX_CONNECTIONS = 8
#: Seconds after which a poll without a response counts as slow. A poll is never cancelled for others before that.
SLOW = 1.0
#: The most polls that run at a time, slow ones included.
MAX_POLLS = 100
#: The most slow polls that run at a time before a job whose last poll was slow is polled again.
MAX_SLOW = 50
#: Seconds after its deadline for which a wait queues for its last poll.
LAST_POLL_TIMEOUT = 10.0


class _PollQueue:
    """
    Decides which poll is sent next.

    A poll takes one of a few connections. When it has no response soon, it counts as slow, and the next poll gets the
    connection. A job whose last poll was slow starts among the slow ones, so that such jobs never take the connections
    of the others. At a wait's deadline the job's last poll goes first.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[_Poll, None] = OrderedDict()
        self._usual: OrderedDict[_Poll, None] = OrderedDict()
        self._later: OrderedDict[_Poll, None] = OrderedDict()
        self._quick: dict[_Poll, asyncio.TimerHandle] = {}
        self._slow: OrderedDict[_Poll, None] = OrderedDict()  # oldest first

    async def enter(self, poll: _Poll) -> None:
        """Wait until a poll may be sent. :meth:`leave` must follow, also after an error."""
        poll.admitted = asyncio.get_running_loop().create_future()
        queue = self._last if poll.is_last else self._later if poll.is_slow else self._usual
        queue[poll] = None
        self._admit()
        await poll.admitted

    def leave(self, poll: _Poll) -> None:
        """Let the next polls be sent."""
        for queue in (self._last, self._usual, self._later, self._slow):
            queue.pop(poll, None)
        if timer := self._quick.pop(poll, None):
            timer.cancel()
        self._admit()

    def prioritize(self, poll: _Poll) -> None:
        """Send a poll before the others: its wait is at the deadline."""
        poll.is_last = True
        for queue in (self._usual, self._later):
            if poll in queue:
                del queue[poll]
                self._last[poll] = None
        self._admit()

    def _admit(self) -> None:
        while len(self._quick) < MAX_CONNECTIONS and (queue := self._last or self._usual):
            poll = _first(queue)
            self._quick[poll] = self._timer(poll)
        while self._later and len(self._slow) < MAX_SLOW:
            self._slow[_first(self._later)] = None

    def _timer(self, poll: _Poll) -> asyncio.TimerHandle:
        # The more polls hang, the sooner the next one is sent.
        patience = SLOW / (1 + len(self._slow) / MAX_CONNECTIONS)
        return asyncio.get_running_loop().call_later(patience, self._mark_slow, poll)

    def _mark_slow(self, poll: _Poll) -> None:
        """Give a slow poll's connection to the next poll; when too many are slow, the oldest is cancelled."""
        if len(self._slow) >= MAX_POLLS - MAX_CONNECTIONS:
            oldest = next(iter(self._slow))
            if not (self._last or self._usual) or oldest.age < SLOW:
                self._quick[poll] = self._timer(poll)
                return
            del self._slow[oldest]
            oldest.cancel_for_others()
        del self._quick[poll]
        self._slow[poll] = None
        self._admit()


def _first(queue: OrderedDict[_Poll, None]) -> _Poll:
    poll, _ = queue.popitem(last=False)
    # A cancelled poll has not left the queue yet.
    if not poll.admitted.done():
        poll.admitted.set_result(None)
    return poll


class _Shared:
    """A session and the number of waits that hold it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.holders = 0
        # Weak: the clients that wait for a poll keep it.
        self.polls: WeakValueDictionary[str, _Poll] = WeakValueDictionary()
        self.queue = _PollQueue()


class _Poll:
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
        self.sent: float | None = None  #: When the request was sent; None while the poll is queued.

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


_Key = tuple[str, "bool | str", "str | None", int]
_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, _Shared]] = WeakKeyDictionary()
_opening: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class AsyncDatatileClient:
    """
    An asynchronous client of one server; get one from :func:`connected`.

    :param settings: the connection.
    :param shared: the session. It holds no token: each request has its own.
    """

    def __init__(self, settings: Settings, shared: _Shared) -> None:
        self._settings = settings
        self._shared = shared
        self._proxy = proxy_of(settings)
        self._last_poll: _Poll | None = None
        #: Seconds since another wait got the response that :meth:`get_job` returned last; zero for a new poll.
        self.age = 0.0

    @property
    def sent_ago(self) -> float:
        """Seconds since the poll was sent whose result :meth:`get_job` returned last."""
        return self._last_poll.age if self._last_poll else 0.0

    async def get_job(self, job_id: str, *, max_age: float = 0.0, left: float | None = None) -> Job:
        """
        Poll a job once.

        :param max_age: the most seconds since another wait for the same job got a response, for that to be used.
        :param left: seconds until the wait's deadline, if it has one. At the deadline, a poll that is not sent yet goes
            first, and one that was sent long before is replaced by a new one.
        :raises TransientError: no usable response now.
        :raises PermanentError: the server will not report it.
        """
        url = self._settings.server.job_url(check_job_id(job_id))
        deadline = None if left is None else time.monotonic() + left
        poll = self._shared.polls.get(url)
        self.age = 0.0
        if poll is None or not self._can_share(poll, max_age, deadline):
            poll = self._shared.polls[url] = _Poll(self._settings, is_slow=poll is not None and poll.is_slow)
            poll.start(self._poll(poll, job_id, url))
        elif poll.job.done():
            self.age = poll.age
        self._last_poll = poll
        poll.waiters += 1
        try:
            if deadline is None:
                await poll.until()
            elif not await poll.until(deadline):
                await self._end(poll, job_id, deadline)
            return poll.job.result()
        finally:
            poll.waiters -= 1
            if not poll.waiters:
                poll.job.cancel()

    def _can_share(self, poll: _Poll, max_age: float, deadline: float | None) -> bool:
        if poll.settings != self._settings:
            return False
        if not poll.job.done():
            over = deadline is not None and poll.sent is not None and poll.sent < deadline <= time.monotonic()
            # Without waiters it is being cancelled.
            return poll.waiters > 0 and not over
        failed = poll.job.cancelled() or poll.job.exception() is not None
        return poll is not self._last_poll and not failed and poll.age <= max_age

    async def _end(self, poll: _Poll, job_id: str, deadline: float) -> None:
        """Wait for a poll after its wait's deadline: until it is done, or has had its chance."""
        subject = f"job {job_id}"
        if poll.sent is not None and poll.sent < deadline:
            if not await poll.until(poll.sent + SLOW):
                raise errors.ServerUnreachableError(
                    f"No response from {address_with_proxy(self._settings)} before the wait's deadline",
                    subject=subject,
                )
            return
        self._shared.queue.prioritize(poll)
        if not await poll.until(deadline + LAST_POLL_TIMEOUT) and poll.sent is None:
            raise errors.ServerUnreachableError(
                "The last poll was not sent: no connection was free within "
                f"{LAST_POLL_TIMEOUT:,.10g} s of the wait's deadline",
                subject=subject,
            )
        await poll.until()

    async def _poll(self, poll: _Poll, job_id: str, url: str) -> Job:
        server, settings = self._settings.server, self._settings
        limit = min(POLL_TIMEOUT, settings.timeout)
        try:
            # The time in the queue does not count against the poll's timeout.
            await self._shared.queue.enter(poll)
            poll.sent = time.monotonic()
            try:
                response = await self._ask(url, limit)
            # aiohttp raises ValueError and zlib's errors for some invalid responses, and OSError for some connections.
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, asyncio.CancelledError) as e:
                if isinstance(e, asyncio.CancelledError) and not poll.cancelled_for_others:
                    raise
                # aiohttp's own timeout has no text.
                timed_out = isinstance(e, asyncio.TimeoutError) and not str(e)
                why = f"timed out after {limit:,.10g} s" if timed_out else ""
                if poll.cancelled_for_others:
                    why = f"cancelled after {poll.age:,.1f} s, as other polls needed the connection"
                raise no_response(settings, f"job {job_id}", e, why=why) from e
            finally:
                poll.is_slow = poll.age >= SLOW
        finally:
            self._shared.queue.leave(poll)
        return parsing.read_job(server, job_id, response)

    async def _ask(self, url: str, limit: float) -> Response:
        settings = self._settings
        async with self._shared.session.get(
            # It is quoted already.
            URL(url, encoded=True),
            headers={"token": settings.token},
            allow_redirects=False,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=limit, sock_connect=min(CONNECT_TIMEOUT, limit)),
        ) as response:
            body = b""
            while len(body) <= MAX_POLL_BYTES and (block := await response.content.read(1 << 16)):
                body += block
            received = Response.of(response.status, body[: MAX_POLL_BYTES + 1], response.headers, settings.token)
            return logged("GET", url, received)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AsyncDatatileClient]:
    """Return a client over the running loop's session for that server; the last one to leave closes the session."""
    loop = asyncio.get_running_loop()
    bundle = bundle_of(settings.verify)
    # A bundle that was replaced is loaded again.
    key = (settings.server.url, settings.verify, bundle, mtime_of(bundle))
    async with _opening.setdefault(loop, asyncio.Lock()):
        shared = _sessions.setdefault(loop, {}).get(key)
        if shared is None:
            # Loading a CA bundle takes milliseconds, which would block the other waits.
            context = await asyncio.to_thread(ssl_context, bundle)
            # The queue limits the connections.
            connector = aiohttp.TCPConnector(limit=0, ssl=context, ttl_dns_cache=60)
            jar = aiohttp.DummyCookieJar()
            shared = _sessions[loop][key] = _Shared(aiohttp.ClientSession(connector=connector, cookie_jar=jar))
        shared.holders += 1
    try:
        yield AsyncDatatileClient(settings, shared)
    finally:
        shared.holders -= 1
        if not shared.holders:
            _sessions[loop].pop(key, None)
            await shared.session.close()
