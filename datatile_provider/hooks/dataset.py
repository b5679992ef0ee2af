"""Whatever a user names as a file, turned into a dataset that can be sent, and sent again."""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from datatile_provider.api.errors import DatasetUnreadableError, InvalidInputError
from datatile_provider.api.multipart import Dataset, Readable
from datatile_provider.hooks.content import compared
from datatile_provider.hooks.read_ahead import ReadAhead

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    DatasetLike = str | os.PathLike[str] | ObjectStoragePath | BinaryIO

# What alone tells one version of an object from the next, by the names that the large stores give it.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "VersionId")
# What tells it in other stores, by whatever name. Not all that a store says: that may hold the time of an access, the
# id of a request or a link that expires, and the file would seem to change each time that it is looked up.
_SIGN = re.compile(
    r"^(?!.*(access|view|link|url))"
    r".*(etag|md5|sha|hash|sum|crc|digest|generation|version|^rev|modif|mtime|ctime|updat|writ|chang|creat|date|^ino|uniq)",
    re.IGNORECASE,
)


def dataset_of(given: DatasetLike, max_bytes: int | None = None) -> Dataset:
    """
    Return the dataset that a path, URI or open file names.

    :param given: a local path, a ``file://`` URI, an ``ObjectStoragePath`` or its URI, or an open binary file.
    :param max_bytes: the largest file that is taken.
    :raises InvalidInputError: there is no such file, or it can't be uploaded: a directory, empty, too large.
    :raises DatasetUnreadableError: the object store does not answer now, or a file that must be read first can't be.
    """
    dataset = _dataset_of(given)
    if not dataset.size:
        raise InvalidInputError(f"The file {dataset.location} is empty", hint="Nothing was sent.")
    if max_bytes is not None and dataset.size > max_bytes:
        raise InvalidInputError(
            f"The file {dataset.location} has {dataset.size:,} bytes, over the {max_bytes:,} of the connection's "
            "max_upload_bytes",
            hint="Nothing was sent.",
        )
    # Nothing else tells whether it changes: an open file, or a store that gives no sign of it.
    return compared(dataset) if dataset.version == f"{dataset.size} bytes" else dataset


def _dataset_of(given: DatasetLike) -> Dataset:
    if hasattr(given, "read"):
        return _open_file(given)
    if isinstance(given, str) and "://" in given:
        parts = urlsplit(given)
        if parts.scheme != "file":
            return _stored(_storage_path(given), given)
        if parts.netloc not in ("", "localhost"):
            raise InvalidInputError(f"The file {given} is on another machine", hint="Use file:///path/of/the/file.")
        if parts.query or parts.fragment:
            raise InvalidInputError(
                f"The URI {given} has a query or a fragment", hint="Write '?' as %3F and '#' as %23."
            )
        return _local(Path(url2pathname(parts.path)))
    # Asked of the class: the path itself would look for its store, and raise when there is none.
    if hasattr(type(given), "fs"):
        return _stored(given, str(given))
    if isinstance(given, (str, os.PathLike)) and str(given).strip():
        return _local(Path(given))
    raise InvalidInputError(
        f"A file is needed, and the dataset is {given!r}",
        hint="Give a local path, a file:// or object storage URI, or an open binary file.",
    )


def _name(path: str) -> str:
    # A name of bytes that are no UTF-8 comes from the file system as lone surrogates, which nothing can send.
    return path.encode("utf-8", "replace").decode("utf-8")


def _local(path: Path) -> Dataset:
    def lookup() -> tuple[int, str]:
        found = path.stat()
        whole, parts = divmod(found.st_mtime_ns, 10**9)
        changed = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(whole))}.{parts:09d} UTC"
        # A writer may set the time of a change back, but not that of setting it.
        return found.st_size, f"{found.st_size} bytes of {changed}, inode {found.st_ino}, ctime {found.st_ctime_ns}"

    location = repr(_name(str(path)))
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            # Whether it may be read is best asked before the server is.
            path.open("rb").close()
        size, version = lookup()
    except FileNotFoundError:
        raise InvalidInputError(f"There is no file {location}", hint="Nothing was sent.") from None
    except (OSError, ValueError) as e:
        raise InvalidInputError(f"The file {location} can't be read: {e}", hint="Nothing was sent.") from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise InvalidInputError(f"{location} is {kind}", hint="Nothing was sent.")
    return Dataset(_name(path.name), size, version, location, lambda: path.open("rb"), lambda: lookup()[1])


