"""The code blocks of the docs' pages, and a shell that runs them."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

_MARK = re.compile(r"<!-- (file|not run): (.+) -->\s*")
_SERVER = "python -m datatile_provider.sandbox"
# The commands that set up an environment do nothing: the tests already run in one.
_PRELUDE = """
pip() { :; }
make() { :; }
python3() { test "$*" = "-m venv venv" && mkdir -p venv/bin && : >venv/bin/activate; }
"""


@dataclass(frozen=True)
class Block:
    """
    A fenced block of a page.

    :param language: the language of the fence.
    :param text: its content.
    :param line: the line it starts on.
    :param file: the file that the page says to save it as.
    :param not_run: why it is not run, if so.
    """

    language: str
    text: str
    line: int
    file: str = ""
    not_run: str = ""


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's code blocks in order, without Sphinx directives."""
    before = ""
    for token in tokens(page):
        if token.type in ("fence", "code_block") and not token.info.startswith("{"):
            mark = _MARK.fullmatch(before)
            kind, value = mark.groups() if mark else ("", "")
            line = token.map[0] + 1 if token.map else 0
            yield Block(
                token.info,
                token.content,
                line,
                file=value if kind == "file" else "",
                not_run=value if kind == "not run" else "",
            )
        before = token.content if token.type == "html_block" else ""


def texts(page: Path, kind: str) -> list[str]:
    """Return the Markdown of each element of a kind, such as ``heading`` or ``td``."""
    found = tokens(page)
    return [inner.content for opening, inner in itertools.pairwise(found) if opening.type == f"{kind}_open"]


class Shell:
    """
    A reader's terminals: variables and the working directory carry over from block to block.

    :param home: the folder that it starts in.
    :param env: the environment that it starts with.
    """

    def __init__(self, home: Path, env: dict[str, str]) -> None:
        self._state = home / ".state"
        self._env = {**env, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}
        self._servers: list[subprocess.Popen[str]] = []
        self.folder = home
        self.printed = ""

    def run(self, text: str) -> None:
        """Run a block. If its last line starts a sandbox, that keeps running during the next blocks."""
        *lines, last = text.strip().splitlines()
        if last.startswith(_SERVER):
            self._run("\n".join(lines))
            self._serve(last)
        else:
            self._run(text)

    def _run(self, text: str) -> None:
        restore = f"source {self._state}\n" if self._state.exists() else ""
        script = f"{restore}{_PRELUDE}\n{text}\nexport -p >{self._state}\npwd >&3"
        read, write = os.pipe()
        with os.fdopen(read) as working_directory:
            process = self._start(["bash", "-euo", "pipefail", "-c", f"exec 3>&{write}\n{script}"], pass_fds=(write,))
            os.close(write)
            try:
                output, _ = process.communicate(timeout=150)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            assert process.returncode == 0, f"{text}\n{output}"
            self.folder = Path(working_directory.read().strip())
        self.printed += output

    def _serve(self, command: str) -> None:
        process = self._start(["bash", "-c", f"exec {command}"])
        self._servers.append(process)
        assert process.stdout
        greeting = next((line for line in process.stdout if line.startswith("DATATILE sandbox: ")), "")
        assert greeting, f"{command} did not start"
        # Keep reading, so that the process does not block on a full pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()

    def _start(self, command: list[str], pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            pass_fds=pass_fds,
        )

    def close(self) -> None:
        """Stop the servers."""
        for process in self._servers:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)
