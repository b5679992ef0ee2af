"""Lines for people on stderr, and questions to them. A server's texts cannot steer the terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

from datatile_provider.cli.table import printed


@contextlib.contextmanager
def logs_on_stderr() -> Iterator[TextIO]:
    """Send what Airflow logs to stderr, as stdout is for the result alone; yield stdout."""
    stdout = sys.stdout
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.StreamHandler)]
    # A handler of Airflow 2 has no stream of its own: it follows sys.stdout.
    moved = [handler for handler in handlers if vars(handler).get("stream") is stdout]
    for handler in moved:
        handler.setStream(sys.stderr)
    try:
        # Airflow sets up its log when it is imported, which may be only now.
        with contextlib.redirect_stdout(sys.stderr):
            yield stdout
    finally:
        for handler in moved:
            handler.setStream(stdout)


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
