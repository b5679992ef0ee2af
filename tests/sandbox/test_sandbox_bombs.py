"""Small files that become large when they are read fail their own job, but neither the sandbox nor other jobs."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from datatile_provider.sandbox import jobs, reader

VALID = ("good.csv", b"respondent,vote\n1,0\n2,1\n")
MB = 2**20

TYPES = "application/vnd.openxmlformats"
NAMESPACES = "http://schemas.openxmlformats.org"
SHEET = f'xmlns="{NAMESPACES}/spreadsheetml/2006/main"'
RELATIONS = f'<Relationships xmlns="{NAMESPACES}/package/2006/relationships">'
RELATION = f'<Relationship Id="r%d" Type="{NAMESPACES}/officeDocument/2006/relationships/%s" Target="%s"/>'
PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{NAMESPACES}/package/2006/content-types">'
    f'<Override PartName="/book.xml" ContentType="{TYPES}-officedocument.spreadsheetml.sheet.main+xml"/>'
    f'<Override PartName="/strings.xml" ContentType="{TYPES}-officedocument.spreadsheetml.sharedStrings+xml"/>'
    "</Types>",
    "_rels/.rels": f"{RELATIONS}{RELATION % (1, 'officeDocument', 'book.xml')}</Relationships>",
    "book.xml": f'<workbook {SHEET} xmlns:r="{NAMESPACES}/officeDocument/2006/relationships">'
    '<sheets><sheet name="a" sheetId="1" r:id="r1"/></sheets></workbook>',
    "_rels/book.xml.rels": f"{RELATIONS}{RELATION % (1, 'worksheet', 'sheet.xml')}"
    f"{RELATION % (2, 'sharedStrings', 'strings.xml')}</Relationships>",
}
NAME_ROW = '<row r="1"><c r="A1" t="inlineStr"><is><t>v</t></is></c></row>'


def workbook(path: Path, rows: Iterable[str], strings: Iterable[str] = (), dimension: str = "A1:A2") -> Path:
    """Write a workbook with the variable ``v`` in its first row, and these rows of XML and shared strings."""
    sheet = (f'<worksheet {SHEET}><dimension ref="{dimension}"/><sheetData>', NAME_ROW, *rows)
    large = {
        "sheet.xml": (*sheet, "</sheetData></worksheet>"),
        "strings.xml": (f"<sst {SHEET}>", *strings, "</sst>"),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, text in PARTS.items():
            file.writestr(name, text)
        for name, texts in large.items():
            with file.open(name, "w") as part:
                for text in texts:
                    part.write(text.encode())
    return path


def many_strings(path: Path) -> Path:
    """Write a workbook with 400 MB of shared strings, which take far longer to read than a test may wait."""
    return workbook(path, ['<row r="2"><c><v>1</v></c></row>'], [f"<si><t>{'a' * 100}</t></si>" * 10_000] * 350)


def long_text(path: Path) -> Path:
    """Write a workbook with a text of 300 MB in its only cell."""
    return workbook(path, ['<row r="2"><c t="inlineStr"><is><t>', *["a" * MB] * 300, "</t></is></c></row>"])


def spss(rows: int, compression: int = 0) -> bytes:
    """Return the header of an SPSS file that claims this number of rows of one number."""
    head = b"$FL3" if compression else b"$FL2"
    head += b"@(#) SPSS DATA FILE".ljust(60) + struct.pack("<5id", 2, 1, compression, 0, rows, 100.0)
    head += b"01 Jan 26" + b"00:00:00" + bytes(67)
    variable = struct.pack("<6i", 2, 0, 0, 0, 0x050802, 0x050802) + b"VAR1    "
    return head + variable + struct.pack("<2i", 999, 0)


def zsav(claimed: int, blocks: int, block: int = 0x3FF000) -> bytes:
    """Return a compressed SPSS file with one row per byte of its decompressed blocks."""
    # Opcodes come in groups of eight; 0 is padding.
    data = (bytes([101]) * block).ljust(-(-block // 8) * 8, b"\0")
    head, compressed, block = spss(claimed, compression=2), zlib.compress(data, 9), len(data)
    begin, trailer = len(head), len(head) + 24 + blocks * len(compressed)
    entries = b"".join(
        struct.pack("<2q2i", begin + i * block, begin + 24 + i * len(compressed), block, len(compressed))
        for i in range(blocks)
    )
    header = struct.pack("<3q", begin, trailer, 24 + len(entries))
    return head + header + compressed * blocks + struct.pack("<2q2i", -100, 0, block, blocks) + entries


class MemoryMonitor:
    """Measures the peak memory of this process, which runs the sandbox, and of its readers."""

    def __init__(self) -> None:
        self._me = psutil.Process()
        self._before = self._me.memory_info().rss
        self._others = self._me.children()
        self._stopping = threading.Event()
        self.growth = self.reader = 0

    def readers(self) -> list[psutil.Process]:
        return [child for child in self._me.children() if child not in self._others]

    def poll(self) -> None:
        while not self._stopping.wait(0.01):
            self.growth = max(self.growth, self._me.memory_info().rss - self._before)
            for child in self.readers():
                try:
                    # Between fork and exec, the child is a copy of this process.
                    if not any("reader" in part for part in child.cmdline()):
                        continue
                    self.reader = max(self.reader, child.memory_info().rss)
                    # Protect the machine from a reader without limits.
                    if self.reader > 2500 * MB:
                        child.kill()
                except (psutil.NoSuchProcess, psutil.ZombieProcess):
                    pass

    def __enter__(self) -> MemoryMonitor:
        self._thread = threading.Thread(target=self.poll)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


@pytest.fixture
def monitor() -> Iterator[MemoryMonitor]:
    with MemoryMonitor() as monitor:
        yield monitor


@pytest.fixture
def run_with_others(user: Any, monitor: MemoryMonitor) -> Callable[[Path], dict[str, Any]]:
    """Upload a file as often as there are readers, and a valid file; return the first job of the file."""

    def run(file: Path) -> dict[str, Any]:
        targets = [user.sandbox.add_database() for _ in range(os.cpu_count() or 1)]
        bomb_jobs = [user.upload("reload", target, file).json()["job_id"] for target in targets]
        valid = user.upload("create", user.sandbox.folder, VALID).json()["job_id"]
        assert user.wait(valid)["status"] == "succeeded"
        ended = [user.wait(bomb_job) for bomb_job in bomb_jobs]
        assert monitor.growth < 50 * MB
        assert not monitor.readers()
        return dict(ended[0])

    return run


@pytest.mark.parametrize(
    ("number", "cell", "reason"),
    [
        (3_000_000_000, "", "row 3000000000 is beyond Excel's last row, 1048576"),
        (1_048_577, "", "row 1048577 is beyond Excel's last row, 1048576"),
        (2, "XFE2", "row 2 has a cell in column 16385, beyond Excel's last column, 16384"),
    ],
)
def test_a_cell_outside_of_any_sheet_fails_the_job_at_once(tmp_path, run_with_others, monitor, number, cell, reason):
    reference = f' r="{cell}"' if cell else ""
    file = workbook(tmp_path / "a.xlsx", [f'<row r="{number}"><c{reference}><v>1</v></c></row>'])
    job = run_with_others(file)
    assert (job["status"], reason in job["message"]) == ("failed", True), job
    assert monitor.reader < 200 * MB


@pytest.mark.parametrize(
    ("rows", "last_cell", "dimension"),
    [
        ([f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(2, 20_002)], "", "A1:XFD20001"),
        (['<row><c r="A2"><v>1</v></c></row>'] * 19_999, '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>', ""),
    ],
)
def test_gaps_between_cells_cost_nothing(tmp_path, run_with_others, monitor, rows, last_cell, dimension):
    file = workbook(tmp_path / "a.xlsx", [*rows, last_cell], dimension=dimension or "A1:XFD1048576")
    job = run_with_others(file)
    assert (job["status"], job["rows"]) == ("succeeded", 20_000), job
    assert monitor.reader < 200 * MB


def test_cells_and_rows_without_a_value_do_not_count(user, tmp_path):
    rows = ['<row r="3"/>', '<row r="4"><c r="A4"/></row>', '<row r="7"><c r="B7"><v>1</v></c></row>']
    assert user.run("create", user.sandbox.folder, workbook(tmp_path / "a.xlsx", rows))["rows"] == 1


@pytest.mark.parametrize(
    "content",
    [spss(10**9) + struct.pack("<d", 1.0) * 10, zsav(10**9, blocks=1, block=1000)],
)
def test_spss_rows_that_are_claimed_but_missing_fail_the_job_at_once(tmp_path, run_with_others, monitor, content):
    file = tmp_path / ("a.zsav" if content.startswith(b"$FL3") else "a.sav")
    file.write_bytes(content)
    job = run_with_others(file)
    assert (job["status"], "damaged or truncated" in job["message"]) == ("failed", True), job
    assert monitor.reader < 200 * MB


def test_an_impossible_number_of_spss_rows_is_not_a_count(user):
    job = user.run("create", user.sandbox.folder, ("a.zsav", zsav(2**31 - 1, blocks=1, block=1000)))
    # Older releases of pyreadstat report such a file as damaged.
    assert (job["status"], job["rows"]) in (("succeeded", 1000), ("failed", None)), job


def test_real_spss_rows_are_counted_without_being_kept(tmp_path, run_with_others, monitor):
    rows = 6 * 0x3FF000
    file = tmp_path / "a.zsav"
    file.write_bytes(zsav(rows, blocks=6))
    job = run_with_others(file)
    assert (job["status"], job["rows"]) == ("succeeded", rows), job
    assert monitor.reader < 150 * MB


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 10])
@pytest.mark.parametrize("suffix", [".sav", ".zsav"])
def test_spss_rows_that_the_header_does_not_count_are_counted_in_parts(tmp_path, monkeypatch, suffix, rows):
    monkeypatch.setattr(reader, "ROWS_AT_ONCE", 4)
    file = tmp_path / f"a{suffix}"
    rows_only = struct.pack("<d", 1.0) * rows
    file.write_bytes(zsav(-1, blocks=1, block=rows) if suffix == ".zsav" else spss(-1) + rows_only)
    assert reader.read(file, file.name)[:2] == (rows, ["VAR1"])


def test_many_spss_rows_that_the_header_does_not_count_take_little_memory(tmp_path, run_with_others, monitor):
    file = tmp_path / "a.zsav"
    file.write_bytes(zsav(-1, blocks=1))
    job = run_with_others(file)
    assert (job["status"], job["rows"]) == ("succeeded", 0x3FF000), job
    assert monitor.reader < 250 * MB


def test_reading_that_takes_too_long_fails_the_job(tmp_path, monkeypatch, run_with_others):
    monkeypatch.setattr(jobs, "READ_SECONDS", 2.5)
    started = time.monotonic()
    job = run_with_others(many_strings(tmp_path / "a.xlsx"))
    assert (job["status"], "reading it took longer than 2.5 s" in job["message"]) == ("failed", True), job
    assert time.monotonic() - started < 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the memory limit")
@pytest.mark.parametrize("make", [long_text, many_strings])
def test_reading_that_takes_too_much_memory_fails_the_job(tmp_path, monkeypatch, run_with_others, monitor, make):
    monkeypatch.setattr(jobs, "READ_BYTES", 20 * MB)
    job = run_with_others(make(tmp_path / "a.xlsx"))
    assert (job["status"], "reading it takes too much memory" in job["message"]) == ("failed", True), job
    assert monitor.reader < 300 * MB


def test_an_spss_file_that_needs_too_large_a_buffer_fails_the_job(user):
    job = user.run("create", user.sandbox.folder, ("a.zsav", zsav(2**29, blocks=1, block=2**29 >> 2)))
    assert (job["status"], "reading it takes too much memory" in job["message"]) == ("failed", True), job


def test_a_reader_that_outlives_the_sandbox_ends_by_its_cpu_limit(tmp_path):
    file = many_strings(tmp_path / "a.xlsx")
    command = [sys.executable, reader.__file__, str(file), file.name, "1", str(2**30)]
    ended = subprocess.run(command, capture_output=True, timeout=30)
    assert ended.returncode == -signal.SIGXCPU


def test_a_stricter_limit_of_the_machine_is_kept(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(VALID[1])
    program = (
        "import resource as r, sys; from datatile_provider.sandbox import reader; r.setrlimit(r.RLIMIT_CPU, (7, 9));"
        "reader.main(sys.argv[1:]); print(r.getrlimit(r.RLIMIT_CPU))"
    )
    command = [sys.executable, "-c", program, str(file), file.name, "60", str(2**30)]
    printed = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30).stdout
    assert printed.splitlines()[1] == "(7, 9)"


@pytest.mark.parametrize(
    ("signal_name", "reason"),
    [
        ("SIGXCPU", "reading it took longer than 60 s"),
        ("SIGKILL", "the reader stopped unexpectedly"),
        ("SIGSEGV", "the reader stopped unexpectedly"),
    ],
)
def test_a_reader_that_crashes_fails_the_job(user, tmp_path, monkeypatch, signal_name, reason):
    script = tmp_path / "dies.py"
    script.write_text(
        f"import os, signal, sys; sys.stderr.buffer.write(b'\\xff'); os.kill(os.getpid(), signal.{signal_name})"
    )
    monkeypatch.setattr(reader, "__file__", str(script))
    job = user.run("create", user.sandbox.folder, VALID)
    assert (job["status"], reason in job["message"]) == ("failed", True), job


def test_an_error_that_quotes_the_file_makes_a_short_reason(tmp_path, run_with_others):
    job = run_with_others(workbook(tmp_path / "a.xlsx", ['<row r="2"><c><v>', *["e" * MB] * 20, "</v></c></row>"]))
    assert (job["status"], "could not convert" in job["message"]) == ("failed", True)
    assert len(job["message"]) < 1000


def test_an_unexpected_error_writes_little_to_stderr(tmp_path):
    program = (
        "import sys; from datatile_provider.sandbox import reader;"
        "reader.READERS['.csv'] = lambda path: {}['x' * 10**7];"
        "reader.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.csv"), "a.csv", "60", str(2**30)]
    ended = subprocess.run(command, capture_output=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert 0 < len(ended.stderr) < 20_000


def test_very_long_variable_names_fail_the_job(user):
    names = ",".join(f"{i}{'a' * MB}" for i in range(20))
    job = user.run("create", user.sandbox.folder, ("a.csv", f"{names}\n{',' * 19}\n".encode()))
    assert (job["status"], "its texts, such as names and labels, take more than" in job["message"]) == ("failed", True)


def test_a_workbook_with_a_password_fails_the_job(user, tmp_path):
    file = workbook(tmp_path / "a.xlsx", [])
    content = bytearray(file.read_bytes())
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        position = -1
        while (position := content.find(signature, position + 1)) >= 0:
            content[position + flags] |= 1
    job = user.run("create", user.sandbox.folder, ("a.xlsx", bytes(content)))
    assert (job["status"], "password" in job["message"]) == ("failed", True), job
