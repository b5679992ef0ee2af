"""The Data Collector API over ``aiohttp``, for waiting: one session a server and event loop, shared by all waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import aiohttp
import certifi
from yarl import URL

from datatile_provider.api import contract, errors
from datatile_provider.api.answers import Answer
from datatile_provider.api.client import (
    CONNECT_TIMEOUT,
    MAX_POLL_BYTES,
    POLL_TIMEOUT,
    advice_about,
    proxy_of,
    read_poll,
    reason,
    untrusted,
    way_to,
)
from datatile_provider.api.contract import Job
from datatile_provider.api.settings import Settings, trusting

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

#: A thousand waits poll in turn over these; a server sees no crowd.
MAX_CONNECTIONS = 8
#: Seconds after which a poll that has no response yet counts as slow. It has lasted that long at least when it is given
#: up for others.
SLOW = 1.0
#: Polls under way at a time, slow ones included.
MAX_POLLS = 100
#: Slow polls under way at a time up to which jobs whose last poll was slow are polled again.
MAX_SLOW = 50
#: Seconds after its deadline for which a wait stands in line for its last poll.
LAST_POLL_PATIENCE = 10.0


class _Line:
    """
    Decides who may poll.

    A poll takes one of a few connections. When it has no response soon, it goes on among the slow ones, and the
    connection is the next poll's. A job whose last poll was slow starts there, so that such jobs never take the
    connections of the others; but at a wait's deadline any job's poll goes before all others.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[_Look, None] = OrderedDict()
        self._usual: OrderedDict[_Look, None] = OrderedDict()
        self._later: OrderedDict[_Look, None] = OrderedDict()
        self._quick: dict[_Look, asyncio.TimerHandle] = {}
        # Oldest first.
        self._slow: OrderedDict[_Look, None] = OrderedDict()

    async def enter(self, look: _Look) -> None:
        """Wait for a poll's turn. Whether or not it came, :meth:`leave` must follow."""
        look.turn = asyncio.get_running_loop().create_future()
        line = self._last if look.is_last else self._later if look.is_slow else self._usual
        line[look] = None
        self._serve()
        await look.turn

    def leave(self, look: _Look) -> None:
        """Let the next ones poll."""
        for line in (self._last, self._usual, self._later, self._slow):
            line.pop(look, None)
        if timer := self._quick.pop(look, None):
            timer.cancel()
        self._serve()

    def hurry(self, look: _Look) -> None:
        """Let a poll go before the others: a wait's deadline has come."""
        look.is_last = True
        for line in (self._usual, self._later):
            if look in line:
                del line[look]
                self._last[look] = None
        self._serve()

    def _serve(self) -> None:
        while len(self._quick) < MAX_CONNECTIONS and (line := self._last or self._usual):
            look = _first(line)
            self._quick[look] = self._timer(look)
        while self._later and len(self._slow) < MAX_SLOW:
            self._slow[_first(self._later)] = None

    def _timer(self, look: _Look) -> asyncio.TimerHandle:
        # The more polls hang, the sooner the next one is let in.
        patience = SLOW / (1 + len(self._slow) / MAX_CONNECTIONS)
        return asyncio.get_running_loop().call_later(patience, self._let_go, look)

    def _let_go(self, look: _Look) -> None:
        """Give a slow poll's connection to the next; the oldest of too many slow ones is given up."""
        if len(self._slow) >= MAX_POLLS - MAX_CONNECTIONS:
            oldest = next(iter(self._slow))
            if not (self._last or self._usual) or oldest.age < SLOW:
                self._quick[look] = self._timer(look)
                return
            del self._slow[oldest]
            oldest.give_up()
        del self._quick[look]
        self._slow[look] = None
        self._serve()


def _first(line: OrderedDict[_Look, None]) -> _Look:
    look, _ = line.popitem(last=False)
    # One that is cancelled has still to leave.
    if not look.turn.done():
        look.turn.set_result(None)
    return look