def _storage_path(uri: str) -> ObjectStoragePath:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        return ObjectStoragePath(uri)
    except (ValueError, TypeError) as e:
        raise InvalidInputError(f"The dataset {uri!r} is no object storage URI: {e}") from None


def _whole(reported: Any) -> int | None:
    """Return a store's word for a size as one, if it can be: some give text, as FTP servers do, or a float."""
    try:
        size = int(reported)
    except (TypeError, ValueError, OverflowError):
        return None
    odd = isinstance(reported, bool) or size < 0 or (isinstance(reported, float) and size != reported)
    return None if odd else size


def _version(info: dict[str, Any]) -> str:
    """Return what tells this version of an object from the next; ``""`` if its store says nothing that does."""
    for key in _VERSIONS:
        if info.get(key):
            return f"{key} {info[key]}"
    # What is true or false says what may be done with a file, as `writable` and `shared` do.
    signs = {key: value for key, value in info.items() if value and value is not True and _SIGN.match(key)}
    # A file that is written to in place may keep the time of its creation.
    if all("creat" in key.lower() for key in signs):
        return ""
    return ", ".join(f"{key} {signs[key]}" for key in sorted(signs))


def _stored(path: Any, uri: str) -> Dataset:
    location = repr(uri)

    def lookup() -> tuple[int | None, str]:
        path.fs.invalidate_cache()
        info = dict(path.stat())
        size = _whole(info.get("size"))
        return size, f"{size} bytes {_version(info)}".strip()

    try:
        if path.is_dir():
            raise InvalidInputError(f"{location} is a directory", hint="Nothing was sent.")
        size, version = lookup()
    except FileNotFoundError:
        raise InvalidInputError(f"There is no file {location}", hint="Nothing was sent.") from None
    except PermissionError as e:
        raise InvalidInputError(
            f"The store refuses the file {location}: {e}",
            hint="Nothing was sent. Check the store's connection: its credentials, and that they may read there.",
        ) from None
    except (ImportError, ValueError) as e:
        if isinstance(e, InvalidInputError):
            raise
        raise InvalidInputError(
            f"The store of {location} can't be reached from here: {e}",
            hint="Install this package's extra for it: s3, gcs or azure; for another store, its Airflow provider.",
        ) from None
    except Exception as e:  # each store raises errors of its own, and most of them pass
        raise DatasetUnreadableError(f"The file {location} could not be looked up: {type(e).__name__}: {e}") from e
    if size is None:
        raise InvalidInputError(f"The store of {location} does not tell its size, and an upload needs it")

    def opened() -> AbstractContextManager[Readable]:
        # Only these stores' clients are made for several threads.
        if path.fs.async_impl:
            return ReadAhead(lambda start, end: path.fs.cat_file(path.path, start=start, end=end), size)
        # The others are read by the caller's own thread, which nothing but a timeout of theirs frees when they hang.
        file: AbstractContextManager[Readable] = path.open("rb")
        return file

    return Dataset(_name(path.name), size, version, location, opened, lambda: lookup()[1])


def _open_file(file: Any) -> Dataset:
    raw_name = getattr(file, "name", "")
    name = _name(os.path.basename(raw_name)) if isinstance(raw_name, str) and raw_name else "dataset"
    location = f"{name!r} (an open file)"
    try:
        if not file.seekable():
            raise InvalidInputError(f"{location} can't be rewound, so its size is not known", hint="Nothing was sent.")
        start = file.tell()

        def size() -> int:
            here = file.tell()
            end = int(file.seek(0, os.SEEK_END))
            file.seek(here)
            return end - int(start)

        first_size = size()
        if not isinstance(file.read(0), bytes):
            raise InvalidInputError(f"{location} is open as text", hint="Open it with mode 'rb'.")
    except (OSError, ValueError, AttributeError) as e:
        if isinstance(e, InvalidInputError):
            raise
        raise InvalidInputError(f"{location} can't be read: {e}", hint="Nothing was sent.") from None

    def rewound() -> AbstractContextManager[BinaryIO]:
        file.seek(start)
        return nullcontext(file)

    return Dataset(name, first_size, f"{first_size} bytes", location, rewound, lambda: f"{size()} bytes")
