"""
Reads an uploaded survey file: how many rows, which variables.

Run as a script, in a process of its own, so that a large file does not hold up the server, a damaged one
cannot take the server down, and reading can be stopped at any moment. It prints one line of JSON.
"""

from __future__ import annotations

import csv
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

Contents = tuple[int, list[str]]


# A workbook is a zip of XML parts, each of which may be missing, cut short or malformed.
BROKEN_WORKBOOK = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(LookupError, ValueError, TypeError, AttributeError, SyntaxError),
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
        # All of the file is parsed, but one column is kept: memory stays small.
        columns, _ = pyreadstat.read_sav(
            path, usecols=variables[:1], output_format="dict", disable_datetime_conversion=True
        )
    except (ReadstatError, UnicodeError) as error:
        raise Unreadable(f"it is damaged or cut short ({error})") from error
    return (len(columns[variables[0]]) if variables else 0), variables


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
    except ImportError:
        raise Unreadable(
            "reading Excel files needs openpyxl: pip install 'airflow-provider-datatile[sandbox]'"
        ) from None
    try:
        with path.open("rb") as file:
            sheet = load_workbook(file, read_only=True, data_only=True).worksheets[0]
            lines = (line for line in sheet.iter_rows(values_only=True) if any(v is not None for v in line))
            variables = ["" if name is None else str(name) for name in next(lines, ())]
            while variables and not variables[-1]:
                variables.pop()
            rows = sum(1 for _ in lines)
    except BROKEN_WORKBOOK as error:
        raise Unreadable(f"it is not an Excel workbook, or damaged ({error})") from error
    return rows, variables


READERS: dict[str, Callable[[Path], Contents]] = {
    ".sav": read_spss,
    ".zsav": read_spss,
    ".csv": read_csv,
    ".xlsx": read_xlsx,
}


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


def main(arguments: Sequence[str]) -> None:
    """Read the file ``arguments[0]``, uploaded as ``arguments[1]``."""
    try:
        rows, variables = read(Path(arguments[0]), arguments[1])
        print(json.dumps({"rows": rows, "variables": variables}))
    except Unreadable as error:
        print(json.dumps({"reason": str(error)}))


if __name__ == "__main__":
    main(sys.argv[1:])
