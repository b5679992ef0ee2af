"""An object of a store, read ahead: its next parts come in while those before them are sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from io import BytesIO
from threading import Thread

#: Bytes of one request to the store: so many that its delay hardly counts.
PART = 8 << 20
#: Parts on their way at a time: so many that the delay of one passes while others come in.
PARTS = 3
#: Seconds to wait for a part: so many that a slow store with retries of its own is not taken for one that hangs.
PATIENCE = 300


class ReadAhead(AbstractContextManager["ReadAhead"]):
    """
    Reads an object from its first byte to its last, and one more if it is longer than its size.

    :param fetch: returns the bytes from one place up to another, or to the object's end; several threads call it at a
        time.
    :param size: the object's size in bytes.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._ranges = iter([(start, min(start + PART, size)) for start in range(0, size, PART)])
        self._coming: deque[Future[bytes]] = deque()
        self._part = BytesIO()

    def read(self, size: int, /) -> bytes:
        """
        Return at most so many bytes, none at the end.

        :raises EOFError: the object is shorter than it was.
        :raises TimeoutError: the store hangs.
        """
        if block := self._part.read(size):
            return block
        while len(self._coming) < PARTS and (bounds := next(self._ranges, None)):
            self._coming.append(self._request(*bounds))
        self._part = BytesIO(self._next() if self._coming else b"")
        return self._part.read(size)

    def __exit__(self, *error: object) -> None:
        # Nobody waits for a store that hangs; what still comes is thrown away.
        self._coming.clear()

    def _next(self) -> bytes:
        part = self._coming.popleft()
        if not wait([part], PATIENCE).done:
            raise TimeoutError(f"the store gave nothing for {PATIENCE} s")
        return part.result()

    def _request(self, start: int, end: int) -> Future[bytes]:
        part: Future[bytes] = Future()

        def ask() -> None:
            try:
                part.set_result(self._whole(start, end))
            except BaseException as e:
                part.set_exception(e)

        # Not of a pool: the interpreter waits for the threads of those before it ends, even for one that hangs.
        Thread(target=ask, name="datatile-read-ahead", daemon=True).start()
        return part

    def _whole(self, start: int, end: int) -> bytes:
        # Stores refuse a request that begins past the end, but not one that ends there.
        asked = end + (end == self._size)
        part = self._fetch(start, asked)
        # Else what follows would move up, unseen.
        if not end <= start + len(part) <= asked:
            raise EOFError(f"the store gave {len(part):,} of the {end - start:,} bytes from {start:,} on")
        return part
