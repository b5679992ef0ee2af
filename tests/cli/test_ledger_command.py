"""The command ``ledger``: what it lists, and what may be sent again after it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datatile_provider.cli.commands import KNOWN, MISSING, UNUSABLE, main
from datatile_provider.ledger.entry import Entry, Owner, Phase
from datatile_provider.ledger.ledger import Ledger, Stored
from datatile_provider.ledger.store import FolderStore

OWNER = Owner("https://airflow.example.com", "tracker", "run-1", "upload", -1, 1)
ENTRY = Entry(
    *("id-1", "https://datatile.example.com/api/v2", "append", "f00d", "ab" * 32, 586, "wave2.sav"),
    *(Phase.CLAIMED, "", "2026-01-05T06:03:10+00:00", OWNER),
)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger with two uploads, of the connection ``datatile_default``."""
    connect(monkeypatch, ledger=tmp_path.as_uri())
    found = Ledger(FolderStore(tmp_path))
    found.change(found.claim(ENTRY, lambda stored: None), Phase.ACCEPTED, "job-7")
    found.claim(replace(ENTRY, id="id-2", sha256="cd" * 32, name="wave3.sav", at="2026-02-05T06:00:00"), lambda _: None)
    return found


def connect(monkeypatch: pytest.MonkeyPatch, **extra: Any) -> None:
    connection = {"conn_type": "datatile", "host": "datatile.example.com", "password": "secret-7"}
    monkeypatch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", json.dumps({**connection, "extra": json.dumps(extra)}))


def names(ledger: Ledger) -> list[str]:
    return [stored.name for stored in ledger.entries() if isinstance(stored, Stored)]


def test_list(ledger, capsys):
    assert main(["ledger", "list"]) == KNOWN
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("wave2.sav", "accepted", "job-7", "wave3.sav", "claimed", "tracker upload run-1", "append f00d"):
        assert text in err
    assert err.index("wave2") < err.index("wave3")
    assert main(["ledger", "list", "--json"]) == KNOWN
    out, _ = capsys.readouterr()
    assert [found["job_id"] for found in json.loads(out)] == ["job-7", ""]
    assert "secret-7" not in out + err


@pytest.mark.parametrize("by", ["name", "content"])
def test_show(ledger, capsys, by):
    name = names(ledger)[0]
    assert main(["ledger", "show", name if by == "name" else "ab" * 32]) == KNOWN
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["entry"], found["owner"]["dag_id"]) == (name, "tracker")


def test_forget_lets_a_content_be_sent_again(ledger, capsys):
    name = names(ledger)[0]
    assert main(["ledger", "forget", name]) == KNOWN
    assert f"Released: {name}" in " ".join(capsys.readouterr().err.split())

    def in_the_way(stored: Stored) -> None:
        raise AssertionError(stored)

    assert ledger.claim(replace(ENTRY, id="id-3"), in_the_way).endswith("-2.json")


def test_forget_old_ones(ledger, capsys):
    assert main(["ledger", "forget", "all", "--older-than", "36500"]) == KNOWN
    assert len(names(ledger)) == 2
    assert main(["ledger", "forget", "all", "--older-than", "1"]) == KNOWN
    assert capsys.readouterr().err.count("Deleted: ") == 2
    assert names(ledger) == []


def test_a_damaged_file_is_named(ledger, tmp_path, capsys):
    name = names(ledger)[0]
    (tmp_path / name).write_text("{}")
    assert main(["ledger", "list"]) == MISSING
    _, err = capsys.readouterr()
    assert f"Damaged: {name}" in " ".join(err.split())
    assert "wave3.sav" in err


def test_forget_releases_a_damaged_file(ledger, tmp_path, capsys):
    name = names(ledger)[0]
    (tmp_path / name).write_text("{}")
    assert main(["ledger", "forget", name]) == KNOWN
    assert f"Released: {name}" in " ".join(capsys.readouterr().err.split())
    assert main(["ledger", "show", name]) == KNOWN
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["phase"], found["target"], found["sha256"]) == ("released", "f00d", "ab" * 32)

    def in_the_way(stored: Stored) -> None:
        raise AssertionError(stored)

    assert ledger.claim(replace(ENTRY, id="id-3"), in_the_way).endswith("-2.json")


def test_a_damaged_file_of_another_server_is_kept(ledger, tmp_path, capsys):
    path = tmp_path / names(ledger)[0]
    path.write_text("{}")
    other = tmp_path / "other" / "f00d" / path.name
    other.parent.mkdir(parents=True)
    path.rename(other)
    assert main(["ledger", "forget", f"other/f00d/{path.name}"]) == UNUSABLE
    assert "is not the name of an entry of https://datatile.example.com/api/v2" in " ".join(
        capsys.readouterr().err.split()
    )
    assert other.read_text() == "{}"


def test_any_error_of_a_store_is_reported(ledger, monkeypatch, capsys):
    def fail(self: FolderStore) -> None:
        raise RuntimeError("Could not connect to the endpoint URL")

    monkeypatch.setattr(FolderStore, "check", fail)
    assert main(["ledger", "list"]) == UNUSABLE
    assert "LEDGER UNUSABLE" in (err := capsys.readouterr().err)
    assert "RuntimeError: Could not connect" in err


def test_an_entry_that_is_not_there(ledger, capsys):
    assert main(["ledger", "show", "wave9"]) == MISSING
    assert "There is no entry 'wave9'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "x"], "list takes none"),
        (["show"], "need an entry"),
        (["forget"], "need an entry"),
        (["forget", "all"], "goes with: forget all"),
        (["show", "x", "--older-than", "3"], "goes with: forget all"),
        (["forget", "x", "--older-than", "3"], "goes with: forget all"),
        (["forget", "all", "--older-than", "0"], "from 1 to 36500"),
    ],
)
def test_wrong_arguments(ledger, capsys, arguments, said):
    assert main(["ledger", *arguments]) == UNUSABLE
    assert said in " ".join(capsys.readouterr().err.split())
    assert len(names(ledger)) == 2


def test_a_connection_without_a_ledger(monkeypatch, capsys):
    connect(monkeypatch)
    assert main(["ledger", "list"]) == UNUSABLE
    assert "has no ledger" in capsys.readouterr().err


def test_a_ledger_that_is_away(monkeypatch, tmp_path, capsys):
    connect(monkeypatch, ledger=(tmp_path / "away").as_uri())
    assert main(["ledger", "list"]) == UNUSABLE
    assert "there is no folder" in " ".join(capsys.readouterr().err.split())
