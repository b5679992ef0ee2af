"""A file to upload, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from datatile_provider.api.errors import DatasetChangedError, DatasetUnreadableError, DatatileError

#: Bytes per read: enough to make Python's overhead per block negligible, and few enough to keep memory flat.
BLOCK = 1 << 20


class Readable(Protocol):
    """An open dataset."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Dataset:
    """
    A file to upload.

    :param name: the file name that is sent to the server.
    :param size: its size in bytes.
    :param version: identifies its current content, as by its size and modification time, or a store's ETag.
    :param location: where it is, for messages.
    :param open: opens it at its first byte; called for each attempt.
    :param current_version: reads the version again.
    """

    name: str
    size: int
    version: str
    location: str
    open: Callable[[], AbstractContextManager[Readable]]
    current_version: Callable[[], str]

    def check_unchanged(self) -> None:
        """
        Make sure that the file has not changed since this dataset was made.

        :raises DatasetChangedError: it has changed.
        :raises DatasetUnreadableError: its version cannot be read.
        """
        with map_read_errors(self):
            now = self.current_version()
        if now != self.version:
            raise self.changed(self.version, now)

    def changed(self, before: str, now: str) -> DatasetChangedError:
        """Return the error for a changed file, with both versions."""
        return DatasetChangedError(
            f"The file {self.location} changed since its upload began.\nBefore: {before}\nNow: {now}",
            hint="The server accepted nothing. Let the writer of the file finish, then clear the task.",
        )


@contextmanager
def map_read_errors(dataset: Dataset) -> Iterator[None]:
    """Turn the errors of a file system or an object store into :class:`DatasetUnreadableError`."""
    try:
        yield
    except DatatileError:
        raise
    except Exception as e:  # an OSError must not look like a network error, and stores raise errors of any class
        raise DatasetUnreadableError(
            f"The file {dataset.location} could not be read: {type(e).__name__}: {e}",
            hint="Check the file and the storage that it is on.",
        ) from e
