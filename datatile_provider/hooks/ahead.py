"""An object of a store, read ahead: its next parts come in while those before them are sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from io import BytesIO

#: Bytes of one request to the store: so many that its delay hardly counts.
PART = 8 << 20
#: Parts on their way at a time: so many that the delay of one passes while others come in.
PARTS = 3


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
        self._pool = ThreadPoolExecutor(PARTS, thread_name_prefix="datatile-read-ahead")
        self._coming: deque[Future[bytes]] = deque()
        self._part = BytesIO()

    def read(self, size: int, /) -> bytes:
        """
        Return at most so many bytes, none at the end.

        :raises EOFError: the object is shorter than it was.
        """
        if block := self._part.read(size):
            return block
        while len(self._coming) < PARTS and (bounds := next(self._ranges, None)):
            self._coming.append(self._pool.submit(self._whole, *bounds))
        self._part = BytesIO(self._coming.popleft().result() if self._coming else b"")
        return self._part.read(size)

    def __exit__(self, *error: object) -> None:
        # Nobody waits for a store that hangs; what still comes is thrown away.
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _whole(self, start: int, end: int) -> bytes:
        # Stores refuse a request that begins past the end, but not one that ends there.
        asked = end + (end == self._size)
        part = self._fetch(start, asked)
        # Else what follows would move up, unseen.
        if not end <= start + len(part) <= asked:
            raise EOFError(f"the store gave {len(part):,} of the {end - start:,} bytes from {start:,} on")
        return part
