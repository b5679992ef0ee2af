"""The Data Collector API over ``aiohttp``, for waiting: one session a server and event loop, shared by all waits."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import aiohttp
import certifi
from yarl import URL

from datatile_provider.api import contract, errors
from datatile_provider.api.answers import MAX_ANSWER_BYTES, Answer
from datatile_provider.api.client import (
    CONNECT_TIMEOUT,
    POLL_TIMEOUT,
    advice_about,
    proxy_of,
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
#: Seconds after which a poll that has no response yet lets the next one go: jobs whose polls hang must not hold up the
#: others.
SLOW = 1.0
#: Polls under way at a time, slow ones included.
MAX_POLLS = 100


class _Shared:
    """A session and the number of waits that hold it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.holders = 0
        # Weak: a look is kept by the clients that took it, so it goes when they do.
        self.looks: WeakValueDictionary[str, _Look] = WeakValueDictionary()
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)
        self._polls = asyncio.Semaphore(MAX_POLLS)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """Wait in line for a connection; a slow poll counts for :data:`SLOW` seconds only."""
        async with self._polls:
            await self._connections.acquire()
            left = [self._connections.release]

            def let_go() -> None:
                if left:
                    left.pop()()

            slow = asyncio.get_running_loop().call_later(SLOW, let_go)
            try:
                yield
            finally:
                slow.cancel()
                let_go()


class _Look:
    """
    One poll of a job, under way or done, for all that ask at about the same time.

    :param settings: the connection that it is made with.
    """

    job: asyncio.Task[Job]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: When the request was sent; until then it waits in line.
        self.sent: float | None = None

    def start(self, poll: Coroutine[Any, Any, Job]) -> None:
        """Send the request."""
        self.job = asyncio.create_task(poll)
        # Should all who wait for it be cancelled, its failure is nobody's.
        self.job.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def age(self) -> float:
        """Seconds since the request was sent."""
        return 0.0 if self.sent is None else time.monotonic() - self.sent


_Key = tuple[str, "bool | str"]
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

    async def get_job(self, job_id: str, *, max_age: float = 0.0) -> Job:
        """
        Poll a job once.

        :param max_age: seconds; a response that another wait for the same job got that lately will do.
        :raises Passing: no usable response now.
        :raises Refused: the server will not tell.
        """
        url = self._settings.server.job_url(contract.check_job_id(job_id))
        look = self._shared.looks.get(url)
        self.age = 0.0
        if look is None or not self._will_do(look, max_age):
            look = self._shared.looks[url] = _Look(self._settings)
            look.start(self._poll(look, job_id, url))
        elif look.job.done():
            self.age = look.age
        self._look = look
        # Shielded: others may wait for it too.
        return await asyncio.shield(look.job)

    def _will_do(self, look: _Look, max_age: float) -> bool:
        if look.settings != self._settings:
            return False
        if not look.job.done():
            return True
        failed = look.job.cancelled() or look.job.exception() is not None
        return look is not self._look and not failed and look.age <= max_age

    async def _poll(self, look: _Look, job_id: str, url: str) -> Job:
        server, settings = self._settings.server, self._settings
        limit = min(POLL_TIMEOUT, settings.timeout)
        # Waiting in line does not count against the poll's time.
        async with self._shared.connection():
            look.sent = time.monotonic()
            try:
                answer = await self._ask(url, limit)
            # aiohttp raises ValueError and zlib's errors for some broken answers, and OSError for some connections.
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as e:
                # A time limit of its own has no text.
                timed_out = isinstance(e, asyncio.TimeoutError) and not str(e)
                why = f"none within {limit:,.10g} s" if timed_out else reason(e, settings.token)
                what = f"The poll of job {job_id} got no response from {way_to(settings)}: {why}"
                if isinstance(e, aiohttp.ClientConnectorCertificateError):
                    raise untrusted(what) from e
                raise errors.Passing(what, advice=advice_about(e, settings)) from e
        return contract.read_job(server, job_id, answer)

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
            while len(body) < MAX_ANSWER_BYTES and (block := await response.content.read(1 << 16)):
                body += block
            return Answer(
                response.status,
                body,
                response.headers.get("Retry-After", ""),
                response.headers.get("Location", ""),
            ).without(settings.token)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AsyncDatatileClient]:
    """Give a client over the running loop's session for that server; the last to leave closes the session."""
    loop = asyncio.get_running_loop()
    key = (settings.server.url, settings.verify)
    async with _opening.setdefault(loop, asyncio.Lock()):
        shared = _sessions.setdefault(loop, {}).get(key)
        if shared is None:
            # Loading a CA bundle takes milliseconds that other waits should not stand still for.
            context = await asyncio.to_thread(_ssl_context, settings.verify)
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


def _ssl_context(verify: bool | str) -> ssl.SSLContext:
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    # As requests does it, so that uploads and waits trust the same servers.
    given = verify if isinstance(verify, str) else _environment_bundle()
    try:
        return trusting(given or certifi.where())
    except OSError as e:
        raise errors.InvalidInput(f"The CA bundle {given} of the environment cannot be used ({e})") from e


def _environment_bundle() -> str | None:
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
