"""Reading survey files: their formats, and files that are damaged or made to do harm."""

from __future__ import annotations

import datetime
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pandas
import pyreadstat
import pytest

from datatile_provider.api.errors import SurveyUnreadableError
from datatile_provider.survey import reader
from datatile_provider.survey.check import check_wave
from datatile_provider.survey.model import Contents
from datatile_provider.survey.read import read
from tests.survey.plant import DATA, KEY, waves

WAVE = DATA / "wave1.zsav"


def contents(path: Path, key: str = "") -> Contents:
    return read(path, path.name, key=key, database=path.parent / "keys.sqlite")


def workbook(path: Path, *rows: list[Any]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    book.save(path)
    return path


def unreadable(path: Path) -> str:
    """Return why a file can't be read, after a time that a person would wait, without a trace of the attempt."""
    before, started = set(path.parent.iterdir()), time.monotonic()
    with pytest.raises(SurveyUnreadableError) as raised:
        check_wave(path)
    assert time.monotonic() - started < 60
    assert set(path.parent.iterdir()) == before
    text = str(raised.value)
    assert text.startswith(f"SURVEY UNREADABLE\ncheck of {path.name!r}\n")
    assert "Traceback" not in text
    assert max(map(len, text.splitlines())) <= 90
    return raised.value.what


@pytest.mark.parametrize("suffix", [".sav", ".zsav", ".csv", ".xlsx"])
def test_each_format_has_the_same_variables_and_rows(tmp_path: Path, suffix: str) -> None:
    survey = contents(waves()[0].write(tmp_path / f"wave{suffix}"), KEY).survey

    assert [variable.name for variable in survey.variables][:3] == ["respondent", "popul", "TVnews"]
    assert survey.rows == 60
    assert {variable.kind for variable in survey.variables} == {"numeric"}
    assert survey.labelled == (suffix in (".sav", ".zsav"))
    assert dict(survey.by_name["vote"].labels) == ({0.0: "Clinton", 1.0: "Dole"} if survey.labelled else {})
    assert survey.by_name["vote"].values == (frozenset() if survey.labelled else {"0", "1"})


@pytest.mark.parametrize("chunk", [1, 7, 50, 8_000_000])
def test_the_size_of_a_chunk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    wave = waves()[0]
    wave.rows.loc[59, "vote"] = 7
    wave.rows.loc[2, KEY] = float("nan")
    wave.rows["TVnews"] = float("nan")
    path = wave.write(tmp_path / "wave.zsav")
    monkeypatch.setattr(reader, "CHUNK", chunk)
    keys = reader.Keys(str(tmp_path / "keys.sqlite"), 0)
    found = reader.read_spss(path, "wave.zsav", KEY, keys)
    keys.close()

    assert (found.survey.rows, found.empty, found.unlabelled, found.keyless) == (60, ("TVnews",), {"vote": (7.0,)}, 1)


def test_types_of_an_spss_file(tmp_path: Path) -> None:
    rows = pandas.DataFrame({"q": [1.0, 2.0, None], "s": ["a", "", "c"], "d": [1.0, 2.0, 3.0], "t": [1.0, 2.0, 3.0]})
    path = tmp_path / "wave.sav"
    pyreadstat.write_sav(
        rows,
        path,
        missing_ranges={"q": [2, {"lo": 8, "hi": 9}], "s": ["a"]},
        variable_value_labels={"s": {"a": "Alpha", "c": "Gamma"}, "q": {1: "Yes"}},  # type: ignore[dict-item]  # its types lack text
        variable_format={"d": "DATE11", "t": "DATETIME20"},
    )
    found = contents(path)
    q, s, d, t = found.survey.variables

    assert [variable.kind for variable in (q, s, d, t)] == ["numeric", "text", "date", "date"]
    assert sorted(q.missing or ()) == [(2.0, 2.0), (8.0, 9.0)]
    assert (q.is_missing(8.5), q.is_missing(7.0), s.is_missing("a"), s.is_missing("b")) == (True, False, True, False)
    assert s.is_categorical
    # A missing code needs no label.
    assert found.unlabelled == {}


def test_a_number_with_labels_of_missing_codes_alone_has_no_unlabelled_codes(tmp_path: Path) -> None:
    rows = pandas.DataFrame({"salary": [57_000.0, 0.0], "age": [36.0, 99.0]})
    labels: dict[str, dict[int | float, str]] = {"salary": {0: "missing"}, "age": {99: "refused"}}
    pyreadstat.write_sav(rows, path := tmp_path / "a.sav", variable_value_labels=labels, missing_ranges={"salary": [0]})

    # DATATILE would read each age as missing.
    assert contents(path).unlabelled == {"age": (36.0,)}


def test_types_of_an_excel_file(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "wave.xlsx",
        *(["id", "when", "name", "mixed"], [1, datetime.date(2026, 1, 5), "Ada", 1], [2, None, "", "x"]),
    )

    assert [v.kind for v in contents(path).survey.variables] == ["numeric", "date", "text", "text"]


@pytest.mark.parametrize(
    ("content", "kinds", "encoding"),
    [
        (b"id;when\n1;2026-01-05\n2;2026-01-05 10:30\n", ["numeric", "date"], "UTF-8"),
        (b"\xef\xbb\xbfid\tname\r\n1\tnan\r\n", ["numeric", "text"], "UTF-8"),
        ("id,Größe\n-1.5e3,1_000\n".encode("cp1252"), ["numeric", "text"], ""),
        (b'id,text\n1,"a, ""b""\nc"\n', ["numeric", "text"], "UTF-8"),
        (b"id,months\n1,\n2, \n", ["numeric", "unknown"], "UTF-8"),
    ],
)
def test_text_files(tmp_path: Path, content: bytes, kinds: list[str], encoding: str) -> None:
    (path := tmp_path / "wave.csv").write_bytes(content)
    survey = contents(path).survey

    assert ([v.kind for v in survey.variables], survey.encoding) == (kinds, encoding)


def test_what_is_passed_between_processes_is_the_same() -> None:
    found = contents_of_wave()

    assert Contents.of(found.as_dict()) == found


def contents_of_wave() -> Contents:
    keys = reader.Keys(":memory:", 0)
    return reader.read_spss(WAVE, "wave1.zsav", KEY, keys)


def test_keys_in_several_formats(tmp_path: Path) -> None:
    first, second = waves()[:2]
    second.rows.loc[:4, KEY] = first.rows.loc[:4, KEY]
    result = check_wave(second.write(tmp_path / "b.csv"), [first.write(tmp_path / "a.sav")], key=KEY.upper())

    assert [(f.rule, f.after) for f in result.errors] == [("known-interview", "5 keys: 1, 2, 3, 4, 5")]


def test_a_reference_without_the_key_is_noted(tmp_path: Path) -> None:
    first, second = waves()[:2]
    first.rename(KEY, "number")
    result = check_wave(second.write(tmp_path / "b.zsav"), [first.write(tmp_path / "a.sav")], key=KEY)

    assert result.notes == ("a.sav has no respondent, so its interviews were not compared.",)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".sav", ".zsav", ".xlsx"])
