"""
Reads a survey file in a process of its own, and prints its contents as one line of JSON.

A damaged file may crash a library, and a small one can be made to take unlimited time or memory. So the process has
limits. Memory is flat: the data is read in chunks, and keys go to a database on disk.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import itertools
import json
import re
import sqlite3
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from datatile_provider.survey.model import Code, Contents, Kind, Survey, Variable, fold, shown

#: Values that are in memory at once; of an SPSS file, each takes about 32 bytes.
CHUNK = 8_000_000
#: Codes without a label, and values of a variable without labels, that are kept.
MANY = 100
#: Excel's limits. A file can declare any number.
LAST_ROW, LAST_COLUMN = 1_048_576, 16_384
_DATES = re.compile(r"^(A?DATE|EDATE|JDATE|SDATE|DATETIME|YMDHMS|MOYR|QYR|WKYR)\d*", re.IGNORECASE)
_NUMBER = re.compile(r"^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$", re.IGNORECASE)
_ISO = re.compile(r"^\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?\s*$")
#: A workbook is a zip archive of XML parts. Each may be missing, cut, encrypted or malformed.
_WORKBOOK_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(LookupError, ValueError, TypeError, AttributeError, SyntaxError, RuntimeError),
)


# The database is temporary, so it need not survive a crash.
_SETUP_QUERIES = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "CREATE TABLE IF NOT EXISTS keys (source INTEGER, key TEXT)",
)
_INSERT_QUERY = "INSERT INTO keys VALUES (?, ?)"


class UnreadableError(Exception):
    """The file can't be read; the message says why."""


class Keys:
    """
    The keys of interviews, in a database on disk.

    :param path: the database's file.
    :param source: the number of the survey file: 0 for the wave, then the references.
    """

    def __init__(self, path: str, source: int) -> None:
        self._source = source
        self._database = sqlite3.connect(path)
        for query in _SETUP_QUERIES:
            self._database.execute(query)

    def add(self, keys: Iterable[str]) -> None:
        """Store the keys of more interviews."""
        self._database.executemany(_INSERT_QUERY, ((self._source, key) for key in keys))

    def close(self) -> None:
        """Write all keys to the disk."""
        self._database.commit()
        self._database.close()


class Seen:
    """
    What was seen in the data so far.

    :param variables: the file's variables.
    :param key: the name of the variable that identifies an interview; ``""`` for none.
    :param keys: where the keys go.
    """

    def __init__(self, variables: Sequence[Variable], key: str, keys: Keys) -> None:
        self._keys = keys
        self._key = next((v.name for v in variables if key and fold(v.name) == fold(key)), "")
        # A number whose labels are only those of missing codes is no variable with answers to choose from.
        self._labelled = {v.name: v for v in variables if v.is_categorical}
        self._unlabelled: dict[str, set[Code]] = {}
        self._keyless = 0
        self.empty = {v.name for v in variables}

    @property
    def needed(self) -> set[str]:
        """The variables whose further values matter."""
        return self.empty | set(self._labelled) | ({self._key} if self._key else set())

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """
        Look at more interviews.

        :param columns: the values by variable; a missing one is None, NaN or ``""``.
        """
        for name, values in columns.items():
            # Far fewer than the values, and a NaN is no set's equal.
            distinct = {value for value in set(values) if not _is_empty(value)}
            if distinct:
                self.empty.discard(name)
            if variable := self._labelled.get(name):
                found = self._unlabelled.setdefault(name, set())
                for value in distinct - variable.labels.keys():
                    if len(found) < MANY and isinstance(value, (float, str)) and not variable.is_missing(value):
                        found.add(value)
            if name == self._key:
                present = [
                    shown(value) if isinstance(value, float) else str(value) for value in values if not _is_empty(value)
                ]
                self._keyless += len(values) - len(present)
                self._keys.add(present)

    def contents(self, survey: Survey) -> Contents:
        """Return the survey with all that was seen."""
        # Interviews without any are reported as such.
        empty = [v.name for v in survey.variables if v.name in self.empty] if survey.rows else []
        unlabelled = {
            name: tuple(sorted(codes, key=lambda code: (isinstance(code, str), code)))
            for name, codes in self._unlabelled.items()
            if codes
        }
        return Contents(survey, tuple(empty), unlabelled, self._keyless)


