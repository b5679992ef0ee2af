"""A process with its descendants and its log, which can be ended as a whole."""

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
    """A process did not start, or ended early; the message holds the path of its log, and its last lines."""


class Session:
    """
    A running process, which is the leader of its own session.

    The session contains every descendant, including those with their own process group, such as Airflow's tasks.

    :param name: for messages.
    :param log: the file that its output is appended to.
    :param cwd: its working folder, by default that of this process.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, env: Mapping[str, str], cwd: Path | None = None
    ) -> None:
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
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._leader.pid

    @property
    def running(self) -> bool:
        return self._leader.poll() is None

    def processes(self, facts: Sequence[str] = ()) -> list[psutil.Process]:
        """
        Return all running processes of the session, the leader first.

        :param facts: what each one's ``info`` shall hold.
        """
        self._leader.poll()
        return [p for p in psutil.process_iter(list(facts) or None) if _in_session(p, self.pid)]

    def processes_with(self, word: str) -> list[psutil.Process]:
        """Return all processes of the session whose command line contains a word, oldest first."""
        found = []
        for process in self.processes():
            # A process may end at any moment.
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
        """Wait until the leader has ended, and return its exit status."""
        return self._leader.wait(timeout)

    def failure(self, what: str) -> NotStartedError:
        """Return an error with a description and the last lines of the log."""
        end = f"ended with status {self._leader.poll()}" if not self.running else "is still running"
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
        return NotStartedError(f"{self.name} {what} and {end}. The end of its log {self.log}:\n{tail}")


def end(sessions: Iterable[Session], *, within: float = 5) -> None:
    """
    End all sessions: terminate their leaders, then kill the remaining processes.

    :param within: seconds that the leaders have to end by themselves.
    """
    terminated = list(sessions)
    for session in terminated:
        if session.running:
            os.kill(session.pid, signal.SIGTERM)
    deadline = time.monotonic() + within
    while any(s.running for s in terminated) and time.monotonic() < deadline:
        time.sleep(0.05)
    # A leader that has ended may have left descendants running.
    remaining = [p for s in terminated for p in s.processes()]
    for process in remaining:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(remaining, timeout=10)
    for session in terminated:
        session.wait(10)


def _in_session(process: psutil.Process, leader: int) -> bool:
    try:
        return os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
