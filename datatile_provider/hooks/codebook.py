"""The local file of a codebook that is read from a server."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datatile_provider.api.errors import InvalidInputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Callable[[bytes], None]]:
    """
    Return a function that writes a file, which replaces another one if the block ends without an error.

    :param path: the file that is replaced. It need not exist.
    :raises InvalidInputError: it can't be written.
    """
    # In the same folder, so that the replacement is atomic.
    part = Path(f"{os.fspath(path)}.{secrets.token_hex(4)}.part")
    try:
        with _map_write_errors(path):
            file = part.open("wb")

        def write(block: bytes) -> None:
            # The exceptions of requests are OSErrors too, and mean that there is no response.
            with _map_write_errors(path):
                file.write(block)

        try:
            yield write
        finally:
            with _map_write_errors(path):
                file.close()
        with _map_write_errors(path):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _map_write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise InvalidInputError(
            f"The codebook could not be written to {os.fspath(path)}: {e.strerror or e}",
            hint="Check the folder, and the space on its disk.",
        ) from e
