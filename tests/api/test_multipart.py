"""The body of an upload: what a parser reads back, and how sending ends when the file has changed."""

from __future__ import annotations

import email.parser
import email.policy
import io
import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.api.dataset import BLOCK, Dataset
from datatile_provider.api.errors import DatasetChangedError, DatasetUnreadableError
from datatile_provider.api.multipart import MultipartBody
from datatile_provider.hooks.dataset import dataset_of
from tests.support.reading import one_line

file_names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=40)


def of_bytes(content: bytes, name: str = "wave.sav") -> Dataset:
    return Dataset(name, len(content), "1", "here", lambda: nullcontext(io.BytesIO(content)), lambda: "1")


def parts(body: MultipartBody) -> list[tuple[str, bytes]]:
    """Return the head and the content of each part, split as RFC 2046 says."""
    kind = re.fullmatch(r"multipart/form-data; boundary=([0-9a-zA-Z'()+_,./:=? -]{1,70})", body.content_type)
    assert kind
    boundary = kind[1]
    raw = b"".join(body)
    assert len(raw) == len(body)
    first, *middle, last = (b"\r\n" + raw).split(f"\r\n--{boundary}".encode())
    assert (first, last) == (b"", b"--\r\n")
    found = []
    for part in middle:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found.append((head.decode(), content))
    return found


@given(st.binary(max_size=300), file_names, st.dictionaries(st.just("callback"), st.text(max_size=30), max_size=1))
def test_a_parser_reads_back_what_is_sent(content, name, fields):
    *before, (head, found) = parts(MultipartBody(of_bytes(content, name), fields))
    assert found == content
    disposition, kind = head.split("\r\n")
    quoted = re.fullmatch(r'Content-Disposition: form-data; name="dataset"; filename="([^"\r\n]*)"', disposition)
    assert quoted
    # Browsers, curl and requests percent-encode these three characters, and no others.
    assert re.sub("%22|%0D|%0A", lambda m: unquote(m[0]), quoted[1]) == re.sub(
        "%22|%0D|%0A", lambda m: unquote(m[0]), name
    )
    assert kind == "Content-Type: application/octet-stream"
    assert [(h, c.decode()) for h, c in before] == [
        (f'Content-Disposition: form-data; name="{name}"', value) for name, value in fields.items()
    ]


def test_the_email_parser_reads_it_too():
    body = MultipartBody(of_bytes(b"\x00\r\n--\xff"), {"callback": "http://x/y"})
    raw = f"Content-Type: {body.content_type}\r\n\r\n".encode() + b"".join(body)
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw)
    callback, dataset = message.iter_parts()
    assert callback.get_param("name", header="Content-Disposition") == "callback"
    assert callback.get_content().strip() == "http://x/y"
    assert (dataset.get_filename(), dataset.get_payload(decode=True)) == ("wave.sav", b"\x00\r\n--\xff")


@pytest.mark.parametrize("raw", [b"w\xffave.sav", b'a "b"\r\nc.sav', "Опрос 🙂.sav".encode()])
def test_names_from_the_file_system(tmp_path, raw):
    path = os.path.join(os.fsencode(tmp_path), raw)
    Path(os.fsdecode(path)).write_bytes(b"x")
    ((head, content),) = parts(MultipartBody(dataset_of(os.fsdecode(path)), {}))
    assert content == b"x"
    expected = raw.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()
    assert unquote(head.split('filename="')[1].split('"\r\n')[0]) == expected


@given(st.integers(1, 3 * BLOCK))
def test_blocks_are_small_and_counted(size):
    counts = []
    body = MultipartBody(of_bytes(bytes(size)), {}, lambda sent, of: counts.append((sent, of)))
    total = 0
    for block in body:
        assert len(block) <= BLOCK
        assert body.sent == total
        assert not body.complete
        total += len(block)
    assert total == body.sent == len(body)
    assert body.complete
    assert counts[-1] == (total, total)
    assert counts == sorted(counts)


def test_second_attempt_starts_from_the_first_byte():
    body = MultipartBody(of_bytes(b"content"), {})
    half = iter(body)
    next(half), next(half)
    assert len(b"".join(body)) == len(body)
    assert body.complete


def send_until_error(body: MultipartBody, change, *, after: int = 2) -> bytes:
    """Read the body, call ``change`` after so many blocks, and check that the body ends before its last byte."""
    sent = b""
    try:
        for number, block in enumerate(body, 1):
            sent += block
            if number == after:
                change()
    finally:
        boundary = body.content_type.partition("boundary=")[2].encode()
        assert boundary + b"--" not in sent
        assert len(sent) < len(body)
        assert not body.complete
    return sent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "wave.sav"
    path.write_bytes(b"x" * (2 * BLOCK + 1))
    return path


