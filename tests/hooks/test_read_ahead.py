"""Reading an object of a store ahead: in order, with a bounded number of parts, and an error if it has changed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from datatile_provider.hooks import read_ahead
from datatile_provider.hooks.read_ahead import PART, PARTS, ReadAhead
from tests.support.waiting import until


class ObjectStore:
    """Delays each response until it is released; the first requested part may come last."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.requested: list[int] = []
        self._released: dict[int, threading.Event] = {
            start: threading.Event() for start in range(0, len(content), PART)
        }

    def fetch(self, start: int, end: int) -> bytes:
        self.requested.append(start)
        assert self._released[start].wait(10)
        return self.content[start:end]

    def release(self, *parts: int) -> None:
        for part in parts:
            self._released[part * PART].set()


def read_all(file: ReadAhead) -> bytes:
    return b"".join(iter(lambda: file.read(1 << 20), b""))


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 2 * PART * PARTS])
def test_the_whole_object_is_read(size):
    content = os.urandom(size)
    with ReadAhead(lambda start, end: content[start:end], size) as file:
        assert read_all(file) == content
        assert file.read(1) == b""


def test_a_bounded_number_of_parts_is_read_ahead():
    store = ObjectStore(os.urandom(PART) * (2 * PARTS))
    with ReadAhead(store.fetch, len(store.content)) as file:
        # The later ones come first.
        threading.Timer(0.05, store.release, range(PARTS)[::-1]).start()
        first = file.read(PART)
        # While the first part is sent, the next ones are read.
        until(lambda: len(store.requested) >= PARTS, "the next parts are requested")
        store.release(*range(2 * PARTS))
        time.sleep(0.05)
        assert len(store.requested) == PARTS
        second = file.read(PART)
        until(lambda: len(store.requested) == PARTS + 1, "one more part is requested")
        assert first + second + read_all(file) == store.content


def test_object_that_has_become_shorter():
    content = os.urandom(PART + 10)
    with (
        ReadAhead(lambda start, end: content[start:end], 2 * PART + 5) as file,
        pytest.raises(EOFError, match=f"returned 10 of the {PART:,} bytes from offset {PART:,}"),
    ):
        read_all(file)


@pytest.mark.parametrize("size", [1, PART, 2 * PART])
def test_object_that_is_longer_than_its_size_is_read_past_it(size):
    content = os.urandom(3 * PART)
    with ReadAhead(lambda start, end: content[start:end], size) as file:
        assert read_all(file)[: size + 1] == content[: size + 1]


def test_store_that_drops_the_connection():
    def fetch(start: int, end: int) -> bytes:
        if start:
            raise ConnectionResetError("the store went away")
        return bytes(end - start)

    with ReadAhead(fetch, 3 * PART) as file:
        assert file.read(PART) == bytes(PART)
        with pytest.raises(ConnectionResetError, match="the store went away"):
            file.read(PART)


def test_store_that_returns_nothing_for_too_long(monkeypatch):
    monkeypatch.setattr(read_ahead, "PART_TIMEOUT", 0.05)
    store = ObjectStore(bytes(PART))
    with ReadAhead(store.fetch, PART) as file, pytest.raises(TimeoutError, match="returned no data"):
        file.read(1)
    store.release(0)


def test_a_hanging_store_does_not_keep_the_process_alive():
    script = (
        "import time\n"
        "from datatile_provider.hooks.read_ahead import ReadAhead\n"
        "class Limit(BaseException): pass\n"
        "def limit(*args): raise Limit\n"
        "import signal\n"
        "signal.signal(signal.SIGALRM, limit)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "try:\n"
        "    with ReadAhead(lambda start, end: time.sleep(30), 10) as file:\n        file.read(1)\n"
        "except Limit:\n    print('timed out')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout == "timed out\n"


def test_closing_does_not_wait_for_a_hanging_store():
    store = ObjectStore(bytes(3 * PARTS * PART))
    store.release(0)
    with ReadAhead(store.fetch, len(store.content)) as file:
        file.read(1)
        until(lambda: len(store.requested) == PARTS, "the first parts are requested")
        left = time.monotonic()
    assert time.monotonic() - left < 1
    store.release(*range(3 * PARTS))
    until(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("datatile-read-ahead")],
        "no thread is left",
    )
    assert len(store.requested) == PARTS
