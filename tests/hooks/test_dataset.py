"""What a user may pass as a file, and the errors for what cannot be uploaded."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.memory import MemoryFileSystem

from datatile_provider.api.dataset import Dataset
from datatile_provider.api.errors import DatasetChangedError, DatasetUnreadableError, InvalidInputError
from datatile_provider.hooks.dataset import dataset_of
from tests.support.reading import one_line

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach  # type: ignore[no-redef]  # another version of Airflow

CONTENT = b"respondent,vote\n1,0\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "wave 1.csv"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """An object store in this process, as ``memory://``."""
    found = MemoryFileSystem()
    attach("memory", fs=found)
    found.pipe("/bucket/wave 1.csv", CONTENT)
    yield found
    found.store.clear()


def content(dataset: Dataset) -> bytes:
    with dataset.open() as opened:
        return b"".join(iter(lambda: opened.read(1 << 20), b""))


def rejection_of(value: Any, **limits: int) -> str:
    with pytest.raises(InvalidInputError) as caught:
        dataset_of(value, **limits)
    return one_line(caught.value)


@pytest.mark.parametrize("scheme", ["file://", "file://localhost"])
@pytest.mark.parametrize("name", ["wave 1.csv", "Опрос.csv", "100%.csv", "a#b?c.csv", "🙂.csv"])
def test_uris_of_local_files(tmp_path, scheme, name):
    path = tmp_path / name
    path.write_bytes(CONTENT)
    dataset = dataset_of(scheme + path.as_uri().removeprefix("file://"))
    assert (dataset.name, dataset.size, content(dataset)) == (name, len(CONTENT), CONTENT)


