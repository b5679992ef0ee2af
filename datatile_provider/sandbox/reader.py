"""
Reads an uploaded survey file: how many rows, which variables.

Run as a script, in a process of its own, so that a large file does not hold up the server, a damaged one
cannot take the server down, and reading can be stopped at any moment. It prints one line of JSON.

A small file can be made so that it takes forever to read, or all memory: time and memory are limited, and
whatever a file claims about its own size is not believed.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import sys
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

Contents = tuple[int, list[str]]

# Excel's own limits; a file can claim any number.
LAST_ROW, LAST_COLUMN = 1_048_576, 16_384
# How many rows of an SPSS file without a count in its header are held in memory.
ROWS_AT_ONCE = 1_000_000
# The server holds what this process prints: its answer, a reason in it, and what goes to stderr.
LONGEST_ANSWER, LONGEST_REASON, LONGEST_TRACEBACK = 2**24, 500, 10_000

# A workbook is a zip of XML parts, each of which may be missing, cut short, encrypted or malformed.
BROKEN_WORKBOOK = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(LookupError, ValueError, TypeError, AttributeError, SyntaxError, RuntimeError),
)


class Unreadable(Exception):
    """The file cannot be taken in; the message says why, to a person."""


def read_spss(path: Path) -> Contents:
    """Rows and variables of an SPSS system file, plain or compressed."""
    with path.open("rb") as file:
        if file.read(4) not in (b"$FL2", b"$FL3"):
            raise Unreadable("it is not an SPSS data file")
    try:
        import pyreadstat
        from pyreadstat import ReadstatError
    except ImportError:
        raise Unreadable(
            "reading SPSS files needs pyreadstat: pip install 'airflow-provider-datatile[sandbox]'"
        ) from None
    try:
        _, meta = pyreadstat.read_sav(path, metadataonly=True, output_format="dict")
        variables = list(meta.column_names)
        rows = meta.number_rows
        if rows is None:
            return (count_spss_rows(path, variables[0]) if variables else 0), variables
        # All rows are parsed, and must be as many as the header says. No column is kept: for each it says, room
        # would be made before the first one is read.
        pyreadstat.read_sav(path, usecols=[], output_format="dict", disable_datetime_conversion=True)
    except (ReadstatError, UnicodeError) as error:
        if "allocate memory" in str(error):
            raise MemoryError from error
        raise Unreadable(f"it is damaged or cut short ({error})") from error
    return rows, variables


def count_spss_rows(path: Path, variable: str) -> int:
    """Rows of an SPSS file whose header does not count them, by one of its variables."""
    import pyreadstat

    rows = 0
    while True:
        columns, _ = pyreadstat.read_sav(
            path,
            usecols=[variable],
            row_offset=rows,
            row_limit=ROWS_AT_ONCE,
            output_format="dict",
            disable_datetime_conversion=True,
        )
        found = len(columns[variable])
        rows += found
        if found < ROWS_AT_ONCE:
            return rows


def read_csv(path: Path) -> Contents:
    """Rows and variables of a UTF-8 text file with commas, semicolons or tabs between values."""
    csv.field_size_limit(2**24)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(2**20)
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            variables = next(lines, [])
            width, rows = len(variables), 0
            for values in lines:
                if len(values) == width:
                    rows += 1
                elif values:
                    raise Unreadable(f"line {lines.line_num} has {len(values)} values, but there are {width} variables")
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8 text") from error
    except csv.Error as error:
        raise Unreadable(f"line {lines.line_num} is not well-formed CSV ({error})") from error
    return rows, variables


def read_xlsx(path: Path) -> Contents:
    """Rows and variables of an Excel workbook's first sheet."""
    try:
        from openpyxl import load_workbook
        from openpyxl.worksheet._reader import WorkSheetParser
    except ImportError:
        raise Unreadable(
            "reading Excel files needs openpyxl: pip install 'airflow-provider-datatile[sandbox]'"
        ) from None
    variables: list[str] = []
    rows = 0
    try:
        with path.open("rb") as file:
            book: Any = load_workbook(file, read_only=True, data_only=True)
            sheet = book.worksheets[0]
            with sheet._get_source() as source:
                # The sheet's own iter_rows makes up all cells and rows that a gap in the file leaves out.
                parser = WorkSheetParser(
                    source,
                    sheet._shared_strings,
                    data_only=True,
                    epoch=book.epoch,
                    date_formats=book._date_formats,
                    timedelta_formats=book._timedelta_formats,
                )
                for number, cells in parser.parse():
                    values = cell_values(number, cells)
                    if variables:
                        rows += bool(values)
                    elif values:
                        variables = [str(values.get(column, "")) for column in range(1, max(values) + 1)]
    except BROKEN_WORKBOOK as error:
        # What the XML parser says instead of a MemoryError.
        if isinstance(error, SyntaxError) and str(error).startswith("out of memory"):
            raise MemoryError from error
        raise Unreadable(f"it is not an Excel workbook, or damaged ({error})") from error
    while variables and not variables[-1]:
        variables.pop()
    return rows, variables