def _is_empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def library(name: str) -> Any:
    """Import a library of the extra ``survey``."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UnreadableError(f"{name} is not installed: pip install 'airflow-provider-datatile[survey]'") from None


def read_spss(path: Path, source: str, key: str, keys: Keys) -> Contents:
    """Return the contents of an SPSS system file, compressed or not."""
    with path.open("rb") as file:
        if file.read(4) not in (b"$FL2", b"$FL3"):
            raise UnreadableError("it is not an SPSS data file")
    pyreadstat = library("pyreadstat")
    options = {"output_format": "dict", "user_missing": True, "disable_datetime_conversion": True}
    try:
        _, meta = pyreadstat.read_sav(path, metadataonly=True, **options)
        variables = tuple(_spss_variable(name, meta) for name in meta.column_names)
        seen = Seen(variables, key, keys)
        rows = 0
        # pyreadstat allocates memory for the rows that the header declares, so each request has a limit.
        limit = max(1, CHUNK // max(1, len(variables)))
        while variables:
            wanted = [v.name for v in variables if v.name in seen.needed] or [variables[0].name]
            columns, _ = pyreadstat.read_sav(path, usecols=wanted, row_offset=rows, row_limit=limit, **options)
            seen.add(columns)
            found = len(columns[wanted[0]])
            rows += found
            if found < limit or rows == meta.number_rows:
                break
            # Skipped rows are cheap, and fewer variables leave room for more rows.
            limit = max(1, CHUNK // max(1, len(seen.needed)))
    except (pyreadstat.ReadstatError, UnicodeError) as error:
        if "allocate memory" in str(error):
            raise MemoryError from error
        raise UnreadableError(f"it is damaged or cut ({error})") from error
    return seen.contents(Survey(source, variables, rows, meta.file_encoding or ""))


def _spss_variable(name: str, meta: Any) -> Variable:
    labels = meta.variable_value_labels.get(name, {})
    numeric = meta.readstat_variable_types[name] != "string"
    is_date = numeric and _DATES.match(meta.original_variable_types.get(name) or "")
    missing = tuple((entry["lo"], entry["hi"]) for entry in meta.missing_ranges.get(name, ()))
    return Variable(
        name,
        meta.column_names_to_labels.get(name) or "",
        "date" if is_date else "numeric" if numeric else "text",
        {float(code) if numeric else str(code): str(label) for code, label in labels.items()},
        missing,
    )


class Columns:
    """The kinds and the few values of a file without types, from its cells."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._kinds: list[set[Kind]] = [set() for _ in names]
        self._values: list[set[str] | None] = [set() for _ in names]

    def add(self, cells: Sequence[Sequence[Any]]) -> None:
        """Look at the cells of more rows, by column."""
        for number, column in enumerate(cells):
            distinct = {value for value in set(column) if not _is_empty(value)}
            if self._kinds[number] != {"text"}:
                self._kinds[number] |= {_kind(value) for value in distinct}
            values = self._values[number]
            if values is not None:
                values |= {
                    shown(float(v)) if _kind(v) == "numeric" else str(v) for v in itertools.islice(distinct, MANY + 1)
                }
                if len(values) > MANY:
                    self._values[number] = None

    def variables(self) -> tuple[Variable, ...]:
        """Return the variables. One with values of several kinds is text, and one without values is of unknown kind."""
        return tuple(
            Variable(
                name,
                kind=next(iter(kinds), "unknown") if len(kinds) < 2 else "text",
                values=frozenset(values or ()),
            )
            for name, kinds, values in zip(self._names, self._kinds, self._values, strict=True)
        )


def _kind(value: Any) -> Kind:
    if isinstance(value, (datetime, date, time)):
        return "date"
    if isinstance(value, str):
        # Not float(): it also takes names and underscores, which are text in a survey.
        return "numeric" if _NUMBER.match(value) else "date" if _ISO.match(value) else "text"
    return "numeric" if isinstance(value, (int, float)) and not isinstance(value, bool) else "text"