def test_local_files(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    for value in (str(file), file, "wave 1.csv", Path("wave 1.csv"), f"file://{file.parent}/wave%201.csv"):
        dataset = dataset_of(value)
        assert (dataset.name, dataset.size) == ("wave 1.csv", len(CONTENT))
        assert content(dataset) == content(dataset) == CONTENT
        dataset.check_unchanged()


def test_object_storage(store):
    for value in (ObjectStoragePath("memory://bucket/wave 1.csv"), "memory://bucket/wave 1.csv"):
        dataset = dataset_of(value)
        assert (dataset.name, dataset.size, dataset.location) == ("wave 1.csv", len(CONTENT), f"{str(value)!r}")
        assert content(dataset) == content(dataset) == CONTENT
        dataset.check_unchanged()


def test_object_storage_on_this_machine(file):
    dataset = dataset_of(ObjectStoragePath(file.as_uri().replace("%20", " ")))
    assert (dataset.name, content(dataset)) == ("wave 1.csv", CONTENT)
    os.utime(file, (1, 1))
    with pytest.raises(DatasetChangedError):
        dataset.check_unchanged()


def test_file_that_is_rewritten_in_place_with_its_time_set_back(file):
    for dataset in (dataset_of(file), dataset_of(ObjectStoragePath(file.as_uri().replace("%20", " ")))):
        before = file.stat()
        with file.open("r+b") as opened:
            opened.write(CONTENT[::-1])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(DatasetChangedError):
            dataset.check_unchanged()


def test_object_that_changes(store):
    dataset = dataset_of("memory://bucket/wave 1.csv")
    store.pipe("/bucket/wave 1.csv", CONTENT + b"2,1\n")
    with pytest.raises(DatasetChangedError, match=r"wave 1\.csv"):
        dataset.check_unchanged()
    store.rm("/bucket/wave 1.csv")
    with pytest.raises(DatasetUnreadableError, match=r"wave 1\.csv"):
        dataset.check_unchanged()


class Failing(MemoryFileSystem):
    """A store that does not respond."""

    cachable = False

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        raise ConnectionError("the store is down")


def test_store_that_does_not_respond():
    attach("memory", "failing", fs=Failing())
    with pytest.raises(DatasetUnreadableError, match="the store is down"):
        dataset_of("memory://failing@bucket/x.csv")


class Caching(MemoryFileSystem):
    """A store that caches metadata, as most do."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.cached: dict[str, dict[str, object]] = {}

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        return self.cached.setdefault(path, super().info(path, **kwargs))

    def invalidate_cache(self, path: str | None = None) -> None:
        self.cached.clear()


def test_object_that_changes_behind_a_cache(store):
    attach("memory", "caching", fs=Caching())
    dataset = dataset_of("memory://caching@bucket/wave 1.csv")
    store.pipe("/bucket/wave 1.csv", CONTENT + b"2,1\n")
    with pytest.raises(DatasetChangedError):
        dataset.check_unchanged()


class FakeStore(MemoryFileSystem):
    """A store that reports whatever metadata the test sets."""

    cachable = False

    metadata: dict[str, object]

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        return {"name": path, "type": "file", **self.metadata}


@pytest.fixture
def fake_store(store: MemoryFileSystem) -> FakeStore:
    """The store again, as ``memory://fake@``."""
    found: FakeStore = attach("memory", "fake", fs=FakeStore()).fs
    # Airflow attaches it only once, so tests share the object.
    found.metadata = {"size": len(CONTENT)}
    return found


FAKE_FILE = "memory://fake@bucket/wave 1.csv"


@pytest.mark.parametrize(
    "size", [None, "", "many", "-1", -1, -0.5, 1.5, float("nan"), float("inf"), True, [], "9" * 5_000]
)
def test_store_that_reports_no_size(fake_store, size):
    fake_store.metadata["size"] = size
    assert "does not report the size" in rejection_of(FAKE_FILE, max_bytes=100)


@pytest.mark.parametrize("size", [str(len(CONTENT)), float(len(CONTENT))])
def test_sizes_that_are_not_an_int(fake_store, size):
    fake_store.metadata["size"] = size
    dataset = dataset_of(FAKE_FILE, max_bytes=100)
    assert (dataset.size, type(dataset.size), content(dataset)) == (len(CONTENT), int, CONTENT)
    dataset.check_unchanged()


SIGNS = ["modificationTime", "Last-Modified", "modify", "last_write_time", "updated", "sha", "modified", "mtime"]
SIGNS += ["ETag", "eTag", "md5Checksum", "CRC", "Digest", "rev", "date_time", "LastModified", "unique", "ino"]


@pytest.mark.parametrize("sign", SIGNS)
def test_any_sign_of_a_change_is_detected(fake_store, sign):
    fake_store.metadata[sign] = "2026-01-01"
    dataset = dataset_of(FAKE_FILE)
    dataset.check_unchanged()
    fake_store.metadata[sign] = "2026-01-02"
    with pytest.raises(DatasetChangedError, match=r"(?s)2026-01-01.*2026-01-02"):
        dataset.check_unchanged()


@pytest.mark.parametrize("key", ["time", "accessTime", "last_access_time", "atime", "viewedByMeTime", "request_id"])
@pytest.mark.parametrize("sign", ["ETag", "mtime", "mode"])
def test_metadata_that_changes_with_each_request_is_no_sign_of_a_change(fake_store, key, sign):
    fake_store.metadata |= {sign: "x", key: 1}
    dataset = dataset_of(FAKE_FILE)
    fake_store.metadata[key] = 2
    dataset.check_unchanged()
    assert dataset_of(FAKE_FILE).version == dataset.version


def test_only_the_etag_is_compared_if_there_is_one(fake_store):
    """Other metadata may change without the content, such as the age or the storage class."""
    fake_store.metadata |= {"ETag": "1", "updated": "2026-01-01"}
    dataset = dataset_of(FAKE_FILE)
    fake_store.metadata["updated"] = "2026-01-02"
    dataset.check_unchanged()


NO_SIGNS = [
    {},
    {"created": "2026-01-01"},
    {"mode": 0o644, "uid": 0, "nlink": 1},
    {"ETag": None, "mtime": ""},
    {"shared": True, "writable": True},
]


@pytest.mark.parametrize("metadata", NO_SIGNS)
def test_content_is_compared_when_the_store_reports_nothing_else(fake_store, metadata):
    fake_store.metadata |= metadata
    dataset = dataset_of(FAKE_FILE)
    assert content(dataset) == CONTENT
    fake_store.pipe("/bucket/wave 1.csv", CONTENT[::-1])
    with dataset.open() as opened:
        assert opened.read(len(CONTENT)) == CONTENT[::-1]
        with pytest.raises(DatasetChangedError, match=r"wave 1\.csv"):
            opened.read(1)
    assert dataset_of(FAKE_FILE).version != dataset.version


def test_one_failed_read_for_the_hash_is_retried(fake_store, monkeypatch):
    errors: list[Exception] = [ConnectionResetError("reset")]
    opened = fake_store.open

    def open_or_fail(*args: object, **kwargs: object) -> object:
        if errors:
            raise errors.pop()
        return opened(*args, **kwargs)

    monkeypatch.setattr(fake_store, "open", open_or_fail)
    assert content(dataset_of(FAKE_FILE)) == CONTENT
    errors += [ConnectionResetError("reset")] * 2
    with pytest.raises(DatasetUnreadableError, match="reset"):
        dataset_of(FAKE_FILE)


def test_content_of_an_open_file_is_compared(file):
    with file.open("rb") as opened:
        dataset = dataset_of(opened)
        file.write_bytes(CONTENT[::-1])
        with dataset.open() as sent, pytest.raises(DatasetChangedError, match=r"wave 1\.csv"):
            sent.read(len(CONTENT)), sent.read(1)


def test_file_that_is_too_large_is_not_read_for_its_hash(fake_store):
    fake_store.metadata["size"] = 10**15
    assert "max_upload_bytes" in rejection_of("memory://fake@bucket/not there.csv", max_bytes=100)


def test_open_files(file):
    with file.open("rb") as opened:
        dataset = dataset_of(opened)
        assert (dataset.name, dataset.size) == ("wave 1.csv", len(CONTENT))
        assert content(dataset) == content(dataset) == CONTENT
        dataset.check_unchanged()
        assert not opened.closed
    nameless = dataset_of(io.BytesIO(CONTENT))
    assert (nameless.name, content(nameless)) == ("dataset", CONTENT)
    with tempfile.TemporaryFile() as temporary:
        temporary.write(CONTENT)
        temporary.seek(0)
        assert dataset_of(temporary).name == "dataset"


def test_open_file_is_sent_from_its_current_position():
    opened = io.BytesIO(b"skipped" + CONTENT)
    opened.seek(7)
    dataset = dataset_of(opened)
    assert dataset.size == len(CONTENT)
    assert content(dataset) == content(dataset) == CONTENT


def test_no_such_file(tmp_path, store):
    for value in (tmp_path / "x.csv", f"file://{tmp_path}/x.csv", "memory://bucket/x.csv", file_in_a_file(tmp_path)):
        message = rejection_of(value)
        assert "x.csv" in message
        assert "Check " in message


def file_in_a_file(folder: Path) -> Path:
    (folder / "f").write_bytes(b"1")
    return folder / "f" / "x.csv"


def test_directories(tmp_path, store):
    for value in (tmp_path, str(tmp_path), tmp_path.as_uri(), "memory://bucket", ObjectStoragePath("memory://bucket")):
        assert "is a directory" in rejection_of(value)


def test_empty_files(tmp_path, store):
    (tmp_path / "empty.csv").touch()
    store.touch("/bucket/empty.csv")
    for value in (tmp_path / "empty.csv", "memory://bucket/empty.csv", io.BytesIO()):
        assert "is empty" in rejection_of(value)
    at_its_end = io.BytesIO(CONTENT)
    at_its_end.seek(0, os.SEEK_END)
    assert "is empty" in rejection_of(at_its_end)


def test_too_large_files(file, store):
    for value in (file, "memory://bucket/wave 1.csv", io.BytesIO(CONTENT)):
        assert "max_upload_bytes" in rejection_of(value, max_bytes=len(CONTENT) - 1)
        assert dataset_of(value, len(CONTENT)).size == len(CONTENT)


def test_files_that_are_not_regular(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in rejection_of(tmp_path / "fifo")
    assert "not a regular file" in rejection_of("/dev/zero")


def test_file_that_may_not_be_read(tmp_path):
    """In a process that drops root, in case the tests run as root."""
    path = tmp_path / "x.csv"
    path.write_bytes(CONTENT)
    path.chmod(0)
    tmp_path.chmod(0o755)
    script = (
        "import os, sys\n"
        "from datatile_provider.api.errors import InvalidInputError\n"
        "from datatile_provider.hooks.dataset import dataset_of\n"
        "os.chdir(sys.argv[1])\n"
        "os.geteuid() or os.seteuid(65534)\n"
        "try:\n    dataset_of('x.csv')\n"
        "except InvalidInputError as e:\n    print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=30, check=True
    )
    assert "Permission denied" in done.stdout


def test_open_files_that_cannot_be_sent(file):
    with file.open("rb") as closed:
        pass
    assert "cannot be read" in rejection_of(closed)
    with file.open() as text:
        assert "open in text mode" in rejection_of(text)
    assert "open in text mode" in rejection_of(io.StringIO("x"))
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb"):
        assert "is not seekable" in rejection_of(pipe)
    with file.open("ab") as write_only:
        assert "cannot be read" in rejection_of(write_only)


@pytest.mark.parametrize("value", ["", "  ", None, 7, b"wave.csv", [], {}])
def test_values_that_are_not_a_file(value):
    assert "The dataset must be a file" in rejection_of(value)


def test_uris_that_are_not_of_a_file(file):
    assert "names another machine" in rejection_of(f"file://server{file}")
    assert "nosuch://bucket/x.csv" in rejection_of("nosuch://bucket/x.csv")
    assert "query or a fragment" in rejection_of(f"file://{file}?x")
    assert "query or a fragment" in rejection_of(f"file://{file}#x")
    rejection_of("x\0.csv")
    rejection_of("x" * 5_000)


def test_store_whose_library_is_not_installed():
    uri = "smb://server/folder/x.csv"
    for value in (uri, ObjectStoragePath(uri)):
        message = rejection_of(value)
        assert "x.csv" in message
        assert "is not available" in message
