"""A process with its descendants and its log, which ends as a whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import psutil


class NotStartedError(RuntimeError):
    """A process did not start, or ended early; the message tells where its log is, and its end."""


class Session:
    """
    A started process, its own session's leader.

    It holds every descendant, also those that make a process group of their own, as Airflow's tasks do.

    :param name: for messages.
    :param log: the file that gets what it prints, added to what is there.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, *, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self.started = time.time()
        with log.open("ab") as out:
            self._leader = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._leader.pid

    @property
    def running(self) -> bool:
        return self._leader.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return all that is alive in the session, the leader first."""
        self._leader.poll()
        return [p for p in psutil.process_iter() if _in_session(p, self.pid)]

    def processes_with(self, word: str) -> list[psutil.Process]:
        """Return all in the session whose command holds a word, the eldest first."""
        found = []
        for process in self.processes():
            # It may end at any moment.
            with contextlib.suppress(psutil.NoSuchProcess):
                if word in " ".join(process.cmdline()):
                    found.append((process.create_time(), process))
        return [process for _, process in sorted(found, key=itemgetter(0))]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the session."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Return the exit status of the leader once it has ended by itself."""
        return self._leader.wait(timeout)

    def failure(self, what: str) -> NotStartedError:
        """Return the error that says what went wrong here, with the end of the log."""
        end = f"ended with status {self._leader.poll()}" if not self.running else "is still running"
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
        return NotStartedError(f"{self.name} {what} and {end}. The end of its log {self.log}:\n{tail}")


def end(sessions: Iterable[Session], *, within: float = 5) -> None:
    """
    End all sessions at once: ask, then kill what is left.

    :param within: seconds that the processes have to end by themselves.
    """
    asked = list(sessions)
    for session in asked:
        if session.running:
            os.kill(session.pid, signal.SIGTERM)
    deadline = time.monotonic() + within
    while any(s.running for s in asked) and time.monotonic() < deadline:
        time.sleep(0.05)
    # A leader that has ended may have left others behind.
    left = [p for s in asked for p in s.processes()]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    for session in asked:
        session.wait(10)


def _in_session(process: psutil.Process, leader: int) -> bool:
    try:
        return os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
