"""The body of an upload: multipart/form-data of known length, read from the file while it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

from urllib3.filepost import choose_boundary, encode_multipart_formdata

from datatile_provider.api.dataset import BLOCK, Dataset, map_read_errors
from datatile_provider.api.errors import DatasetUnreadableError


class MultipartBody:
    """
    A multipart body of known length that holds one block of the file in memory at a time.

    :param dataset: the file, sent in the part ``dataset`` of an upload (documented).
    :param fields: form fields, sent before the file so that the server has them when the file arrives.
    :param on_progress: called after each block with the bytes sent so far and the body's length.
    :param before_end: called before the last bytes, when the whole file was read. Raises to abort the body.
    :param part: the name of the file's part.
    """

    def __init__(
        self,
        dataset: Dataset,
        fields: Mapping[str, str],
        on_progress: Callable[[int, int], None] = lambda sent, size: None,
        before_end: Callable[[], None] = lambda: None,
        part: str = "dataset",
    ) -> None:
        boundary = choose_boundary()
        empty_file = (dataset.name, b"", "application/octet-stream")
        body, self.content_type = encode_multipart_formdata([*fields.items(), (part, empty_file)], boundary)
        # The file goes between these two.
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._head = body.removesuffix(self._tail)
        self._dataset = dataset
        self._on_progress = on_progress
        self._before_end = before_end
        self.sent = 0

    def __len__(self) -> int:
        return len(self._head) + self._dataset.size + len(self._tail)

    @property
    def complete(self) -> bool:
        """Whether the last byte was handed to the connection. Before that, no server can have the file."""
        return self.sent == len(self)

    def __iter__(self) -> Iterator[bytes]:
        """
        Yield the body's blocks.

        :raises DatasetChangedError: the file has changed. The body is aborted before its last byte.
        :raises DatasetUnreadableError: the file could not be read to its end. The body is aborted as well.
        """
        self.sent = 0
        yield from self._counted(self._head)
        left = self._dataset.size
        with ExitStack() as stack:
            with map_read_errors(self._dataset):
                file = stack.enter_context(self._dataset.open())
            while left > 0:
                with map_read_errors(self._dataset):
                    block = file.read(min(BLOCK, left))
                if not block:
                    break
                left -= len(block)
                yield from self._counted(block)
            # A store may report too small a size. A reader that verifies the content does so at the end of the file.
            with map_read_errors(self._dataset):
                more = file.read(1)
        # The closing boundary completes the upload. It is sent only if the file did not change while it was read.
        self._dataset.check_unchanged()
        if more or left < 0:
            raise DatasetUnreadableError(
                f"The file {self._dataset.location} is longer than its reported size of {self._dataset.size:,} bytes",
                hint="The server accepted nothing. Check whether something writes to the file.",
            )
        if left:
            raise DatasetUnreadableError(
                f"The file {self._dataset.location} ended {left:,} bytes short of its reported size",
                hint="The server accepted nothing. Check whether something writes to the file.",
            )
        self._before_end()
        yield from self._counted(self._tail)

    def _counted(self, block: bytes) -> Iterator[bytes]:
        yield block
        # The connection asks for the next block only when it has sent this one.
        self.sent += len(block)
        self._on_progress(self.sent, len(self))