def test_a_file_that_is_cut(tmp_path: Path, suffix: str, share: float) -> None:
    path = waves()[0].write(tmp_path / f"wave{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    assert unreadable(path).startswith("The survey can't be read: it is")


def test_an_encrypted_or_other_file(tmp_path: Path) -> None:
    for suffix in (".sav", ".zsav", ".xlsx", ".csv"):
        path = tmp_path / f"wave{suffix}"
        for content in (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(5000),
            b"ENCRYPTEDSAV" + bytes(300),
            os.urandom(9000),
        ):
            path.write_bytes(content)
            assert "can't be read" in unreadable(path)


def test_a_broken_block(tmp_path: Path) -> None:
    content = bytearray(WAVE.read_bytes())
    content[-400:-300] = bytes(100)
    (path := tmp_path / "wave.zsav").write_bytes(bytes(content))

    assert "it is damaged or cut" in unreadable(path)


@pytest.mark.parametrize("declared", [61, 10**6, 10**9])
def test_a_header_that_declares_too_many_rows(tmp_path: Path, declared: int) -> None:
    path = waves()[0].write(tmp_path / "wave.sav")
    content = bytearray(path.read_bytes())
    assert int.from_bytes(content[80:84], "little") == 60
    content[80:84] = declared.to_bytes(4, "little")
    path.write_bytes(bytes(content))

    assert "it is damaged or cut" in unreadable(path)


@pytest.mark.timeout(180)
def test_a_workbook_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datatile_provider.survey.read.SECONDS", 4)
    monkeypatch.setattr("datatile_provider.survey.read.SECONDS_A_MB", 0)
    small = workbook(tmp_path / "small.xlsx", ["id"])
    with (
        zipfile.ZipFile(small) as source,
        zipfile.ZipFile(path := tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as to,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("sheet1.xml"):
                row = b'<row><c t="inlineStr"><is><t>x</t></is></c></row>'
                content = content.replace(b"</sheetData>", row * 4_000_000 + b"</sheetData>")
            to.writestr(name, content)
    small.unlink()

    assert path.stat().st_size < 10 * 2**20
    assert "can't be read" in unreadable(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("wave.sav", b"", "it is empty"),
        ("wave.txt", b"id\n1\n", "its suffix is not one of .sav, .zsav, .csv, .xlsx"),
        ("wave.csv", b"id,\n1,2\n", "it has a variable without a name"),
        ("wave.csv", b"id,q\n1,2\n1\n", "line 3 has 1 values, but there are 2 variables"),
        ("wave.csv", b'id\n"1', "line 2 is not well-formed CSV"),
        ("wave.csv", b"\0\0id\n", "it is not text"),
        ("wave.csv", b"\n\n", "it is empty"),
        ("wave.sav", b"id\n1\n", "it is not an SPSS data file"),
        ("wave.xlsx", b"id\n1\n", "it is not an Excel workbook, or it is damaged"),
    ],
)
def test_a_file_that_is_no_survey(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (path := tmp_path / name).write_bytes(content)

    assert reason in unreadable(path)


def test_a_workbook_with_a_value_beside_its_variables(tmp_path: Path) -> None:
    path = workbook(tmp_path / "wave.xlsx", ["id", "q"], [1, 2], [1, 2, 3])

    assert "row 3 has a value in a column without a name" in unreadable(path)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    (folder := tmp_path / "folder.sav").mkdir()
    os.mkfifo(pipe := tmp_path / "pipe.sav")
    (link := tmp_path / "link.sav").symlink_to(tmp_path / "nothing.sav")

    assert "it is not a file" in unreadable(folder)
    assert "it is not a file" in unreadable(pipe)
    assert "No such file or directory" in unreadable(link)


def test_a_reader_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datatile_provider.survey.read.SECONDS", 1)
    monkeypatch.setattr("datatile_provider.survey.read.SECONDS_A_MB", 0)
    header = ",".join(f"q{n}" for n in range(100))
    (path := tmp_path / "wave.csv").write_text(f"{header}\n" + f"{','.join('abcdefghij' * 10)}\n" * 400_000)

    assert "reading it takes too long, too much memory, or crashes the reader" in unreadable(path)


def test_a_reader_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datatile_provider.survey.read.MEMORY", 2**20)
    rows = pandas.DataFrame({f"q{n}": range(20_000) for n in range(60)})
    rows.to_csv(path := tmp_path / "wave.csv", index=False)

    assert "reading it takes too much memory" in unreadable(path)
