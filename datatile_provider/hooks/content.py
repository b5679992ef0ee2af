"""The SHA-256 hash of a file's content, computed while the file is sent or by an extra read."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace

from datatile_provider.api.dataset import BLOCK, Dataset, Readable, map_read_errors
from datatile_provider.api.errors import DatasetUnreadableError


class Sha256:
    """The hash of a dataset's content, computed on each read."""

    def __init__(self) -> None:
        self._reader: _Reader | None = None

    def of(self, dataset: Dataset) -> Dataset:
        """Return the dataset, with its hash computed on each read."""
        return replace(dataset, open=lambda: self._opened(dataset))

    def _opened(self, dataset: Dataset) -> AbstractContextManager[Readable]:
        self._reader = _Reader(dataset.open())
        return self._reader

    def hexdigest(self) -> str:
        """Return the hash of the latest read; ``""`` before the first."""
        return self._reader.hexdigest() if self._reader else ""


def sha256_of(dataset: Dataset) -> str:
    """
    Return the hash of a file by reading it.

    :raises DatasetUnreadableError: the file could not be read to its end.
    """
    digest = hashlib.sha256()
    with map_read_errors(dataset), dataset.open() as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def same_content(dataset: Dataset, size: int, version: str, sha256: str) -> bool:
    """
    Return whether a file has the content of an earlier one. It is read only if size and version do not decide.

    :param dataset: the file.
    :param size: the earlier file's size in bytes.
    :param version: the earlier file's version.
    :param sha256: the earlier file's hash; ``""`` if it is not known.
    :raises DatasetUnreadableError: the file could not be read to its end.
    """
    if dataset.size != size:
        return False
    # A version that is only a size does not identify the content.
    if dataset.version == version and version != f"{size} bytes":
        return True
    return bool(sha256) and sha256_of(dataset) == sha256


def verified_by_content(dataset: Dataset) -> Dataset:
    """
    Return a file with its hash as its version. Reading other content raises ``DatasetChangedError`` at the end.

    The file is read once for the hash before it is sent. Without the hash, a file that is overwritten during the upload
    by another one of the same size would be sent as a mix of both.

    :param dataset: a file whose version is only its size.
    :raises DatasetUnreadableError: the file could not be read to its end.
    """
    try:
        sha256 = sha256_of(dataset)
    except DatasetUnreadableError:
        # One retry, as a connection to a store may break. Callers retry only what fails during the upload itself.
        sha256 = sha256_of(dataset)

    return replace(
        dataset,
        version=_version(dataset.version, sha256),
        open=lambda: _VerifyingReader(dataset, sha256),
        current_version=lambda: _version(dataset.current_version(), sha256),
    )


def _version(known: str, sha256: str) -> str:
    return f"{known}, sha256 {sha256}"


class _Reader(AbstractContextManager["Readable"]):
    """Hashes each block in a thread while the caller sends it."""

    def __init__(self, opening: AbstractContextManager[Readable]) -> None:
        self._opening = opening
        self._hash = hashlib.sha256()
        # The interpreter waits for this thread at exit, but never longer than one block takes.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="datatile-sha256")
        self._last: Future[None] | None = None

    def __enter__(self) -> Readable:
        self._file = self._opening.__enter__()
        return self

    def read(self, size: int, /) -> bytes:
        block = self._file.read(size)
        if self._last:
            # Only one block is in the queue, so memory stays flat.
            self._last.result()
        self._last = self._pool.submit(self._hash.update, block)
        return block

    def __exit__(self, *error: object) -> bool | None:
        self._pool.shutdown()
        return self._opening.__exit__(*error)  # type: ignore[arg-type]  # the three arguments of __exit__

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class _VerifyingReader(_Reader):
    """Raises at the end of the file if its content does not have the expected hash."""

    def __init__(self, dataset: Dataset, sha256: str) -> None:
        super().__init__(dataset.open())
        self._dataset = dataset
        self._sha256 = sha256

    def read(self, size: int, /) -> bytes:
        block = super().read(size)
        # An empty block is the end of the file: all blocks before it are hashed.
        if not block and (now := self.hexdigest()) != self._sha256:
            before = self._dataset.version
            raise self._dataset.changed(_version(before, self._sha256), _version(before, now))
        return block
