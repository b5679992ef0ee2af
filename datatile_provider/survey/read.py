"""Reads survey files, each in a process of its own, into one description."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

from datatile_provider.api.errors import SurveyUnreadableError
from datatile_provider.survey.model import Contents

FORMATS = (".sav", ".zsav", ".csv", ".xlsx")
#: The suffix of a codebook, which is an Excel file too (documented).
CODEBOOK = ".dtcb.xlsx"
#: Seconds of processor time for a small file, and for each further MB.
SECONDS, SECONDS_A_MB = 15, 5
#: Bytes of memory. A chunk takes about 300 MB, and long texts take more.
MEMORY = 3 * 2**30
_MAX_REASON = 300


def read(path: Path, source: str, *, key: str = "", database: Path, number: int = 0) -> Contents:
    """
    Return the contents of a survey file.

    :param path: the file. Its suffix is its format: ``.sav``, ``.zsav``, ``.csv`` or ``.xlsx``, or
        ``.dtcb.xlsx`` for a codebook.
    :param source: the file's name, for messages.
    :param key: the variable that identifies an interview; ``""`` for none.
    :param database: where the keys go: the file of an SQLite database, which is made if it does not exist.
    :param number: by which the file's keys are found in the database.
    :raises SurveyUnreadableError: the file is missing, damaged, or takes too much time or memory.
    """
    suffix = CODEBOOK if path.name.lower().endswith(CODEBOOK) else PurePath(path).suffix.lower()
    if suffix not in (*FORMATS, CODEBOOK):
        raise _unreadable(source, f"its suffix is not one of {', '.join(FORMATS)}")
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise _unreadable(source, "it is not a file")
        path.open("rb").close()
    except OSError as e:
        raise _unreadable(source, e.strerror or str(e)) from None
    if not size:
        raise _unreadable(source, "it is empty")
    seconds = SECONDS + SECONDS_A_MB * size // 2**20
    request = {
        **{"path": str(path), "source": source, "key": key, "database": str(database), "number": number},
        **{"format": suffix, "seconds": seconds, "memory": MEMORY},
    }
    return Contents.of(_run(request, source, seconds))


def _run(request: dict[str, Any], source: str, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "datatile_provider.survey.reader"]
    try:
        # The process ends by its limit of processor time, unless it is blocked.
        done = subprocess.run(  # noqa: S603  # our own module
            command, input=json.dumps(request), capture_output=True, text=True, timeout=4 * seconds + 60
        )
    except subprocess.TimeoutExpired:
        raise _unreadable(source, "reading it takes too long") from None
    if done.returncode < 0:
        # By SIGXCPU, or by SIGKILL where the system has no memory left.
        reason = "reading it takes too long, too much memory, or crashes the reader"
        raise _unreadable(source, f"{reason} (signal {-done.returncode})")
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        raise _unreadable(source, f"the reader has failed ({last})") from None
    if "unreadable" in found:
        raise _unreadable(source, found["unreadable"])
    return found


def _unreadable(source: str, reason: str) -> SurveyUnreadableError:
    if len(reason) > _MAX_REASON:
        reason = f"{reason[:_MAX_REASON]}…"
    return SurveyUnreadableError(
        f"The survey can't be read: {reason}",
        subject=f"check of {source!r}",
        hint="Open it in the program that made it, and export it again.",
    )
