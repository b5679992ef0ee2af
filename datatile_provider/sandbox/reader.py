"""
Reads the number of rows and the variables of an uploaded survey file.

It runs as a script in its own process, so that a large file does not block the server, a damaged file cannot crash it,
and reading can be stopped at any time. It prints one line of JSON.

A small file can be crafted to take unlimited time or memory to read. CPU time and memory are therefore limited, and the
sizes that a file declares are not trusted.
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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

# The number of rows, the names of the variables, and what is known of some of them.
Contents = tuple[int, list[str], dict[str, dict[str, Any]]]
# A variable of which nothing is known. "missing" are the codes that are declared as missing, and "answers" is the
# number of answers by code; None if they were not counted.
UNKNOWN: dict[str, Any] = {"type": "", "label": "", "values": {}, "missing": [], "answers": None}

# Excel's limits. A file can declare any number.
LAST_ROW, LAST_COLUMN = 1_048_576, 16_384
# Rows that are held in memory while the rows of an SPSS file without a row count are counted.
ROWS_AT_ONCE = 1_000_000
# Values of SPSS files: those that are in memory at once, and those above which answers are not counted. Codes of a
# variable that are counted.
VALUES_AT_ONCE, MAX_VALUES, MAX_CODES = 4_000_000, 40_000_000, 1_000
# The server keeps the output of this process in memory: the result, the reason in it, and stderr.
MAX_RESULT, MAX_REASON, MAX_TRACEBACK = 2**24, 500, 10_000

# A workbook is a zip archive of XML parts. Each part may be missing, truncated, encrypted or malformed.
WORKBOOK_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(LookupError, ValueError, TypeError, AttributeError, SyntaxError, RuntimeError),
)


class UnreadableError(Exception):
    """The file cannot be read; the message says why."""


def library(name: str, files: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UnreadableError(
            f"reading {files} files needs {name}: pip install 'airflow-provider-datatile[sandbox]'"
        ) from None


def read_spss(path: Path) -> Contents:
    """Return the rows and variables of an SPSS system file, compressed or not."""
    with path.open("rb") as file:
        if file.read(4) not in (b"$FL2", b"$FL3"):
            raise UnreadableError("it is not an SPSS data file")
    pyreadstat = library("pyreadstat", "SPSS")
    try:
        _, meta = pyreadstat.read_sav(path, metadataonly=True, output_format="dict", user_missing=True)
        variables = list(meta.column_names)
        rows = meta.number_rows
        if rows is None:
            rows = count_spss_rows(path, variables[0]) if variables else 0
        else:
            # This parses all rows and compares their number with the header. No column is requested, because
            # pyreadstat allocates memory for the declared rows of each column before it reads the first one.
            pyreadstat.read_sav(path, usecols=[], output_format="dict", disable_datetime_conversion=True)
        known = {name: described(name, meta) for name in variables}
        for name, answers in count_answers(path, rows, [name for name in variables if known[name]["values"]]).items():
            known[name]["answers"] = answers
    except (pyreadstat.ReadstatError, UnicodeError) as error:
        if "allocate memory" in str(error):
            raise MemoryError from error
        raise UnreadableError(f"it is damaged or truncated ({error})") from error
    return rows, variables, known


def described(name: str, meta: Any) -> dict[str, Any]:
    """Return what the metadata of an SPSS file says of a variable."""
    labels = meta.variable_value_labels.get(name, {})
    ranges = meta.missing_ranges.get(name, ())
    is_date = "DATE" in (meta.original_variable_types.get(name) or "").upper()
    is_text = meta.readstat_variable_types[name] == "string"
    return UNKNOWN | {
        # A variable without labels is numeric (documented).
        "type": "CAT" if labels else "TXT" if is_text else "DATE" if is_date else "NUM",
        "label": meta.column_names_to_labels.get(name) or "",
        "values": {as_text(code): str(label) for code, label in labels.items()},
        "missing": [as_text(code) for code in labels if any(is_within(code, found) for found in ranges)],
    }


def is_within(code: Any, found: dict[str, Any]) -> bool:
    low, high = found["lo"], found["hi"]
    return code == low or (not isinstance(code, str) and not isinstance(low, str) and low <= code <= high)


def as_text(code: Any) -> str:
    """Return a code as a person writes it."""
    return str(int(code)) if isinstance(code, float) and code.is_integer() else str(code)


def count_answers(path: Path, rows: int, variables: list[str]) -> dict[str, dict[str, int]]:
    """Return the number of answers by code of these variables of an SPSS file, without codes declared as missing."""
    import pyreadstat

    if rows * len(variables) > MAX_VALUES:
        return {}
    counted = {}
    width = max(1, VALUES_AT_ONCE // max(1, rows))
    # By columns: a later row costs the reading of all rows before it.
    for first in range(0, len(variables), width):
        columns, _ = pyreadstat.read_sav(
            path, usecols=variables[first : first + width], output_format="dict", disable_datetime_conversion=True
        )
        for name, values in columns.items():
            answers = Counter(value for value in values if value is not None and value == value and value != "")
            counted[name] = {as_text(code): number for code, number in answers.most_common(MAX_CODES)}
    return counted


def count_spss_rows(path: Path, variable: str) -> int:
    """Return the number of rows of an SPSS file without a row count in its header, by reading one variable."""
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
    """Return the rows and variables of a UTF-8 text file that is separated by commas, semicolons or tabs."""
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
                    raise UnreadableError(
                        f"line {lines.line_num} has {len(values)} values, but there are {width} variables"
                    )
    except UnicodeDecodeError as error:
        raise UnreadableError("it is not UTF-8 text") from error
    except csv.Error as error:
        raise UnreadableError(f"line {lines.line_num} is not well-formed CSV ({error})") from error
    return rows, variables, {}


def read_xlsx(path: Path) -> Contents:
    """Return the rows and variables of the first sheet of an Excel workbook."""
    variables: list[str] = []
    rows = 0
    with opened(path) as book:
        for values in rows_of(book, book.worksheets[0]):
            if variables:
                rows += bool(values)
            elif values:
                variables = [str(values.get(column, "")) for column in range(1, max(values) + 1)]
    while variables and not variables[-1]:
        variables.pop()
    return rows, variables, {}


def read_codebook(path: Path) -> dict[str, list[list[str]]]:
    """Return the rows of each worksheet of a codebook as texts, without empty rows."""
    sheets = {}
    with opened(path) as book:
        for sheet in book.worksheets:
            found = (values for values in rows_of(book, sheet) if values)
            sheets[sheet.title] = [
                [as_text(values.get(column, "")).strip() for column in range(1, max(values) + 1)] for values in found
            ]
    return sheets


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """
    Open an Excel workbook.

    :raises UnreadableError: it is not one, or it is damaged.
    """
    openpyxl = library("openpyxl", "Excel")
    try:
        with path.open("rb") as file:
            yield openpyxl.load_workbook(file, read_only=True, data_only=True)
    except WORKBOOK_ERRORS as error:
        # The XML parser raises this instead of MemoryError.
        if isinstance(error, SyntaxError) and str(error).startswith("out of memory"):
            raise MemoryError from error
        raise UnreadableError(f"it is not an Excel workbook, or it is damaged ({error})") from error


def rows_of(book: Any, sheet: Any) -> Iterator[dict[int, Any]]:
    """Yield the values of each row of a worksheet by column."""
    # Imported by load_workbook, and not by openpyxl.
    from openpyxl.worksheet._reader import WorkSheetParser

    with sheet._get_source() as source:
        # Not the sheet's iter_rows: it creates all the rows and cells of a gap.
        parser = WorkSheetParser(
            source,
            sheet._shared_strings,
            data_only=True,
            epoch=book.epoch,
            date_formats=book._date_formats,
            timedelta_formats=book._timedelta_formats,
        )
        for number, cells in parser.parse():
            yield cell_values(number, cells)


def cell_values(number: int, cells: Sequence[dict[str, Any]]) -> dict[int, Any]:
    """Return the values of a row's cells by column, if all are within Excel's limits."""
    if number > LAST_ROW:
        raise UnreadableError(f"row {number} is beyond Excel's last row, {LAST_ROW}")
    values = {cell["column"]: cell["value"] for cell in cells if cell["value"] is not None}
    last = max(values, default=0)
    if last > LAST_COLUMN:
        raise UnreadableError(f"row {number} has a cell in column {last}, beyond Excel's last column, {LAST_COLUMN}")
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
    Return the number of rows and the variables of a survey file.

    :param filename: the name of the uploaded file; its suffix is the format.
    :raises UnreadableError: the file cannot be read, or has no rows or no usable variables.
    """
    suffix = PurePath(filename).suffix.lower()
    if suffix not in READERS:
        raise UnreadableError(f"{suffix or 'a file without suffix'} is not one of {', '.join(READERS)}")
    rows, variables, known = READERS[suffix](path)
    if not variables or not all(variables):
        raise UnreadableError("it has variables without a name" if variables else "it has no variables")
    if len(set(variables)) < len(variables):
        raise UnreadableError("it has several variables with the same name")
    if not rows:
        raise UnreadableError("it has no rows")
    return rows, variables, known