def read_csv(path: Path, source: str, key: str, keys: Keys) -> Contents:
    """Return the contents of a text file that is separated by commas, semicolons or tabs."""
    csv.field_size_limit(2**24)
    encoding = _encoding(path)
    try:
        with path.open(encoding=encoding or "cp1252", errors=None if encoding else "replace", newline="") as file:
            first = file.readline(2**20)
            file.seek(0)
            lines = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            return _read_rows(_checked(lines), source, "UTF-8" if encoding else "", key, keys)
    except csv.Error as error:
        raise UnreadableError(f"line {lines.line_num} is not well-formed CSV ({error})") from error


def _encoding(path: Path) -> str:
    """Return the encoding of a text file; ``""`` if it is not UTF-8."""
    with path.open("rb") as file:
        if b"\0" in file.read(2**16):
            raise UnreadableError("it is not text")
    try:
        with path.open(encoding="utf-8-sig") as text:
            while text.read(2**20):
                pass
    except UnicodeDecodeError:
        return ""
    return "utf-8-sig"


def _checked(lines: Any) -> Iterator[list[str]]:
    width = None
    for values in lines:
        if width is None:
            width = len(values)
        elif values and len(values) != width:
            raise UnreadableError(f"line {lines.line_num} has {len(values)} values, but there are {width} variables")
        if values:
            yield values


def read_xlsx(path: Path, source: str, key: str, keys: Keys) -> Contents:
    """Return the contents of the first sheet of an Excel workbook."""
    openpyxl = library("openpyxl")
    try:
        with path.open("rb") as file:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheet = book.worksheets[0]
            # The size that a sheet declares may be wrong.
            sheet.reset_dimensions()
            return _read_rows(_in_limits(sheet.iter_rows(values_only=True)), source, None, key, keys)
    except _WORKBOOK_ERRORS as error:
        # The XML parser raises this instead of MemoryError.
        if isinstance(error, SyntaxError) and str(error).startswith("out of memory"):
            raise MemoryError from error
        raise UnreadableError(f"it is not an Excel workbook, or it is damaged ({error})") from error


