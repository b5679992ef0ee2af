"""Claims: of all tasks with the same content for the same target, one at a time may send it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from datatile_provider.ledger.entry import Entry, Phase
from datatile_provider.ledger.store import Store

#: More tasks with the same content at the same moment are an error.
_ATTEMPTS = 20


class Stored(NamedTuple):
    """An entry and the name of its file."""

    name: str
    entry: Entry

    @property
    def number(self) -> int:
        """Its number among the entries of its content."""
        return int(self.name.rpartition("-")[2].removesuffix(".json"))


class Ledger:
    """
    Entries of contents and targets, each in a file of its own: ``{server}/{target}/{sha256}-{number}.json``.

    No claim deletes a file, so two tasks never take the same number.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self) -> None:
        """Raise if the ledger can't be used now: anything that its store raises."""
        self._store.check()

    def claim(self, entry: Entry, allow: Callable[[Stored], None]) -> str:
        """
        Store an entry, before the server can hold what it is about.

        :param allow: called with the latest entry of the same content and target that is not released, if there is one;
            raises if the content must not be sent again.
        :return: the name of the entry's file.
        :raises ValueError: a file of the ledger is not an entry.
        :raises OSError: other tasks claim the same content all the time.
        """
        for _ in range(_ATTEMPTS):
            known = list(self._entries(entry))
            if own := [stored.name for stored in known if stored.entry.id == entry.id]:
                return own[0]
            # An entry that was sent counts also if a later one was released.
            if in_the_way := [stored for stored in known if stored.entry.phase is not Phase.RELEASED]:
                allow(in_the_way[-1])
            name = self._name(entry, len(known) + 1)
            try:
                self._store.create(name, entry.as_bytes())
            except FileExistsError:
                # Another task was faster, or the store has repeated a request whose response was lost.
                continue
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
                yield Stored(name, Entry.read(content))
            except ValueError as e:
                yield name, e

    def delete_before(self, time: str) -> Iterator[str]:
        """
        Delete the entries of each content whose latest is older than a time, and yield their names.

        :param time: in ISO 8601, in UTC.
        """
        contents: dict[str, list[Stored]] = {}
        for stored in self.entries():
            if isinstance(stored, Stored):
                contents.setdefault(stored.name.rpartition("-")[0], []).append(stored)
        for found in contents.values():
            if max(stored.entry.at for stored in found) < time:
                # The highest number first: a gap would end a claim's search.
                for stored in sorted(found, key=lambda stored: -stored.number):
                    self._store.delete(stored.name)
                    yield stored.name

    def _entries(self, entry: Entry) -> Iterator[Stored]:
        number = 1
        while (content := self._store.read(name := self._name(entry, number))) is not None:
            try:
                yield Stored(name, Entry.read(content))
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from None
            number += 1

    @staticmethod
    def _name(entry: Entry, number: int) -> str:
        return f"{entry.folder}/{entry.sha256}-{number}.json"