def cell_values(number: int, cells: Sequence[dict[str, Any]]) -> dict[int, Any]:
    """
    What the cells of a row hold, by column.

    :raises Unreadable: no sheet of Excel has such a row or column.
    """
    if number > LAST_ROW:
        raise Unreadable(f"row {number} is beyond the last row of Excel, {LAST_ROW}")
    values = {cell["column"]: cell["value"] for cell in cells if cell["value"] is not None}
    last = max(values, default=0)
    if last > LAST_COLUMN:
        raise Unreadable(f"row {number} has a cell in column {last}, beyond the last column of Excel, {LAST_COLUMN}")
    return values


READERS: dict[str, Callable[[Path], Contents]] = {
    ".sav": read_spss,
    ".zsav": read_spss,
    ".csv": read_csv,
    ".xlsx": read_xlsx,
}
LIBRARIES = {".sav": "pyreadstat", ".zsav": "pyreadstat", ".xlsx": "openpyxl"}


def read(path: Path, filename: str) -> Contents:
    """
    Read a survey file whole.

    :param path: where the file is.
    :param filename: the name that it was uploaded under; its suffix tells the format.
    :raises Unreadable: the file cannot be taken in.
    """
    suffix = PurePath(filename).suffix.lower()
    if suffix not in READERS:
        raise Unreadable(f"{suffix or 'a file without suffix'} is not one of {', '.join(READERS)}")
    rows, variables = READERS[suffix](path)
    if not variables or not all(variables):
        raise Unreadable("it has variables without a name" if variables else "it has no variables")
    if len(set(variables)) < len(variables):
        raise Unreadable("it has several variables of one name")
    if not rows:
        raise Unreadable("it has no rows")
    return rows, variables


def limit(seconds: int, memory: int) -> None:
    """
    Let the system end this process after so many seconds of processor time, and give it no more than so much memory.

    :param memory: in bytes, over what the process has already.
    """
    try:
        import resource
    except ImportError:
        return  # Not on Windows: there only the server's own limit of time holds.
    # A process that was ended for its time would leave its memory on the disk.
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    # Only Linux tells how much address space is taken, and keeps to a limit of it.
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory
    for kind, wanted in limits.items():
        soft, hard = resource.getrlimit(kind)
        if soft == resource.RLIM_INFINITY or soft > wanted:
            resource.setrlimit(kind, (wanted, hard))


def main(arguments: Sequence[str]) -> None:
    """Read the file ``arguments[0]``, uploaded as ``arguments[1]``, within so many seconds and bytes of memory."""
    path, filename, seconds, memory = arguments
    # Each odd cell can be worth a warning, and the server holds them all.
    warnings.simplefilter("ignore")
    # How much memory a library takes depends on the machine: its number of processors, for one.
    with contextlib.suppress(ImportError):
        importlib.import_module(LIBRARIES.get(PurePath(filename).suffix.lower(), "csv"))
    limit(int(seconds), int(memory))
    try:
        rows, variables = read(Path(path), filename)
        response = json.dumps({"rows": rows, "variables": variables})
        if len(response) > LONGEST_ANSWER:
            raise Unreadable(f"the names of its variables take more than {LONGEST_ANSWER // 2**20} MB")
    except Unreadable as error:
        reason = str(error)
        # Some errors quote the whole value that they are about.
        if len(reason) > LONGEST_REASON:
            reason = f"{reason[:LONGEST_REASON]}…"
        response = json.dumps({"reason": reason})
    except MemoryError:
        response = json.dumps({"reason": "reading it takes too much memory"})
    except Exception:
        sys.exit(traceback.format_exc()[-LONGEST_TRACEBACK:])
    print(response)


if __name__ == "__main__":
    main(sys.argv[1:])
