"""The hash of the sent content: computed while it is sent, without slowing it down or holding it in memory."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tracemalloc
from contextlib import nullcontext

from datatile_provider.api.dataset import BLOCK, Dataset
from datatile_provider.hooks.content import Sha256, sha256_of

CONTENT = os.urandom(3 * BLOCK + 1)


def of_bytes(content: bytes) -> Dataset:
    return Dataset("a", len(content), "1", "here", lambda: nullcontext(io.BytesIO(content)), lambda: "1")


def test_hash_is_that_of_the_last_read():
    digest = Sha256()
    assert digest.hexdigest() == ""
    dataset = digest.of(of_bytes(CONTENT))
    with dataset.open() as file:
        file.read(5)
    assert sha256_of(dataset) == digest.hexdigest() == hashlib.sha256(CONTENT).hexdigest()


def test_blocks_are_not_held_in_memory():
    class Zeros:
        left = 65

        def read(self, size: int, /) -> bytes:
            self.left -= 1
            return bytes(size) if self.left else b""

    dataset = Sha256().of(Dataset("a", 1, "1", "here", lambda: nullcontext(Zeros()), lambda: "1"))
    expected = hashlib.sha256(bytes(64 * BLOCK)).hexdigest()
    tracemalloc.start()
    assert sha256_of(dataset) == expected
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * BLOCK


def test_a_file_left_open_does_not_keep_the_process_alive():
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
