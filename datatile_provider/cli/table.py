"""Tables for people on stderr, with colours only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

#: Columns of a table without a terminal, such as in a file, unless the environment variable COLUMNS says otherwise.
_WIDTH = 160

Cell = str | tuple[str, str]


def show(header: Sequence[str], rows: Iterable[Sequence[Cell]], notes: Iterable[str] = ()) -> None:
    """
    Print a table and notes below it.

    :param header: the names of the columns.
    :param rows: the cells; a cell is a text, or a text with its style.
    :param notes: sentences.
    """
    fits = sys.stderr.isatty() or "COLUMNS" in os.environ
    console = Console(stderr=True, highlight=False, width=None if fits else _WIDTH)
    table = Table(*(Column(name, overflow="fold") for name in header))
    for row in rows:
        table.add_row(*(Text(printed(c)) if isinstance(c, str) else Text(printed(c[0]), c[1]) for c in row))
    console.print(table)
    for note in notes:
        console.print(Text(printed(note)))


def printed(text: str) -> str:
    """Return a text without what a terminal would act on, and without what cannot be encoded."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain.encode("utf-8", "replace").decode("utf-8")
