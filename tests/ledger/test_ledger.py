"""The ledger's entries and stores, and claims of several processes at the same moment."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datatile_provider.ledger.entry import Entry, Owner, Phase
from datatile_provider.ledger.ledger import Ledger, Stored
from datatile_provider.ledger.store import FolderStore, ObjectStore, store_of
from tests.benchmarks import s3

OWNER = Owner("https://airflow.example.com", "tracker", "run-1", "upload", -1, 1)
ENTRY = Entry(
    *("id-1", "https://datatile.example.com/api/v2", "append", "f00d", "ab" * 32, 586, "wave2.sav"),
    *(Phase.CLAIMED, "", "2026-01-05T06:03:10+00:00", OWNER),
)
#: Claims of two processes at once.
ROUNDS = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def nobody(stored: Stored) -> None:
    raise RuntimeError(f"in the way: {stored.name}")


def test_one_claim_at_a_time(folder):
    ledger = Ledger(FolderStore(folder))
    name = ledger.claim(ENTRY, nobody)
    assert name == f"datatile.example.com_api_v2-{name[28:36]}/f00d/{'ab' * 32}-1.json"
    # The same claim once more, as after a response of the store that was lost.
    assert ledger.claim(ENTRY, nobody) == name
    with pytest.raises(RuntimeError, match=r"-1\.json"):
        ledger.claim(replace(ENTRY, id="id-2"), nobody)
    ledger.change(name, Phase.ACCEPTED, "job-7")
    (stored,) = ledger.entries()
    assert isinstance(stored, Stored)
    assert stored.entry == replace(ENTRY, phase=Phase.ACCEPTED, job_id="job-7")


def test_a_released_claim_is_followed_by_the_next_number(folder):
    ledger = Ledger(FolderStore(folder))
    for number in (1, 2, 3):
        name = ledger.claim(replace(ENTRY, id=f"id-{number}"), nobody)
        assert name.endswith(f"-{number}.json")
        ledger.change(name, Phase.RELEASED)
    seen: list[Stored] = []
    first = ledger.claim(replace(ENTRY, id="id-4"), nobody)
    second = ledger.claim(replace(ENTRY, id="id-5"), seen.append)
    ledger.change(second, Phase.RELEASED)
    # The fourth still counts.
    ledger.claim(replace(ENTRY, id="id-6"), seen.append)
    assert [stored.name for stored in seen] == [first, first]


@pytest.mark.parametrize(
    "other",
    [
        {"server": "https://datatile.example.com/api/v3"},
        {"server": "http://datatile.example.com/api/v2"},
        {"target": "beef"},
        {"sha256": "cd" * 32},
    ],
)
def test_another_upload_is_not_in_the_way(folder, other):
    ledger = Ledger(FolderStore(folder))
    ledger.claim(ENTRY, nobody)
    ledger.claim(replace(ENTRY, id="id-2", **other), nobody)
    assert len(list(ledger.entries())) == 2


def test_old_entries_are_deleted_by_content(folder):
    ledger = Ledger(FolderStore(folder))
    for number, at in enumerate(["2025-01-01", "2026-01-01"]):
        for sha256 in ("ab" * 32, "cd" * 32)[number:]:
            entry = replace(ENTRY, id=f"{at}{sha256}", at=f"{at}T00:00:00+00:00", sha256=sha256)
            ledger.claim(entry, lambda stored: None)
    # The later upload of the second content keeps the earlier one: a gap in the numbers would hide it.
    assert [name[-15:] for name in ledger.delete_before("2025-06-01")] == ["abababab-1.json"]
    assert [name[-15:] for name in ledger.delete_before("2027-01-01")] == ["cdcdcdcd-2.json", "cdcdcdcd-1.json"]
    assert list(ledger.entries()) == []


def test_a_damaged_file(folder):
    ledger = Ledger(FolderStore(folder))
    name = ledger.claim(ENTRY, nobody)
    (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"-1\.json: not an entry"):
        ledger.claim(replace(ENTRY, id="id-2"), nobody)
    ((found, error),) = ledger.entries()
    assert found == name
    assert isinstance(error, ValueError)


class TestEntry:
    @given(st.binary(max_size=200))
    def test_bytes_that_are_no_entry(self, content):
        with pytest.raises(ValueError, match="not an entry"):
            Entry.read(content)

    @pytest.mark.parametrize(
        "change",
        [
            {"version": 2},
            {"version": None},
            {"phase": "lost"},
            {"sha256": "AB" * 32},
            {"size": "586"},
            {"size": True},
            {"job_id": None},
            {"owner": "tracker"},
            {"owner": {}},
        ],
    )
    def test_another_format(self, change):
        with pytest.raises(ValueError, match="not an entry"):
            Entry.read(json.dumps({**json.loads(ENTRY.as_bytes()), **change}).encode())

    @given(st.text(), st.text(), st.sampled_from(Phase), st.integers(-1, 10**12))
    def test_round_trip(self, name, dag_id, phase, size):
        entry = replace(ENTRY, name=name, phase=phase, size=size, owner=replace(OWNER, dag_id=dag_id))
        assert Entry.read(entry.as_bytes()) == entry

    def test_fields_of_a_later_version_of_the_package(self):
        assert Entry.read(json.dumps({**json.loads(ENTRY.as_bytes()), "more": 1}).encode()) == ENTRY

    @given(st.text(min_size=1), st.from_regex(r"[0-9a-f]{4,40}", fullmatch=True))
    def test_the_folder_of_any_server(self, server, target):
        folder = replace(ENTRY, server=server, target=target).folder
        assert folder.count("/") == 1
        assert folder.isascii()
        assert ".." not in folder.split("/")


class TestFolder:
    def test_it_must_exist(self, tmp_path):
        store = FolderStore(tmp_path / "ledger")
        for call in (store.check, lambda: store.create("a/b/c.json", b"x"), lambda: store.read("a/b/c.json")):
            with pytest.raises(FileNotFoundError, match="there is no folder"):
                call()
        assert not (tmp_path / "ledger").exists()

    def test_nothing_else_is_left(self, tmp_path):
        store = FolderStore(tmp_path)
        store.create("a/b/c.json", b"x")
        with pytest.raises(FileExistsError):
            store.create("a/b/c.json", b"y")
        store.replace("a/b/c.json", b"z")
        assert store.read("a/b/c.json") == b"z"
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["c.json"]
        assert (tmp_path / "a/b/c.json").stat().st_mode & 0o777 == 0o664

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_cannot_be_written_to(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            FolderStore(tmp_path).check()


def test_a_store_that_cannot_create_exclusively(tmp_path):
    with pytest.raises(ValueError, match="the store 'file' can't create a file only if there is none"):
        ObjectStore(f"file://{tmp_path}")


def _claims(uri: str, who: int, barrier: Any, won: Any) -> None:
    ledger = Ledger(store_of(uri))
    for number in range(ROUNDS):
        entry = replace(ENTRY, id=f"{who}-{number}", sha256=f"{number:064x}")
        barrier.wait(60)
        try:
            ledger.claim(entry, nobody)
        except RuntimeError:
            continue
        won.put((number, who))
    won.put(None)


def winners(uri: str) -> list[tuple[int, int]]:
    """Return who has won each round of two processes that claim the same content at once."""
    spawn = multiprocessing.get_context("spawn")
    barrier, won = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=_claims, args=(uri, who, barrier, won)) for who in range(2)]
    for process in processes:
        process.start()
    found, running = [], len(processes)
    while running:
        winner = won.get(timeout=120)
        if winner:
            found.append(winner)
        else:
            running -= 1
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return sorted(found)


def assert_one_winner_each(found: list[tuple[int, int]]) -> None:
    assert [number for number, _ in found] == list(range(ROUNDS))
    # Both had their chance.
    assert {who for _, who in found} == {0, 1}


@pytest.mark.timeout(300)
def test_two_processes_at_once_on_a_folder(tmp_path):
    assert_one_winner_each(winners(tmp_path.as_uri()))


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3.s3(tmp_path) as port:
        monkeypatch.setenv("AIRFLOW_CONN_STORE", s3.connection(port))
        s3.client(port)
        yield f"s3://store@{s3.BUCKET}/ledger"


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_two_processes_at_once_on_s3(bucket):
    assert_one_winner_each(winners(bucket))


@pytest.mark.bench
@pytest.mark.timeout(120)
def test_an_object_store(bucket):
    ledger = Ledger(store_of(bucket))
    ledger.check()
    name = ledger.claim(ENTRY, nobody)
    with pytest.raises(RuntimeError):
        ledger.claim(replace(ENTRY, id="id-2"), nobody)
    ledger.change(name, Phase.ACCEPTED, "job-7")
    (stored,) = ledger.entries()
    assert isinstance(stored, Stored)
    assert (stored.name, stored.entry.job_id) == (name, "job-7")
    assert list(ledger.delete_before("2027-01-01")) == [name]
    assert list(ledger.entries()) == []
    with pytest.raises(FileNotFoundError, match="there is no bucket"):
        Ledger(store_of("s3://store@missing/ledger")).check()
