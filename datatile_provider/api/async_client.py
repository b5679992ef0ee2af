"""A client of the Data Collector API over ``aiohttp``, for waits: all waits for a server share one session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from weakref import WeakKeyDictionary, WeakValueDictionary

import aiohttp
from yarl import URL

from datatile_provider.api import errors, parsing, poll_queue
from datatile_provider.api.concurrency import ConcurrencyLimit
from datatile_provider.api.models import Job
from datatile_provider.api.poll_queue import Poll, PollQueue
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

#: Seconds after its deadline for which a wait queues for its last poll.
LAST_POLL_TIMEOUT = 10.0


class _Shared:
    """A session and the number of waits that hold it."""

    def __init__(self, session: aiohttp.ClientSession, max_connections: int) -> None:
        self.session = session
        self.holders = 0
        # Weak: the clients that wait for a poll keep it.
        self.polls: WeakValueDictionary[str, Poll] = WeakValueDictionary()
        self.queue = PollQueue(ConcurrencyLimit(max_connections, time.monotonic()))


_Key = tuple[str, "bool | str", "str | None", int, int]
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
        self._last_poll: Poll | None = None
        #: Seconds since another wait got the response that :meth:`get_job` returned last; zero for a new poll.
        self.age = 0.0

    @property
    def sent_ago(self) -> float:
        """Seconds since the poll was sent whose result :meth:`get_job` returned last."""
        return self._last_poll.age if self._last_poll else 0.0

    @property
    def queued(self) -> tuple[float, str]:
        """Seconds for which that poll was in the queue, and why polls queue, for a person; empty if it should pass."""
        queued = self._last_poll.queued if self._last_poll else 0.0
        return queued, self._shared.queue.limit.reason(time.monotonic())

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
            poll = self._shared.polls[url] = Poll(self._settings, is_slow=poll is not None and poll.is_slow)
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

    def _can_share(self, poll: Poll, max_age: float, deadline: float | None) -> bool:
        if poll.settings != self._settings:
            return False
        if not poll.job.done():
            over = deadline is not None and poll.sent is not None and poll.sent < deadline <= time.monotonic()
            # Without waiters it is being cancelled.
            return poll.waiters > 0 and not over
        failed = poll.job.cancelled() or poll.job.exception() is not None
        return poll is not self._last_poll and not failed and poll.age <= max_age

    async def _end(self, poll: Poll, job_id: str, deadline: float) -> None:
        """Wait for a poll after its wait's deadline: until it is done, or has had its chance."""
        subject = f"job {job_id}"
        if poll.sent is not None and poll.sent < deadline:
            if not await poll.until(poll.sent + poll_queue.SLOW):
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

    async def _poll(self, poll: Poll, job_id: str, url: str) -> Job:
        settings, queue = self._settings, self._shared.queue
        limit = min(POLL_TIMEOUT, settings.timeout)
        try:
            # The time in the queue does not count against the poll's timeout.
            await queue.enter(poll)
            poll.sent = poll.connected = time.monotonic()
            try:
                response = await self._ask(poll, url, limit)
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
            else:
                return self._read(poll, job_id, response)
            finally:
                poll.is_slow = poll.age >= poll_queue.SLOW
        finally:
            queue.leave(poll)

    def _read(self, poll: Poll, job_id: str, response: Response) -> Job:
        queue, now = self._shared.queue, time.monotonic()
        try:
            job = parsing.read_job(self._settings.server, job_id, response)
        except errors.RateLimitedError as e:
            queue.limit.too_fast(poll.connected, now, e.retry_after)
            raise
        except errors.DatatileError as e:
            if isinstance(e, errors.ServerBusyError) and e.status == 503:
                queue.limit.overloaded(poll.connected, now)
            else:
                queue.responded(poll)
            raise
        queue.responded(poll)
        return job

    async def _ask(self, poll: Poll, url: str, limit: float) -> Response:
        settings, pool = self._settings, self._shared.queue.limit
        headers = {"token": settings.token}
        if pool.surplus:
            pool.surplus -= 1
            headers["Connection"] = "close"
        async with self._shared.session.get(
            # It is quoted already.
            URL(url, encoded=True),
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=limit, sock_connect=min(CONNECT_TIMEOUT, limit)),
            trace_request_ctx=poll,
        ) as response:
            body = b""
            while len(body) <= MAX_POLL_BYTES and (block := await response.content.read(1 << 16)):
                body += block
            received = Response.of(response.status, body[: MAX_POLL_BYTES + 1], response.headers, settings.token)
            return logged("GET", url, received)


async def _on_connected(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx.connected = time.monotonic()


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AsyncDatatileClient]:
    """Return a client over the running loop's session for that server; the last one to leave closes the session."""
    loop = asyncio.get_running_loop()
    bundle = bundle_of(settings.verify)
    # A bundle that was replaced is loaded again, and a new limit is a new session's.
    key = (settings.server.url, settings.verify, bundle, mtime_of(bundle), settings.max_connections)
    async with _opening.setdefault(loop, asyncio.Lock()):
        shared = _sessions.setdefault(loop, {}).get(key)
        if shared is None:
            # Loading a CA bundle takes milliseconds, which would block the other waits.
            context = await asyncio.to_thread(ssl_context, bundle)
            # The queue limits the connections.
            connector = aiohttp.TCPConnector(limit=0, ssl=context, ttl_dns_cache=60)
            jar = aiohttp.DummyCookieJar()
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_end.append(_on_connected)
            session = aiohttp.ClientSession(connector=connector, cookie_jar=jar, trace_configs=[trace])
            shared = _sessions[loop][key] = _Shared(session, settings.max_connections)
        shared.holders += 1
    try:
        yield AsyncDatatileClient(settings, shared)
    finally:
        shared.holders -= 1
        if not shared.holders:
            _sessions[loop].pop(key, None)
            shared.queue.close()
            await shared.session.close()