def test_file_that_grows(file):
    with pytest.raises(DatasetChangedError, match=r"wave\.sav"):
        send_until_error(MultipartBody(dataset_of(file), {}), lambda: file.open("ab").write(b"y"))


def test_file_that_shrinks(file):
    with pytest.raises(DatasetChangedError, match=r"wave\.sav"):
        send_until_error(MultipartBody(dataset_of(file), {}), lambda: os.truncate(file, 10))


def test_file_that_is_written_to(file):
    def write() -> None:
        with file.open("r+b") as opened:
            opened.write(b"z")

    with pytest.raises(DatasetChangedError, match=r"wave\.sav"):
        send_until_error(MultipartBody(dataset_of(file), {}), write)


def test_file_that_is_replaced(file):
    def replace() -> None:
        other = file.with_name("other")
        other.write_bytes(b"y" * (2 * BLOCK + 1))
        stat = file.stat()
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.replace(other, file)

    with pytest.raises(DatasetChangedError, match=r"wave\.sav"):
        send_until_error(MultipartBody(dataset_of(file), {}), replace)


def test_file_that_is_removed(file):
    with pytest.raises(DatasetUnreadableError, match=r"wave\.sav"):
        send_until_error(MultipartBody(dataset_of(file), {}), file.unlink)


def test_file_that_is_gone_before_the_first_byte(file):
    dataset = dataset_of(file)
    file.unlink()
    with pytest.raises(DatasetUnreadableError, match="FileNotFoundError"):
        send_until_error(MultipartBody(dataset, {}), lambda: None)


def test_open_file_that_grows(file):
    with file.open("rb") as opened, pytest.raises(DatasetChangedError):
        send_until_error(MultipartBody(dataset_of(opened), {}), lambda: file.open("ab").write(b"y"))


class Failing(io.BytesIO):
    """A file of a store that stops responding."""

    def __init__(self, error: Exception) -> None:
        super().__init__(b"x" * BLOCK)
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 10:
            raise self.error
        return super().read(10)


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), TimeoutError("slow"), RuntimeError("store"), EOFError()]
)
def test_read_that_fails(error):
    """An error of the file must not be taken for one of the connection, whatever its type."""

    def opened() -> AbstractContextManager[BinaryIO]:
        return nullcontext(Failing(error))

    dataset = Dataset("a", BLOCK, "1", "s3://here", opened, lambda: "1")
    with pytest.raises(DatasetUnreadableError, match="s3://here") as caught:
        send_until_error(MultipartBody(dataset, {}), lambda: None)
    assert caught.value.__cause__ is error
    assert type(error).__name__ in one_line(caught.value)


def test_store_that_holds_less_than_it_reported():
    dataset = Dataset("a", 100, "1", "s3://here", lambda: nullcontext(io.BytesIO(b"x" * 99)), lambda: "1")
    with pytest.raises(DatasetUnreadableError, match="1 bytes short of its reported size"):
        send_until_error(MultipartBody(dataset, {}), lambda: None)


class Overreading(io.BytesIO):
    """A file that returns more bytes than requested."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(None if size is None else size + 1)


@pytest.mark.parametrize("kind", [io.BytesIO, Overreading])
@pytest.mark.parametrize("more", [1, BLOCK, 3 * BLOCK])
def test_store_that_holds_more_than_it_reported(kind, more):
    content = b"x" * (BLOCK + more)
    dataset = Dataset("a", BLOCK, "1", "s3://here", lambda: nullcontext(kind(content)), lambda: "1")
    with pytest.raises(DatasetUnreadableError, match="is longer than its reported size of 1,048,576 bytes"):
        send_until_error(MultipartBody(dataset, {}), lambda: None)


def test_file_that_is_longer_because_it_changed_is_reported_as_changed():
    dataset = Dataset("a", 10, "1", "s3://here", lambda: nullcontext(io.BytesIO(b"x" * 11)), lambda: "2")
    with pytest.raises(DatasetChangedError, match="s3://here"):
        send_until_error(MultipartBody(dataset, {}), lambda: None)


def test_change_that_only_the_content_shows():
    content = io.BytesIO(b"x" * 3 * BLOCK)

    def write() -> None:
        content.getbuffer()[-1:] = b"y"

    with pytest.raises(DatasetChangedError, match="sha256"):
        send_until_error(MultipartBody(dataset_of(content), {}), write)
