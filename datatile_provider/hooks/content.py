"""A file's content, by its hash: taken while it is sent, or by reading it once more."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace

from datatile_provider.api.errors import DatasetUnreadableError
from datatile_provider.api.multipart import BLOCK, Dataset, Readable, wrap_read_errors


class Sha256:
    """The hash of what was read last from a dataset, from its first byte to its last."""

    def __init__(self) -> None:
        self._reader: _Reader | None = None

    def of(self, dataset: Dataset) -> Dataset:
        """Return the dataset with its hash taken each time that it is read."""
        return replace(dataset, open=lambda: self._opened(dataset))

    def _opened(self, dataset: Dataset) -> AbstractContextManager[Readable]:
        self._reader = _Reader(dataset.open())
        return self._reader

    def hexdigest(self) -> str:
        """Return the hash; ``""`` before anything was read."""
        return self._reader.hexdigest() if self._reader else ""


def sha256_of(dataset: Dataset) -> str:
    """
    Return the hash of a file by reading it.

    :raises DatasetUnreadableError: it could not be read to its end.
    """
    found = hashlib.sha256()
    with wrap_read_errors(dataset), dataset.open() as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def same_content(dataset: Dataset, size: int, version: str, sha256: str) -> bool:
    """
    Return whether a file is one that was read before; it is read once more only when nothing else tells.

    :param size: the other one's size in bytes.
    :param version: the other one's version.
    :param sha256: the other one's hash; ``""`` if it is not known.
    :raises DatasetUnreadableError: it could not be read to its end.
    """
    if dataset.size != size:
        return False
    # Of some files nothing but the size was known.
    if dataset.version == version and version != f"{size} bytes":
        return True
    return bool(sha256) and sha256_of(dataset) == sha256


def compared(dataset: Dataset) -> Dataset:
    """
    Return a file with its hash as its version; reading other content raises ``DatasetChangedError`` at its end.

    The file is read once more for that, before it is sent. Otherwise a mix of two files of one size would pass for one.

    :param dataset: a file of which nothing but the size tells whether it changed.
    :raises DatasetUnreadableError: it could not be read to its end.
    """
    try:
        sha256 = sha256_of(dataset)
    except DatasetUnreadableError:
        # A connection may well break once, and only what fails while it is sent is tried again by others.
        sha256 = sha256_of(dataset)

    def version() -> str:
        return _version(dataset.current_version(), sha256)

    return replace(
        dataset,
        version=_version(dataset.version, sha256),
        open=lambda: _Comparing(dataset, sha256),
        current_version=version,
    )


def _version(known: str, sha256: str) -> str:
    return f"{known}, sha256 {sha256}"


class _Reader(AbstractContextManager["Readable"]):
    """Takes the hash of one block in a thread while the caller sends it: neither waits for the other's work."""

    def __init__(self, opening: AbstractContextManager[Readable]) -> None:
        self._opening = opening
        self._hash = hashlib.sha256()
        # The interpreter waits for it before it ends, but never for longer than one block takes.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="datatile-sha256")
        self._last: Future[None] | None = None

    def __enter__(self) -> Readable:
        self._file = self._opening.__enter__()
        return self

    def read(self, size: int, /) -> bytes:
        block = self._file.read(size)
        if self._last:
            # One block at a time, so that memory stays flat.
            self._last.result()
        self._last = self._pool.submit(self._hash.update, block)
        return block

    def __exit__(self, *error: object) -> bool | None:
        self._pool.shutdown()
        return self._opening.__exit__(*error)  # type: ignore[arg-type]

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class _Comparing(_Reader):
    """Raises at the end when what was read is not what the hash was taken of."""

    def __init__(self, dataset: Dataset, sha256: str) -> None:
        super().__init__(dataset.open())
        self._dataset = dataset
        self._sha256 = sha256

    def read(self, size: int, /) -> bytes:
        block = super().read(size)
        # At the end all blocks before it are hashed.
        if not block and (now := self.hexdigest()) != self._sha256:
            before = self._dataset.version
            raise self._dataset.changed(_version(before, self._sha256), _version(before, now))
        return block
