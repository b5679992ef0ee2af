"""The hash of what is sent: taken on the way, and a hindrance to nobody."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tracemalloc
from contextlib import nullcontext

from datatile_provider.api.multipart import BLOCK, Dataset
from datatile_provider.hooks.content import Sha256, sha256_of

CONTENT = os.urandom(3 * BLOCK + 1)


def of_bytes(content: bytes) -> Dataset:
    return Dataset("a", len(content), "1", "here", lambda: nullcontext(io.BytesIO(content)), lambda: "1")


def test_hash_is_that_of_the_last_reading():
    taken = Sha256()
    assert taken.hexdigest() == ""
    dataset = taken.of(of_bytes(CONTENT))
    with dataset.open() as file:
        file.read(5)
    assert sha256_of(dataset) == taken.hexdigest() == hashlib.sha256(CONTENT).hexdigest()


def test_blocks_do_not_gather():
    class Zeros:
        left = 64

        def read(self, size: int, /) -> bytes:
            self.left -= 1
            return bytes(size) if self.left else b""

    dataset = Sha256().of(Dataset("a", 1, "1", "here", lambda: nullcontext(Zeros()), lambda: "1"))
    tracemalloc.start()
    sha256_of(dataset)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * BLOCK


def test_reading_that_is_left_open_keeps_no_process_alive():
    script = (
        "import io\n"
        "from contextlib import nullcontext\n"
        "from datatile_provider.api.multipart import Dataset\n"
        "from datatile_provider.hooks.content import Sha256\n"
        "dataset = Dataset('a', 10, '1', 'here', lambda: nullcontext(io.BytesIO(bytes(10))), lambda: '1')\n"
        "file = Sha256().of(dataset).open().__enter__()\n"
        "print(len(file.read(5)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout == "5\n"
