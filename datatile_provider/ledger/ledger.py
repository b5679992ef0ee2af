"""Claims: of all tasks with the same content for the same target, one at a time may send it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from datatile_provider.ledger.entry import Entry, Phase
from datatile_provider.ledger.store import Store

#: More tasks with the same content at the same moment are an error.
_ATTEMPTS = 20
_NAME = re.compile(r"[^/]+/(?P<target>[^/]+)/(?P<sha256>[0-9a-f]{64})-(?P<number>[1-9][0-9]*)\.json")


class Stored(NamedTuple):
    """An entry and the name of its file."""

    name: str
    entry: Entry

    @property
    def number(self) -> int:
        """Its number among the entries of its content."""
        found = _NAME.fullmatch(self.name)
        return int(found["number"]) if found else 0


class Ledger:
    """
    Entries of contents and targets, each in a file of its own: ``{server}/{target}/{sha256}-{number}.json``.

    No claim deletes a file, so two tasks never take the same number. Entries behind a gap of the numbers would not be
    found, so nothing else than :meth:`delete_before` deletes one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self) -> None:
        """Raise if the ledger can't be used now: anything that its store raises."""
        self._store.check()

    def claim(self, entry: Entry, allow: Callable[[Stored], bool | None]) -> str:
        """
        Store an entry, before the server can hold what it is about.

        :param allow: called with each entry of the same content and target that is not released, the latest first.
            Raises if the content must not be sent again. Returns true if the entries before do not matter.
        :return: the name of the entry's file.
        :raises ValueError: a file of the ledger is not an entry.
        :raises OSError: other tasks claim the same content all the time, or its old entries are being deleted.
        """
        for _ in range(_ATTEMPTS):
            known = list(self._entries(entry))
            name = next((stored.name for stored in known if stored.entry.id == entry.id), "")
            if not name:
                for stored in reversed(known):
                    if stored.entry.phase is not Phase.RELEASED and allow(stored):
                        break
                name = self._name(entry, len(known) + 1)
                try:
                    self._store.create(name, entry.as_bytes())
                except FileExistsError:
                    # Another task was faster, or the store has repeated a request whose response was lost.
                    continue
            if known and not self._is_there(known[0]):
                # Behind a gap, the next claim would not find this one.
                self._store.replace(name, replace(entry, phase=Phase.RELEASED).as_bytes())
                raise OSError(f"old entries of {entry.sha256} are being deleted")
            return name
        raise OSError(f"other tasks claim {entry.sha256} at the same time")

    def change(self, name: str, phase: Phase, job_id: str = "") -> None:
        """
        Store what became of an upload.

        :raises ValueError: the file is not an entry.
        """
        if (content := self._store.read(name)) is not None:
            entry = Entry.read(content)
            self._store.replace(name, replace(entry, phase=phase, job_id=job_id or entry.job_id).as_bytes())

    def entries(self) -> Iterator[Stored | tuple[str, ValueError]]:
        """Yield all entries; for a file that is not an entry, its name and the error."""
        for name in self._store.names():
            content = self._store.read(name)
            if content is None:
                continue
            try:
                yield self._stored(name, content)
            except ValueError as e:
                yield name, e

    def discard(self, name: str, unknown: Entry) -> None:
        """
        Replace a file that is not an entry by a released one. Without a file, later entries of its content would not be
        found.

        :param unknown: an entry with what is known of the upload besides its target and content.
        :raises ValueError: it is not the name of an entry of that server.
        """
        found = _NAME.fullmatch(name)
        if found:
            entry = replace(unknown, target=found["target"], sha256=found["sha256"], phase=Phase.RELEASED)
            if name == self._name(entry, int(found["number"])):
                self._store.replace(name, entry.as_bytes())
                return
        raise ValueError(f"{name!r} is not the name of an entry of {unknown.server}")

    def delete_before(self, time: str) -> Iterator[str]:
        """
        Delete the entries of each content whose latest is older than a time, and yield their names.

        A content with a file that is not an entry is left, because nobody knows how old that is.

        :param time: in ISO 8601, in UTC.
        """
        contents: dict[str, list[Stored | None]] = {}
        for stored in self.entries():
            name, found = (stored.name, stored) if isinstance(stored, Stored) else (stored[0], None)
            contents.setdefault(name.rpartition("-")[0], []).append(found)
        for files in contents.values():
            known = [stored for stored in files if stored]
            if len(known) == len(files) and max(stored.entry.at for stored in known) < time:
                yield from self._delete(sorted(known, key=lambda stored: stored.number))

    def _delete(self, found: list[Stored]) -> Iterator[str]:
        """
        Delete all entries of a content, unless a task claims it meanwhile.

        Each side writes before it reads: this one marks the first entry and looks for a later one, and a claim stores
        the later one and looks for the mark. So at least one of them sees the other.
        """
        first, last = found[0], found[-1]
        self._store.replace(first.name, replace(first.entry, phase=Phase.EXPIRED).as_bytes())
        if self._store.read(self._name(first.entry, last.number + 1)) is not None:
            self._store.replace(first.name, first.entry.as_bytes())
            return
        # The highest number first: a gap would end a claim's search.
        for stored in reversed(found):
            self._store.delete(stored.name)
            yield stored.name

    def _is_there(self, stored: Stored) -> bool:
        content = self._store.read(stored.name)
        if content is None:
            return False
        now = Entry.read(content)
        return now.id == stored.entry.id and now.phase is not Phase.EXPIRED

    def _entries(self, entry: Entry) -> Iterator[Stored]:
        number = 1
        while (content := self._store.read(name := self._name(entry, number))) is not None:
            try:
                stored = self._stored(name, content)
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from None
            if stored.entry.phase is Phase.EXPIRED:
                raise OSError(f"old entries of {entry.sha256} are being deleted")
            yield stored
            number += 1

    @classmethod
    def _stored(cls, name: str, content: bytes) -> Stored:
        stored = Stored(name, Entry.read(content))
        if name != cls._name(stored.entry, stored.number):
            raise ValueError("not an entry of a ledger: it is about another content or target than its name")
        return stored

    @staticmethod
    def _name(entry: Entry, number: int) -> str:
        return f"{entry.folder}/{entry.sha256}-{number}.json"