class _Shared:
    """A session and the number of waits that hold it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.holders = 0
        # Weak: a look is kept by the clients that took it, so it goes when they do.
        self.looks: WeakValueDictionary[str, _Look] = WeakValueDictionary()
        self.line = _Line()


class _Look:
    """
    One poll of a job, under way or done, for all that ask at about the same time.

    :param settings: the connection that it is made with.
    :param is_slow: whether the job's last poll was slow, and then whether this one is.
    """

    job: asyncio.Task[Job]
    turn: asyncio.Future[None]

    def __init__(self, settings: Settings, *, is_slow: bool = False) -> None:
        self.settings = settings
        self.is_slow = is_slow
        #: Whether it is the last one of a wait.
        self.is_last = False
        #: Whether it was ended for other polls.
        self.given_up = False
        #: How many wait for it.
        self.waiters = 0
        #: When the request was sent; until then it waits in line.
        self.sent: float | None = None

    def start(self, poll: Coroutine[Any, Any, Job]) -> None:
        """Send the request."""
        self.job = asyncio.create_task(poll)
        # Should all who wait for it be cancelled, its failure is nobody's.
        self.job.add_done_callback(lambda task: task.cancelled() or task.exception())

    def give_up(self) -> None:
        """End a poll that others need the connection of."""
        self.given_up = True
        self.job.cancel()

    async def until(self, then: float | None = None) -> bool:
        """
        Wait for the response, or until a time of the monotonic clock; return whether it has come.

        No wait's end ends it: others may wait for it too.
        """
        if not self.job.done():
            await asyncio.wait({self.job}, timeout=None if then is None else max(0.0, then - time.monotonic()))
        return self.job.done()

    @property
    def age(self) -> float:
        """Seconds since the request was sent."""
        return 0.0 if self.sent is None else time.monotonic() - self.sent


_Key = tuple[str, "bool | str", "str | None", int]
_sessions: WeakKeyDictionary[AbstractEventLoop, dict[_Key, _Shared]] = WeakKeyDictionary()
_opening: WeakKeyDictionary[AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class AsyncDatatileClient:
    """
    An asynchronous client of one server; get one from :func:`connected`.

    :param settings: the connection.
    :param shared: what it asks through. It holds no token: each request brings its own.
    """

    def __init__(self, settings: Settings, shared: _Shared) -> None:
        self._settings = settings
        self._shared = shared
        self._proxy = proxy_of(settings)
        self._look: _Look | None = None
        #: Seconds since another wait got the answer that :meth:`get_job` gave last; zero when it was asked for anew.
        self.age = 0.0

    @property
    def sent_ago(self) -> float:
        """Seconds since the poll was sent that :meth:`get_job` gave last."""
        return self._look.age if self._look else 0.0

    async def get_job(self, job_id: str, *, max_age: float = 0.0, left: float | None = None) -> Job:
        """
        Poll a job once.

        :param max_age: seconds; a response that another wait for the same job got that lately will do.
        :param left: seconds until the wait's deadline, if it has one. Then a poll that is not sent yet goes before all
            others, and one that was sent long ago is given up for another one.
        :raises Passing: no usable response now.
        :raises Refused: the server will not tell.
        """
        url = self._settings.server.job_url(contract.check_job_id(job_id))
        deadline = None if left is None else time.monotonic() + left
        look = self._shared.looks.get(url)
        self.age = 0.0
        if look is None or not self._will_do(look, max_age, deadline):
            look = self._shared.looks[url] = _Look(self._settings, is_slow=look is not None and look.is_slow)
            look.start(self._poll(look, job_id, url))
        elif look.job.done():
            self.age = look.age
        self._look = look
        look.waiters += 1
        try:
            if deadline is None:
                await look.until()
            elif not await look.until(deadline):
                await self._end(look, job_id, deadline)
            return look.job.result()
        finally:
            look.waiters -= 1
            if not look.waiters:
                look.job.cancel()

    def _will_do(self, look: _Look, max_age: float, deadline: float | None) -> bool:
        if look.settings != self._settings:
            return False
        if not look.job.done():
            over = deadline is not None and look.sent is not None and look.sent < deadline <= time.monotonic()
            # One that nobody waits for is being cancelled.
            return look.waiters > 0 and not over
        failed = look.job.cancelled() or look.job.exception() is not None
        return look is not self._look and not failed and look.age <= max_age

    async def _end(self, look: _Look, job_id: str, deadline: float) -> None:
        """Wait for a poll at its wait's deadline: until it is done, or has had its chance."""
        what = f"The poll of job {job_id}"
        if look.sent is not None and look.sent < deadline:
            if not await look.until(look.sent + SLOW):
                raise errors.Passing(f"{what} got no response from {way_to(self._settings)} until the wait's deadline")
            return
        self._shared.line.hurry(look)
        if not await look.until(deadline + LAST_POLL_PATIENCE) and look.sent is None:
            raise errors.Passing(
                f"{what} was not sent: no connection was free for its last poll within {LAST_POLL_PATIENCE:,.10g} s of "
                "the wait's deadline"
            )
        await look.until()

    async def _poll(self, look: _Look, job_id: str, url: str) -> Job:
        server, settings = self._settings.server, self._settings
        limit = min(POLL_TIMEOUT, settings.timeout)
        try:
            # Waiting in line does not count against the poll's time.
            await self._shared.line.enter(look)
            look.sent = time.monotonic()
            try:
                answer = await self._ask(url, limit)
            # aiohttp raises ValueError and zlib's errors for some broken answers, and OSError for some connections.
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, asyncio.CancelledError) as e:
                if isinstance(e, asyncio.CancelledError) and not look.given_up:
                    raise
                # A time limit of its own has no text.
                timed_out = isinstance(e, asyncio.TimeoutError) and not str(e)
                why = f"none within {limit:,.10g} s" if timed_out else reason(e, settings.token)
                if look.given_up:
                    why = f"none within {look.age:,.1f} s, and other polls needed the connection"
                what = f"The poll of job {job_id} got no response from {way_to(settings)}: {why}"
                if isinstance(e, aiohttp.ClientConnectorCertificateError):
                    raise untrusted(what) from e
                raise errors.Passing(what, advice=advice_about(e, settings)) from e
            finally:
                look.is_slow = look.age >= SLOW
        finally:
            self._shared.line.leave(look)
        return read_poll(server, job_id, answer)

    async def _ask(self, url: str, limit: float) -> Answer:
        settings = self._settings
        async with self._shared.session.get(
            # What contract has quoted must not be quoted, or unquoted, once more.
            URL(url, encoded=True),
            headers={"token": settings.token},
            allow_redirects=False,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=limit, sock_connect=min(CONNECT_TIMEOUT, limit)),
        ) as response:
            body = b""
            while len(body) <= MAX_POLL_BYTES and (block := await response.content.read(1 << 16)):
                body += block
            return Answer(
                response.status,
                body[: MAX_POLL_BYTES + 1],
                response.headers.get("Retry-After", ""),
                response.headers.get("Location", ""),
            ).without(settings.token)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AsyncDatatileClient]:
    """Give a client over the running loop's session for that server; the last to leave closes the session."""
    loop = asyncio.get_running_loop()
    bundle = _bundle(settings.verify)
    # A bundle that was replaced is read anew.
    key = (settings.server.url, settings.verify, bundle, _mtime(bundle))
    async with _opening.setdefault(loop, asyncio.Lock()):
        shared = _sessions.setdefault(loop, {}).get(key)
        if shared is None:
            # Loading a CA bundle takes milliseconds that other waits should not stand still for.
            context = await asyncio.to_thread(_ssl_context, bundle)
            # The limit is kept by the session's own line.
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


def _ssl_context(bundle: str | None) -> ssl.SSLContext:
    if bundle is None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return trusting(bundle)
    except OSError as e:
        raise errors.InvalidInput(f"The CA bundle {bundle} of the environment cannot be used ({e})") from e


def _bundle(verify: bool | str) -> str | None:
    """Return the CA bundle to check a server's certificate with; None if it is not checked."""
    if isinstance(verify, str):
        return verify
    # As requests does it, so that uploads and waits trust the same servers.
    found = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    return found or certifi.where() if verify else None


def _mtime(bundle: str | None) -> int:
    # One that can't be read is told of when it is loaded.
    with contextlib.suppress(OSError):
        return os.stat(bundle).st_mtime_ns if bundle else 0
    return 0
