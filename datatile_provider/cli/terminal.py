"""Lines for people on stderr, and questions to them. A server's texts cannot steer the terminal."""

from __future__ import annotations

import sys

from datatile_provider.cli.table import printed


def say(text: str = "") -> None:
    """Write lines to stderr."""
    for line in text.split("\n"):
        print(printed(line), file=sys.stderr, flush=True)


def ask(prompt: str) -> str:
    """Ask a person at the terminal, and return the line, without spaces around it; ``""`` at the end of the input."""
    *lines, last = prompt.split("\n")
    for line in lines:
        say(line)
    print(printed(last), file=sys.stderr, end="", flush=True)
    return sys.stdin.readline().strip()


def can_ask() -> bool:
    """Return whether a person is at the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()
