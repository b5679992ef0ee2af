"""The body of an upload: multipart/form-data of a known length, read from the file as it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol

from datatile_provider.api.errors import DatasetChangedError, DatasetUnreadableError, DatatileError

#: Large enough that Python's cost a block vanishes beside the copying, small enough to stay flat.
BLOCK = 1 << 20


class Readable(Protocol):
    """What a dataset is read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Dataset:
    """
    A file to upload, wherever it is.

    :param name: the file's name, as the server sees it.
    :param size: its size in bytes.
    :param version: tells whether the file is still the same (its size and time, or a store's etag).
    :param location: where it is, for people.
    :param open: opens it at its first byte; called for each try.
    :param current_version: looks the version up again.
    """

    name: str
    size: int
    version: str
    location: str
    open: Callable[[], AbstractContextManager[Readable]]
    current_version: Callable[[], str]

    def check_unchanged(self) -> None:
        """
        Make sure that the file is still the one that this dataset was made of.

        :raises DatasetChangedError: it is another.
        :raises DatasetUnreadableError: nobody can tell now.
        """
        with wrap_read_errors(self):
            now = self.current_version()
        if now != self.version:
            raise self.changed(self.version, now)

    def changed(self, before: str, now: str) -> DatasetChangedError:
        """Return the error for a file that is not the one it was."""
        return DatasetChangedError(
            f"The file {self.location} changed since its upload began (it was {before}, now it is {now})",
            hint="Nothing was accepted. Let the writer of the file finish, then run the task again.",
        )


class wrap_read_errors(AbstractContextManager[None]):
    """Turns what a file system or an object store raises into :class:`DatasetUnreadableError`."""

    def __init__(self, dataset: Dataset) -> None:
        self._location = dataset.location

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # An OSError from a file must not pass for one from the connection, and stores raise what they like.
        if isinstance(error, Exception) and not isinstance(error, DatatileError):
            raise DatasetUnreadableError(
                f"The file {self._location} could not be read: {type(error).__name__}: {error}",
                hint="Nothing was accepted.",
            ) from error


class MultipartBody:
    """
    A sized, iterable multipart body that holds one block of the file at a time.

    :param dataset: the file, sent in the part ``dataset`` (documented).
    :param fields: form fields, sent before the file so that a server knows them when the file comes.
    :param on_progress: called after each block with the bytes of the body that were sent.
    """

    def __init__(
        self,
        dataset: Dataset,
        fields: Mapping[str, str],
        on_progress: Callable[[int, int], None] = lambda sent, size: None,
    ) -> None:
        from urllib3.fields import RequestField
        from urllib3.filepost import choose_boundary

        boundary = choose_boundary()
        part = RequestField("dataset", b"", filename=dataset.name)
        part.make_multipart(content_type="application/octet-stream")
        head = b""
        for name, value in fields.items():
            form_field = RequestField(name, b"")
            form_field.make_multipart()
            head += f"--{boundary}\r\n{form_field.render_headers()}{value}\r\n".encode()
        self._head = head + f"--{boundary}\r\n{part.render_headers()}".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._dataset = dataset
        self._on_progress = on_progress
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.sent = 0

    def __len__(self) -> int:
        return len(self._head) + self._dataset.size + len(self._tail)

    @property
    def complete(self) -> bool:
        """Whether the last byte has been handed to the connection; before that no server can hold the file."""
        return self.sent == len(self)

    def __iter__(self) -> Iterator[bytes]:
        """
        Yield the body's blocks.

        :raises DatasetChangedError: the file is not what it was; the body is broken off before its end.
        :raises DatasetUnreadableError: the file could not be read to its end; likewise.
        """
        self.sent = 0
        yield from self._counted(self._head)
        left = self._dataset.size
        guard = wrap_read_errors(self._dataset)
        with ExitStack() as stack:
            with guard:
                file = stack.enter_context(self._dataset.open())
            while left > 0:
                with guard:
                    block = file.read(min(BLOCK, left))
                if not block:
                    break
                left -= len(block)
                yield from self._counted(block)
            # A store may say less than there is, and only here does a reader that compares the content see its end.
            with guard:
                more = file.read(1)
        # The closing boundary makes the upload whole: it goes out only when what was sent is one file.
        self._dataset.check_unchanged()
        if more or left < 0:
            raise DatasetUnreadableError(
                f"The file {self._dataset.location} holds more than its size of {self._dataset.size:,} bytes",
                hint="Nothing was accepted.",
            )
        if left:
            raise DatasetUnreadableError(f"The file {self._dataset.location} ended {left:,} bytes before its size")
        yield from self._counted(self._tail)

    def _counted(self, block: bytes) -> Iterator[bytes]:
        yield block
        # Only here, when the next block is asked for, has this one left.
        self.sent += len(block)
        self._on_progress(self.sent, len(self))