def limit(seconds: int, memory: int) -> None:
    """Limit this process: its CPU time in seconds, and the bytes of memory on top of what it uses already."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limits; the server's own timeout applies.
    # Without a core size of 0, a process that exceeds its CPU time would write a core dump.
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    # Only Linux reports the address space in use, and enforces a limit of it.
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory
    for kind, wanted in limits.items():
        soft, hard = resource.getrlimit(kind)
        if soft == resource.RLIM_INFINITY or soft > wanted:
            resource.setrlimit(kind, (wanted, hard))


def main(arguments: Sequence[str]) -> None:
    """
    Print what a file holds.

    :param arguments: its path, its name as uploaded, the limits in seconds and bytes, and ``codebook`` if it is one.
    """
    path, filename, seconds, memory, *what = arguments
    # Each invalid cell can cause a warning, and the server keeps stderr in memory.
    warnings.simplefilter("ignore")
    # Imported before the limit is set: a library's memory depends on the machine, as on its number of CPUs.
    with contextlib.suppress(ImportError):
        importlib.import_module(LIBRARIES.get(PurePath(filename).suffix.lower(), "csv"))
    limit(int(seconds), int(memory))
    try:
        if what:
            result = json.dumps({"sheets": read_codebook(Path(path))})
        else:
            rows, variables, known = read(Path(path), filename)
            contents = [{"name": name, **known.get(name, UNKNOWN)} for name in variables]
            result = json.dumps({"rows": rows, "contents": contents})
        if len(result) > MAX_RESULT:
            raise UnreadableError(f"its texts, such as names and labels, take more than {MAX_RESULT // 2**20} MB")
    except UnreadableError as error:
        reason = str(error)
        # Some errors quote a whole value of the file.
        if len(reason) > MAX_REASON:
            reason = f"{reason[:MAX_REASON]}…"
        result = json.dumps({"reason": reason})
    except MemoryError:
        result = json.dumps({"reason": "reading it takes too much memory"})
    except Exception:
        # A bug, or an error that a library does not document. The server logs the traceback and fails the job. Only the
        # end is printed, because an error may quote the whole file, and the server keeps stderr in memory.
        sys.exit(traceback.format_exc()[-MAX_TRACEBACK:])
    print(result)


if __name__ == "__main__":
    main(sys.argv[1:])
