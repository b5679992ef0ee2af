"""Where a ledger is kept: a folder that the workers share, or an object store that can create exclusively."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

#: The object stores whose client creates an object only if there is none, in one request.
_EXCLUSIVE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")

#: An object that each check tries to create.
_PROBE = "exclusive"


class Store(Protocol):
    """Small files by name. A name has ``/`` between its parts."""

    def check(self) -> None:
        """Raise if the store can't be used now: anything that it raises."""

    def create(self, name: str, content: bytes) -> None:
        """
        Create a file whole.

        :raises FileExistsError: there is one of that name. Of two at once, one gets this.
        """

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if there is none."""

    def replace(self, name: str, content: bytes) -> None:
        """Replace a file's content. Readers see the old or the new one."""

    def delete(self, name: str) -> None:
        """Delete a file."""

    def names(self) -> Iterator[str]:
        """Yield the names of all files."""


def store_of(uri: str) -> Store:
    """
    Return the store of a ledger's URI.

    :raises ValueError: a store that can't keep a ledger.
    """
    if uri.startswith("file://"):
        return FolderStore(Path(url2pathname(urlsplit(uri).path)))
    return ObjectStore(uri)


class FolderStore:
    """A folder on a file system with hard links, as Linux's own and NFS. It must exist."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self) -> None:
        # Without its mount, a shared folder would be a new and empty ledger.
        if not self._root.is_dir():
            raise FileNotFoundError(f"there is no folder {self._root}")
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise PermissionError(f"the folder {self._root} can't be written to")

    def create(self, name: str, content: bytes) -> None:
        self.check()
        path = self._root / name
        for folder in (path.parent.parent, path.parent):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                # Workers may run as several users.
                shutil.copymode(self._root, folder)
                _sync(folder.parent)
        temporary = self._written(path, content)
        try:
            # A link appears whole, and fails if the name exists.
            os.link(temporary, path)
        finally:
            temporary.unlink()
        # The machine may lose its power after the upload.
        _sync(path.parent)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            self.check()
            return None

    def replace(self, name: str, content: bytes) -> None:
        path = self._root / name
        os.replace(self._written(path, content), path)

    def delete(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        self.check()
        for path in sorted(self._root.glob("*/*/*.json")):
            yield path.relative_to(self._root).as_posix()

    @staticmethod
    def _written(path: Path, content: bytes) -> Path:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".new", delete=False) as file:
            # Workers may run as several users.
            os.fchmod(file.fileno(), 0o664)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return Path(file.name)


def _sync(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ObjectStore:
    """
    A prefix in an object store, through an Airflow connection.

    :param uri: the prefix, as ``s3://conn_id@bucket/prefix``.
    :raises ValueError: a store, or a version of its client, that can't create exclusively.
    """

    def __init__(self, uri: str) -> None:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        path = ObjectStoragePath(uri)
        self._fs: Any = path.fs
        self._root = path.path.rstrip("/")
        create = getattr(self._fs, "_pipe_file", None)
        if path.protocol not in _EXCLUSIVE or not create or "mode" not in inspect.signature(create).parameters:
            raise ValueError(f"the store {path.protocol!r} can't create a file only if there is none")

    def check(self) -> None:
        # Some stores ignore the condition. The second request of the first task finds that out.
        for _ in range(2):
            try:
                self.create(_PROBE, b"")
            except FileExistsError:
                return
        raise ValueError("the store replaces a file that it should only create")

    def create(self, name: str, content: bytes) -> None:
        try:
            self._fs.pipe_file(f"{self._root}/{name}", content, mode="create")
        except PermissionError:
            raise
        except OSError as e:
            # Clients report the failed condition in several ways.
            if not isinstance(e, FileExistsError) and self.read(name) is not None:
                raise FileExistsError(name) from e
            raise

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def replace(self, name: str, content: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", content)

    def delete(self, name: str) -> None:
        self._fs.rm_file(f"{self._root}/{name}")

    def names(self) -> Iterator[str]:
        self._fs.invalidate_cache()
        for found in sorted(self._fs.find(self._root)):
            if found.endswith(".json"):
                yield found[len(self._root) + 1 :]
