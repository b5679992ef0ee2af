"""Output for people: plain lines and tables on stderr, in colours only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = {
    **dict.fromkeys(("ok", "confirmed"), "green"),
    "failed": "bold red",
    "differs: set this": "bold yellow",
    "could not be seen": "dim",
}
#: Columns of a table that is not written to a terminal.
_WIDTH = 120


class Output:
    """Writes to stderr. Nothing is read as markup, as it may be a server's text."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH

    def line(self, text: str = "") -> None:
        """Write a text, without breaking its lines."""
        self._console.print(Text(_printable(text)), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table. A cell that is an outcome gets its colour."""
        table = Table(*columns, show_edge=False, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(_printable(cell), style=_STYLES.get(cell, "")) for cell in row))
        self._console.print(table)

    def ask(self, prompt: str) -> str:
        """Ask a person at the terminal, and return the line."""
        self._console.print(Text(_printable(prompt)), soft_wrap=True, end="")
        return sys.stdin.readline().strip()


def can_ask() -> bool:
    """Return whether a person is at the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _printable(text: str) -> str:
    """Return a text without the control characters that steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