def _in_limits(rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    width = 0
    for number, row in enumerate(rows, 1):
        if number > LAST_ROW or len(row) > LAST_COLUMN:
            raise UnreadableError("it has more rows or columns than Excel")
        if any(cell is not None for cell in row):
            if not width:
                width = max(n for n, cell in enumerate(row, 1) if cell is not None)
            elif any(cell is not None for cell in row[width:]):
                raise UnreadableError(f"row {number} has a value in a column without a name")
            yield [*row[:width], *[None] * (width - len(row))]


def _read_rows(rows: Iterator[Sequence[Any]], source: str, encoding: str | None, key: str, keys: Keys) -> Contents:
    names = ["" if cell is None else str(cell).strip() for cell in next(rows, [])]
    if not names:
        raise UnreadableError("it is empty")
    if not all(names):
        raise UnreadableError("it has a variable without a name")
    columns, seen = Columns(names), Seen([Variable(name) for name in names], key, keys)
    number = 0
    while chunk := list(itertools.islice(rows, max(1, CHUNK // 10 // len(names)))):
        cells = list(zip(*chunk, strict=True))
        columns.add(cells)
        # Of variables with the same name, the last one counts.
        seen.add(dict(zip(names, cells, strict=True)))
        number += len(chunk)
    notes = ("The file has no labels, so labels and codes were not compared.",)
    return seen.contents(Survey(source, columns.variables(), number, encoding, labelled=False, notes=notes))


def read_codebook(path: Path, source: str, key: str, keys: Keys) -> Contents:
    """
    Return what a database's codebook declares: an Excel file with worksheets for variables and values (documented).

    The names of the columns are assumed. What can't be read is a note, not a guess.
    """
    openpyxl = library("openpyxl")
    try:
        with path.open("rb") as file:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheets = {sheet.title.strip().casefold(): sheet for sheet in book.worksheets}
            rows = {name: list(_records(sheets[name])) for name in ("variables", "values") if name in sheets}
    except _WORKBOOK_ERRORS as error:
        raise UnreadableError(f"it is not an Excel workbook, or it is damaged ({error})") from error
    if "variables" not in rows:
        raise UnreadableError("it has no worksheet with the name variables")
    labels: dict[str, dict[Code, str]] = {}
    unread = 0
    for row in rows.get("values", []):
        name, code = _first(row, "variable", "name", "datatile_id"), _first(row, "value", "code")
        if name and code:
            labels.setdefault(fold(name), {})[_number(code)] = _first(row, "label", "title", "text")
        else:
            unread += 1
    variables = []
    other: list[str] = []
    for row in rows["variables"]:
        # Older codebooks have the second name (documented).
        name, kind = _first(row, "name", "datatile_id"), _first(row, "type").upper()
        if name and kind in _CODEBOOK_KINDS:
            found = labels.get(fold(name), {}) if kind == "CAT" else {}
            variables.append(Variable(name, _first(row, "label", "title"), _CODEBOOK_KINDS[kind], found, None))
        elif kind != "IGN":
            other.append(name or "(no name)")
    notes = [f"{source}: {unread} rows of the worksheet values can't be read."] if unread else []
    if other:
        listed = ", ".join(other[:10]) + (f" and {len(other) - 10} more" if len(other) > 10 else "")
        notes.append(f"{source} has no type that a survey file has for these, so they were not compared: {listed}.")
    return Contents(Survey(source, tuple(variables), notes=tuple(notes), undescribed=tuple(other)))


#: The kinds of the codebook's types (documented). The others have several variables in a file, or none.
_CODEBOOK_KINDS: dict[str, Kind] = {
    **{"CAT": "numeric", "NUM": "numeric"},
    **{"DATE": "date", "TXT": "text", "TEXT": "text"},
}


def _records(sheet: Any) -> Iterator[dict[str, str]]:
    """Yield the rows of a sheet as texts by the names in its first row."""
    sheet.reset_dimensions()
    rows = _in_limits(sheet.iter_rows(values_only=True))
    header = [str(cell or "").strip().casefold() for cell in next(rows, [])]
    for row in rows:
        cells = (shown(cell) if isinstance(cell, float) else str("" if cell is None else cell) for cell in row)
        yield dict(zip(header, (cell.strip() for cell in cells), strict=True))


def _first(row: Mapping[str, str], *names: str) -> str:
    return next((row[name] for name in names if row.get(name)), "")


def _number(code: str) -> Code:
    return float(code) if _NUMBER.match(code) else code


READERS: dict[str, tuple[Callable[[Path, str, str, Keys], Contents], str]] = {
    ".sav": (read_spss, "pyreadstat"),
    ".zsav": (read_spss, "pyreadstat"),
    ".csv": (read_csv, "csv"),
    ".xlsx": (read_xlsx, "openpyxl"),
    ".dtcb.xlsx": (read_codebook, "openpyxl"),
}


def limit(seconds: int, memory: int) -> None:
    """Limit this process: its processor time in seconds, and the bytes of memory on top of what it uses already."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limits.
    # Without a core size of 0, a process that exceeds its time would write a core dump.
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    # Only Linux reports the address space in use, and enforces a limit of it.
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory
    for kind, wanted in limits.items():
        soft, hard = resource.getrlimit(kind)
        if soft == resource.RLIM_INFINITY or soft > wanted:
            resource.setrlimit(kind, (wanted, hard))


def main(request: Mapping[str, Any]) -> None:
    """Print what :func:`datatile_provider.survey.read.read` asks for."""
    # Each invalid cell can cause a warning.
    warnings.simplefilter("ignore")
    path = Path(request["path"])
    try:
        read, module = READERS[request["format"]]
        # Imported before the limit is set: a library's memory depends on the machine.
        library(module)
        limit(request["seconds"], request["memory"])
        keys = Keys(request["database"], request["number"])
        contents = read(path, request["source"], request["key"], keys)
        keys.close()
        if not contents.survey.variables and not contents.survey.undescribed:
            raise UnreadableError("it has no variables")
        result: dict[str, Any] = contents.as_dict()
    except UnreadableError as error:
        result = {"unreadable": str(error)}
    except MemoryError:
        result = {"unreadable": "reading it takes too much memory"}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(sys.stdin.read()))
