"""The ledger's entries and stores, and claims of several processes at the same moment."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
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


def test_each_earlier_upload_counts_until_one_settles_it(folder):
    ledger = Ledger(FolderStore(folder))
    names = [ledger.claim(replace(ENTRY, id=f"id-{number}"), lambda stored: None) for number in range(3)]

    def fails(stored: Stored) -> None:
        """The job of the latest one has failed."""
        if stored.name != names[2]:
            raise RuntimeError(f"in the way: {stored.name}")
        ledger.change(stored.name, Phase.RELEASED)

    with pytest.raises(RuntimeError, match=r"-2\.json"):
        ledger.claim(replace(ENTRY, id="id-4"), fails)
    seen: list[str] = []

    def settles(stored: Stored) -> bool:
        seen.append(stored.name)
        return True

    assert ledger.claim(replace(ENTRY, id="id-5"), settles)
    assert seen == [names[1]]


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


def test_old_entries_beside_a_damaged_file_are_kept(folder):
    ledger = Ledger(FolderStore(folder))
    names = [ledger.claim(replace(ENTRY, id=f"id-{number}"), lambda stored: None) for number in range(3)]
    (folder / names[1]).write_bytes(b"{}")
    assert list(ledger.delete_before("2027-01-01")) == []
    with pytest.raises(ValueError, match=r"-2\.json"):
        ledger.claim(replace(ENTRY, id="id-4"), nobody)
    ledger.discard(names[1], replace(ENTRY, target="", sha256="", name=""))
    with pytest.raises(RuntimeError, match=r"-3\.json"):
        ledger.claim(replace(ENTRY, id="id-4"), nobody)
    for name in ("wave.json", names[1].replace("f00d", "f00d/x"), names[1].replace("datatile", "other")):
        with pytest.raises(ValueError, match="not the name of an entry"):
            ledger.discard(name, ENTRY)


class Interrupted(FolderStore):
    """
    A folder in which something else happens before one of its calls.

    :param at: the number of that call.
    :param meanwhile: what happens.
    """

    def __init__(self, root: Path, at: int, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._left, self._meanwhile = at, meanwhile

    def _call(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._meanwhile()

    def create(self, name: str, content: bytes) -> None:
        self._call()
        super().create(name, content)

    def read(self, name: str) -> bytes | None:
        self._call()
        return super().read(name)

    def replace(self, name: str, content: bytes) -> None:
        self._call()
        super().replace(name, content)

    def delete(self, name: str) -> None:
        self._call()
        super().delete(name)


#: More than the calls of a claim, or of a deletion, of up to two entries.
CALLS = range(1, 12)


def old_entries(folder: Path, released: bool) -> Ledger:
    ledger = Ledger(FolderStore(folder))
    for number in range(2):
        name = ledger.claim(replace(ENTRY, id=f"old-{number}"), lambda stored: None)
        if released:
            ledger.change(name, Phase.RELEASED)
    return ledger


def claimed(ledger: Ledger, who: str) -> bool:
    """Let a task claim the content, which it may repeat, and return whether it has sent it."""
    with contextlib.suppress(OSError):
        return bool(ledger.claim(replace(ENTRY, id=who, at="2027-05-01"), lambda stored: None))
    return False


def assert_found(ledger: Ledger, sent: list[str]) -> None:
    """Check that a task which must not repeat the content finds all that were sent."""
    seen: list[str] = []
    ledger.claim(replace(ENTRY, id="last", at="2027-06-01"), lambda stored: seen.append(stored.entry.id))
    assert set(sent) <= set(seen), (sent, seen)


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("at", CALLS)
def test_a_claim_while_old_entries_are_deleted_is_found(folder, at, released):
    ledger, sent = old_entries(folder, released), []

    def meanwhile() -> None:
        if claimed(ledger, "new"):
            sent.append("new")

    deleted = list(Ledger(Interrupted(folder, at, meanwhile)).delete_before("2027-01-01"))
    assert deleted == [] or len(deleted) == 2
    assert sent or deleted
    assert_found(ledger, sent)


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("at", CALLS)
@pytest.mark.parametrize("then", [False, True])
def test_old_entries_that_are_deleted_during_a_claim(folder, at, released, then):
    ledger, sent = old_entries(folder, released), []

    def meanwhile() -> None:
        list(ledger.delete_before("2027-01-01"))
        if then and claimed(ledger, "second"):
            sent.append("second")

    if claimed(Ledger(Interrupted(folder, at, meanwhile)), "first"):
        sent.append("first")
    assert_found(ledger, sent)


def test_a_deletion_that_ended_half_way_is_finished_by_the_next(folder):
    ledger = old_entries(folder, released=True)

    def dies() -> None:
        raise SystemExit

    for at in CALLS:
        with contextlib.suppress(SystemExit):
            list(Ledger(Interrupted(folder, at, dies)).delete_before("2027-01-01"))
    assert list(ledger.entries()) == []
    assert ledger.claim(ENTRY, nobody).endswith("-1.json")


def test_an_entry_under_another_name_is_damaged(folder):
    ledger = Ledger(FolderStore(folder))
    name = ledger.claim(ENTRY, nobody)
    other = name.replace("ab" * 32, "cd" * 32)
    (folder / name).rename(folder / other)
    with pytest.raises(ValueError, match="about another content or target than its name"):
        ledger.claim(replace(ENTRY, sha256="cd" * 32), nobody)
    ((found, error),) = ledger.entries()
    assert (found, type(error)) == (other, ValueError)


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

    def test_what_one_user_makes_can_be_written_to_by_another(self, tmp_path):
        root = tmp_path / "ledger"
        root.mkdir()
        root.chmod(0o2775)
        FolderStore(root).create("a/b/c.json", b"x")
        assert [(root / folder).stat().st_mode & 0o7777 for folder in ("a", "a/b")] == [0o2775, 0o2775]

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
        # Airflow keeps one client for each connection id.
        monkeypatch.setenv(f"AIRFLOW_CONN_STORE{port}", s3.connection(port))
        s3.client(port)
        yield f"s3://store{port}@{s3.BUCKET}/ledger"


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
    with pytest.raises(FileNotFoundError, match="bucket"):
        Ledger(store_of(bucket.replace(s3.BUCKET, "missing"))).check()


@pytest.mark.bench
@pytest.mark.timeout(120)
def test_a_store_that_ignores_the_condition(bucket, monkeypatch):
    client = pytest.importorskip("s3fs").S3FileSystem
    send = client._pipe_file

    async def ignore(self: Any, path: str, data: bytes, mode: str = "overwrite", **options: Any) -> Any:
        return await send(self, path, data, **options)

    monkeypatch.setattr(client, "_pipe_file", ignore)
    with pytest.raises(ValueError, match="replaces a file that it should only create"):
        Ledger(store_of(bucket)).check()


@pytest.mark.bench
@pytest.mark.timeout(120)
def test_a_store_that_does_not_respond(monkeypatch):
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    extra = {"region_name": "us-east-1", **options}
    connection = {"conn_type": "aws", "login": "user", "password": "secret-7", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_DEAD", json.dumps(connection))
    with pytest.raises(Exception, match="connect") as error:
        Ledger(store_of("s3://dead@bucket/ledger")).check()
    assert not isinstance(error.value, ValueError)
