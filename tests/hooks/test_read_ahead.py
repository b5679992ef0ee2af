"""Reading an object of a store ahead: in order, not too far, and loud when it is not what it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from datatile_provider.hooks import read_ahead
from datatile_provider.hooks.read_ahead import PART, PARTS, ReadAhead


class Store:
    """Holds each answer back until it is let go; the first asked may come last."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[int] = []
        self._may: dict[int, threading.Event] = {start: threading.Event() for start in range(0, len(content), PART)}

    def fetch(self, start: int, end: int) -> bytes:
        self.asked.append(start)
        assert self._may[start].wait(10)
        return self.content[start:end]

    def let_go(self, *parts: int) -> None:
        for part in parts:
            self._may[part * PART].set()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def whole(file: ReadAhead) -> bytes:
    return b"".join(iter(lambda: file.read(1 << 20), b""))


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 2 * PART * PARTS])
def test_what_is_read_is_what_the_store_holds(size):
    content = os.urandom(size)
    with ReadAhead(lambda start, end: content[start:end], size) as file:
        assert whole(file) == content
        assert file.read(1) == b""


def test_parts_come_in_while_others_are_sent_and_no_more_of_them():
    store = Store(os.urandom(PART) * (2 * PARTS))
    with ReadAhead(store.fetch, len(store.content)) as file:
        # The later ones come first.
        threading.Timer(0.05, store.let_go, range(PARTS)[::-1]).start()
        first = file.read(PART)
        # While the first part is being sent, those after it come in.
        until(lambda: len(store.asked) >= PARTS)
        store.let_go(*range(2 * PARTS))
        time.sleep(0.05)
        assert len(store.asked) == PARTS
        second = file.read(PART)
        until(lambda: len(store.asked) == PARTS + 1)
        assert first + second + whole(file) == store.content


def test_object_that_has_become_shorter():
    content = os.urandom(PART + 10)
    with (
        ReadAhead(lambda start, end: content[start:end], 2 * PART + 5) as file,
        pytest.raises(EOFError, match=f"returned 10 of the {PART:,} bytes from offset {PART:,}"),
    ):
        whole(file)


@pytest.mark.parametrize("size", [1, PART, 2 * PART])
def test_object_that_is_longer_than_its_size_shows_it(size):
    content = os.urandom(3 * PART)
    with ReadAhead(lambda start, end: content[start:end], size) as file:
        assert whole(file)[: size + 1] == content[: size + 1]


def test_store_that_breaks_off():
    def fetch(start: int, end: int) -> bytes:
        if start:
            raise ConnectionResetError("the store went away")
        return bytes(end - start)

    with ReadAhead(fetch, 3 * PART) as file:
        assert file.read(PART) == bytes(PART)
        with pytest.raises(ConnectionResetError, match="the store went away"):
            file.read(PART)


def test_store_that_gives_nothing_for_too_long(monkeypatch):
    monkeypatch.setattr(read_ahead, "PART_TIMEOUT", 0.05)
    store = Store(bytes(PART))
    with ReadAhead(store.fetch, PART) as file, pytest.raises(TimeoutError, match="returned no data"):
        file.read(1)
    store.let_go(0)


def test_store_that_hangs_keeps_no_process_alive():
    script = (
        "import time\n"
        "from datatile_provider.hooks.read_ahead import ReadAhead\n"
        "class Limit(BaseException): pass\n"
        "def limit(*given): raise Limit\n"
        "import signal\n"
        "signal.signal(signal.SIGALRM, limit)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "try:\n"
        "    with ReadAhead(lambda start, end: time.sleep(30), 10) as file:\n        file.read(1)\n"
        "except Limit:\n    print('given up')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout == "given up\n"


def test_nothing_waits_for_a_store_that_hangs():
    store = Store(bytes(3 * PARTS * PART))
    store.let_go(0)
    with ReadAhead(store.fetch, len(store.content)) as file:
        file.read(1)
        until(lambda: len(store.asked) == PARTS)
        left = time.monotonic()
    assert time.monotonic() - left < 1
    store.let_go(*range(3 * PARTS))
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("datatile-read-ahead")])
    assert len(store.asked) == PARTS
