"""Reads an object ahead: its next parts are fetched while the caller sends the current one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from io import BytesIO
from threading import Thread

#: Bytes per request to the store: enough to make its latency negligible.
PART = 8 << 20
#: Parts in flight at a time: enough to hide the latency of one request.
PARTS = 3
#: Seconds to wait for a part: enough for a slow store whose client retries by itself.
PART_TIMEOUT = 300


class ReadAhead(AbstractContextManager["ReadAhead"]):
    """
    Reads an object from its first byte to its last, and one byte more if it is longer than its size.

    :param fetch: returns the bytes between two offsets, or up to the object's end; it is called from several threads.
    :param size: the object's size in bytes.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._ranges = iter([(start, min(start + PART, size)) for start in range(0, size, PART)])
        self._in_flight: deque[Future[bytes]] = deque()
        self._part = BytesIO()

    def read(self, size: int, /) -> bytes:
        """
        Return at most ``size`` bytes, and none at the end.

        :raises EOFError: the object is shorter than its size.
        :raises TimeoutError: the store does not respond.
        """
        if block := self._part.read(size):
            return block
        while len(self._in_flight) < PARTS and (bounds := next(self._ranges, None)):
            self._in_flight.append(self._request(*bounds))
        if not self._in_flight:
            return b""
        part = self._in_flight.popleft()
        if not wait([part], PART_TIMEOUT).done:
            raise TimeoutError(f"the store returned no data for {PART_TIMEOUT} s")
        self._part = BytesIO(part.result())
        return self._part.read(size)

    def __exit__(self, *error: object) -> None:
        # Requests in flight are not waited for, as the store may hang. Their parts are discarded.
        self._in_flight.clear()

    def _request(self, start: int, end: int) -> Future[bytes]:
        part: Future[bytes] = Future()

        def run() -> None:
            try:
                part.set_result(self._fetch_part(start, end))
            except BaseException as e:
                part.set_exception(e)

        # Not a thread pool: at exit the interpreter would wait for its threads, even for one that hangs.
        Thread(target=run, name="datatile-read-ahead", daemon=True).start()
        return part

    def _fetch_part(self, start: int, end: int) -> bytes:
        # Stores reject a range that begins past the end of the object, but not one that only ends past it.
        requested_end = end + (end == self._size)
        part = self._fetch(start, requested_end)
        # A short part would silently shift all bytes after it.
        if not end <= start + len(part) <= requested_end:
            raise EOFError(f"the store returned {len(part):,} of the {end - start:,} bytes from offset {start:,}")
        return part
