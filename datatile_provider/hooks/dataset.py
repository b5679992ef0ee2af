"""Turns a path, a URI or an open file into a dataset that can be sent several times."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from datatile_provider.api.dataset import Dataset, Readable
from datatile_provider.api.errors import DatasetUnreadableError, InvalidInputError
from datatile_provider.hooks.content import verified_by_content
from datatile_provider.hooks.read_ahead import ReadAhead

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    DatasetLike = str | os.PathLike[str] | ObjectStoragePath | BinaryIO

# Keys of the large stores that identify the version of an object. One of them is enough.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "VersionId")
# Keys that identify it in other stores. All other keys are ignored: an access time, a request id or an expiring link
# would make the file seem to change with each lookup.
_VERSION_KEY = re.compile(
    r"^(?!.*(access|view|link|url))"
    r".*(etag|md5|sha|hash|sum|crc|digest|generation|version|^rev|modif|mtime|ctime|updat|writ|chang|creat|date|^ino|uniq)",
    re.IGNORECASE,
)


def dataset_of(given: DatasetLike, max_bytes: int | None = None) -> Dataset:
    """
    Return the dataset of a path, URI or open file.

    :param given: a local path, a ``file://`` URI, an ``ObjectStoragePath`` or its URI, or an open binary file.
    :param max_bytes: the largest size that is accepted, in bytes; None for no limit.
    :raises InvalidInputError: there is no such file, or it cannot be uploaded: a directory, empty, too large.
    :raises DatasetUnreadableError: the object store does not respond, or the file could not be read for its hash.
    """
    dataset = _dataset_of(given)
    if not dataset.size:
        raise InvalidInputError(
            f"The file {dataset.location} is empty", hint="Check the task or program that writes it."
        )
    if max_bytes is not None and dataset.size > max_bytes:
        raise InvalidInputError(
            f"The file {dataset.location} has {dataset.size:,} bytes. The connection allows {max_bytes:,} "
            "(max_upload_bytes)",
            hint="Split it or compress it (.zsav), or raise max_upload_bytes in the connection's extra.",
        )
    # The version is only a size: an open file, or a store that reports neither times nor versions.
    return verified_by_content(dataset) if dataset.version == f"{dataset.size} bytes" else dataset


def local_path(given: DatasetLike) -> Path | None:
    """
    Return the path of a dataset on this machine's file system; None if it is in a store, or an open file.

    :param given: as for :func:`dataset_of`.
    """
    if isinstance(given, str) and "://" in given:
        parts = urlsplit(given)
        return Path(url2pathname(parts.path)) if parts.scheme == "file" else None
    if hasattr(given, "read") or hasattr(type(given), "fs"):
        return None
    return Path(str(given))


def _dataset_of(given: DatasetLike) -> Dataset:
    if hasattr(given, "read"):
        return _from_file(given)
    if isinstance(given, str) and "://" in given:
        parts = urlsplit(given)
        if parts.scheme != "file":
            return _from_store(_storage_path(given), given)
        if parts.netloc not in ("", "localhost"):
            raise InvalidInputError(
                f"The URI {given} names another machine", hint="Write it with three slashes: file:///path/to/file."
            )
        if parts.query or parts.fragment:
            raise InvalidInputError(
                f"The URI {given} has a query or a fragment", hint="Write '?' as %3F and '#' as %23."
            )
        return _from_path(Path(url2pathname(parts.path)))
    # The class is checked, because `fs` of the path itself would look for the store, and raise if there is none.
    if hasattr(type(given), "fs"):
        return _from_store(given, str(given))
    if isinstance(given, (str, os.PathLike)) and str(given).strip():
        return _from_path(Path(given))
    raise InvalidInputError(
        f"The dataset must be a file, not {given!r}",
        hint="Use a local path, a file:// or object storage URI, or an open binary file.",
    )


def _name(path: str) -> str:
    # Python reads the bytes of a file name that are not UTF-8 as lone surrogates, which cannot be sent.
    return path.encode("utf-8", "replace").decode("utf-8")


def _from_path(path: Path) -> Dataset:
    def lookup() -> tuple[int, str]:
        found = path.stat()
        whole, parts = divmod(found.st_mtime_ns, 10**9)
        changed = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(whole))}.{parts:09d} UTC"
        # A program can set the modification time back, but not the ctime.
        return found.st_size, f"{found.st_size} bytes of {changed}, inode {found.st_ino}, ctime {found.st_ctime_ns}"

    location = repr(_name(str(path)))
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            # A missing read permission is reported before any request is made.
            path.open("rb").close()
        size, version = lookup()
    except FileNotFoundError:
        raise InvalidInputError(
            f"There is no file {location}", hint="Check the path. The worker must be able to read it."
        ) from None
    except (OSError, ValueError) as e:
        raise InvalidInputError(
            f"The file {location} cannot be read: {e}", hint="Check its permissions for the user that runs the worker."
        ) from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise InvalidInputError(f"{location} is {kind}", hint="Use the path of one regular file.")
    return Dataset(_name(path.name), size, version, location, lambda: path.open("rb"), lambda: lookup()[1])


def _storage_path(uri: str) -> ObjectStoragePath:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        return ObjectStoragePath(uri)
    except (ValueError, TypeError) as e:
        raise InvalidInputError(
            f"The dataset {uri!r} is not an object storage URI: {e}",
            hint="A URI looks like this: s3://aws_default@bucket/folder/wave.zsav",
        ) from None


def _size(reported: Any) -> int | None:
    """Return the size that a store reports, or None. Some stores report text, as FTP servers do, or a float."""
    try:
        size = int(reported)
    except (TypeError, ValueError, OverflowError):
        return None
    invalid = isinstance(reported, bool) or size < 0 or (isinstance(reported, float) and size != reported)
    return None if invalid else size


def _version(info: dict[str, Any]) -> str:
    """Return what identifies the version of an object; ``""`` if its store reports nothing that does."""
    for key in _VERSIONS:
        if info.get(key):
            return f"{key} {info[key]}"
    # A boolean is a property of the file, as `writable` and `shared` are.
    found = {key: value for key, value in info.items() if value and value is not True and _VERSION_KEY.match(key)}
    # A file that is overwritten in place may keep its creation time.
    if all("creat" in key.lower() for key in found):
        return ""
    return ", ".join(f"{key} {found[key]}" for key in sorted(found))


@contextmanager
def _store_errors(location: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InvalidInputError(
            f"There is no file {location}", hint="Check the URI: the connection, the bucket and the key."
        ) from None
    except PermissionError as e:
        raise InvalidInputError(
            f"The store denied access to the file {location}: {e}",
            hint="Check the credentials in the store's Airflow connection, and their permission to read the file.",
        ) from None
    except (ImportError, ValueError) as e:
        if isinstance(e, InvalidInputError):
            raise
        raise InvalidInputError(
            f"The store of {location} is not available: {e}",
            hint="Install this package's extra for the store (s3, gcs or azure), or the store's Airflow provider.",
        ) from None
    except Exception as e:  # each store raises its own classes of errors, and most of them are transient
        raise DatasetUnreadableError(
            f"The file {location} could not be looked up: {type(e).__name__}: {e}",
            hint="Check the store and its Airflow connection.",
        ) from e


def _from_store(path: Any, uri: str) -> Dataset:
    location = repr(uri)

    def lookup() -> tuple[int | None, str]:
        path.fs.invalidate_cache()
        info = dict(path.stat())
        size = _size(info.get("size"))
        return size, f"{size} bytes {_version(info)}".strip()

    with _store_errors(location):
        if path.is_dir():
            raise InvalidInputError(f"{location} is a directory", hint="Use the URI of one file.")
        size, version = lookup()
    if size is None:
        raise InvalidInputError(
            f"The store does not report the size of {location}, which an upload needs",
            hint="Copy the file to a disk or to another store.",
        )

    def opened() -> AbstractContextManager[Readable]:
        # Only the clients of these stores may be called from several threads.
        if path.fs.async_impl:
            return ReadAhead(lambda start, end: path.fs.cat_file(path.path, start=start, end=end), size)
        # The others are read in the caller's thread. If one hangs, only its own timeout ends the read.
        file: AbstractContextManager[Readable] = path.open("rb")
        return file

    return Dataset(_name(path.name), size, version, location, opened, lambda: lookup()[1])


def _from_file(file: Any) -> Dataset:
    raw_name = getattr(file, "name", "")
    name = _name(os.path.basename(raw_name)) if isinstance(raw_name, str) and raw_name else "dataset"
    location = f"{name!r} (an open file)"
    try:
        if not file.seekable():
            raise InvalidInputError(
                f"{location} is not seekable, so its size is not known", hint="Write the data to a file first."
            )
        start = file.tell()

        def size() -> int:
            here = file.tell()
            end = int(file.seek(0, os.SEEK_END))
            file.seek(here)
            return end - int(start)

        first_size = size()
        if not isinstance(file.read(0), bytes):
            raise InvalidInputError(f"{location} is open in text mode", hint="Open it with mode 'rb'.")
    except (OSError, ValueError, AttributeError) as e:
        if isinstance(e, InvalidInputError):
            raise
        raise InvalidInputError(
            f"{location} cannot be read: {e}", hint="Open it for reading, and keep it open until the upload has ended."
        ) from None

    def rewound() -> AbstractContextManager[BinaryIO]:
        file.seek(start)
        return nullcontext(file)

    return Dataset(name, first_size, f"{first_size} bytes", location, rewound, lambda: f"{size()} bytes")
