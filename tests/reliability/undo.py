"""
Undo each mend of the package once, in a copy of it, and look whether the generator finds that out.

By hand: ``python -m tests.reliability.undo``, or with the numbers of some mends, as ``5 14a``. The exit code is 0 when
at least three quarters are found.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "datatile_provider"
EXAMPLES = 1500
#: Seconds for one mend, at most.
TIMEOUT = 90.0
SHARE = 0.75


@dataclass(frozen=True)
class Change:
    """
    One line, or a few, that the mend brought.

    :param old: what stands in the file now, exactly once.
    :param new: what stands there without the mend.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mend:
    """
    What the package does right, since a hole was found.

    :param what: what it does without the mend.
    """

    number: str
    what: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Found:
    """
    What the generator said without a mend.

    :param rule: the rule that was broken; ``""`` when none was.
    :param by: whether a plan that stands in the test told it, or one that was drawn.
    """

    rule: str
    by: str
    seconds: float


def mend(number: str, what: str, *changes: tuple[str, str, str]) -> Mend:
    return Mend(number, what, tuple(Change(*change) for change in changes))


STATES, CONTRACT, CLIENT = "api/states.py", "api/contract.py", "api/client.py"
REJECTIONS, WAITING, RETRYING = "api/rejections.py", "api/polling.py", "api/retry.py"
MEMORY, OPERATOR, HOOK = "operators/upload_state.py", "operators/datatile.py", "hooks/datatile.py"
ASSETS = "assets/datatile.py"
CONTENT, DECORATOR = "hooks/content.py", "decorators/datatile.py"

MENDS = (
    mend(
        "1a",
        "an anonymous 'error' beside a message is the job's failure",
        (STATES, "return claim.layer is not value or bool(beside)", "return claim.layer is not value"),
    ),
    mend(
        "1b",
        "a success with errors beside it is a failure",
        (
            STATES,
            "    unclear = _doubt(server, claim, found, claims, value)\n",
            "    if claim.state is JobState.SUCCEEDED and answers.inner_error(value):\n"
            "        return Status(JobState.FAILED, claim.word, _text(claim.layer), claim.own)\n"
            "    unclear = _doubt(server, claim, found, claims, value)\n",
        ),
    ),
    mend(
        "1c",
        "one poll that need not be about the job is enough to send again",
        (
            OPERATOR,
            "if _has_failed(job) and job.named:",
            "if _has_failed(job):",
        ),
        (
            OPERATOR,
            "                time.sleep(CONFIRM_PAUSE)\n"
            "                job = hook.get_job(job.id, server=record.sent.server)\n",
            "                pass\n",
        ),
    ),
    mend(
        "2a",
        "the success of an envelope is the job's",
        (
            STATES,
            'return f"{says} and {rivals[0]!r}, and which of them is the job\'s status is not clear"',
            "pass",
        ),
        (
            STATES,
            "return holds_more or not (claim.own or enveloped or not beside)",
            "return False",
        ),
        (
            STATES,
            "    found = [c for c in found if not c.is_one_of(_SUCCESS_OF_REQUEST)] or found\n",
            "",
        ),
        (
            STATES,
            'claim = min(found, key=lambda c: (_progress(c.state), -c.path.count(".")))',
            "claim = found[0]",
        ),
    ),
    mend(
        "2b",
        "the first of several statuses is the job's, not the least finished one",
        (
            STATES,
            "    found = [c for c in found if not c.is_one_of(_SUCCESS_OF_REQUEST)] or found\n",
            "",
        ),
        (
            STATES,
            'claim = min(found, key=lambda c: (_progress(c.state), -c.path.count(".")))',
            "claim = found[0]",
        ),
        (
            STATES,
            "if rivals := [c.word for c in others if c.state is not claim.state]:",
            "if rivals := []:",
        ),
    ),
    mend(
        "3",
        "another job's status is this one's",
        (STATES, "        foreign = not own\n", "        foreign = False\n"),
    ),
    mend(
        "4",
        "an upload's own status 'failed' is ignored",
        (CONTRACT, "if failure := states.reports_failure(server, job_id, value):", 'if failure := "":'),
    ),
    mend(
        "5",
        "a success before the last byte is sent again",
        (
            CONTRACT,
            "    if doubt:\n",
            "    if not whole_body_sent:\n"
            '        raise errors.Passing(f"The {upload} was answered early")\n'
            "    if doubt:\n",
        ),
    ),
    mend(
        "6a",
        "a redirect after the last byte is a refusal",
        (
            REJECTIONS,
            "return _MOVED if status in (307, 308) or moved or not whole_body_sent else None",
            "return _MOVED",
        ),
    ),
    mend(
        "6b",
        "the job to that a redirect leads is not read",
        (
            CONTRACT,
            'job_id = server.job_id_in(location) if accepted or answer.status in (301, 302, 303) else ""',
            'job_id = ""',
        ),
    ),
    mend(
        "7",
        "an interim response (102, 103) is the last one",
        (CLIENT, "if not 101 < found[1] < 200:", "if True:"),
    ),
    mend(
        "8a",
        "408 and 425 after the last byte pass",
        (
            REJECTIONS,
            "    409: _BUSY,\n    413: _TOO_LARGE,",
            "    408: _BROKEN_OFF,\n    425: _BROKEN_OFF,\n    409: _BUSY,\n    413: _TOO_LARGE,",
        ),
    ),
    mend(
        "8b",
        "503 after the last byte passes",
        (REJECTIONS, "    if whole_body_sent:\n", "    if whole_body_sent and status != 503:\n"),
    ),
    mend(
        "9",
        "a 2xx with an error inside is a refusal",
        (
            CONTRACT,
            "    if doubt:\n",
            "    if answers.inner_error(value):\n"
            '        raise errors.Refused(f"The {upload} was refused")\n'
            "    if doubt:\n",
        ),
    ),
    mend(
        "10a",
        "an attempt does not look at the record's server",
        (
            OPERATOR,
            '            ("server", before.server, now.server),\n',
            "",
        ),
        (
            MEMORY,
            "return (self.server, self.action, self.target) == (other.server, other.action, other.target)",
            "return (self.action, self.target) == (other.action, other.target)",
        ),
        (HOOK, "if server in (None, settings.server.address):", "if True:"),
    ),
    mend(
        "10b",
        "a wait goes on at the server that the connection leads to now",
        (HOOK, "if server in (None, settings.server.address):", "if True:"),
    ),
    mend(
        "11",
        "the file's content is not compared",
        (CONTENT, "    if dataset.size != size:\n        return False\n", "    return True\n"),
    ),
    mend(
        "12",
        "a cleared task does not ask its function again",
        (DECORATOR, "return None if cleared is Cleared.NO else self._ask(context)", "return None"),
    ),
    mend(
        "13a",
        "an attempt takes up a job, whatever the task is about now",
        (MEMORY, "return Step.CHANGED if differs else Step.FOLLOW", "return Step.FOLLOW"),
        (
            MEMORY,
            "        if not differs:\n            return Step.FOLLOW\n",
            "        if True:\n            return Step.FOLLOW\n",
        ),
    ),
    mend(
        "13b",
        "an attempt that takes up a job writes its own file into the record",
        (
            OPERATOR,
            "        self._remember(lambda: memory.advance(record.phase))\n",
            "        from datatile_provider.hooks.dataset import dataset_of\n\n"
            '        file = dataset_of(self._ask(context) if hasattr(self, "_ask") else self.dataset)\n'
            '        now = replace(record.sent, size=file.size, version=file.version, sha256="")\n'
            "        self._remember(lambda: memory.write(record.phase, record.text, now, record.job_id))\n",
        ),
    ),
    mend(
        "14a",
        "a clear with fewer retries is a retry",
        (MEMORY, "return cls.NO if same and not possible else cls.UNSURE", "return cls.NO"),
    ),
    mend(
        "14b",
        "an append of unknown outcome is forgotten when the task becomes a reload",
        (OPERATOR, "again = now.same_place(before) and self._may_send_again", "again = self._may_send_again"),
    ),
    mend(
        "14c",
        "a record without its job's id is believed",
        (MEMORY, "if found.phase in _WITH_JOB:", "if False:"),
    ),
    mend(
        "15a",
        "what ends an attempt after the acceptance lets Airflow retry",
        (OPERATOR, "if memory.lasts or not job_id or not _looks_like_a_retry(e):", "if True:"),
    ),
    mend(
        "15b",
        "an outlet that can't be described fails the task",
        (
            ASSETS,
            'logging.getLogger(__name__).error("The events of the task\'s outlets could not be described: %s", e)\n',
            "raise\n",
        ),
    ),
    mend(
        "16",
        "a connection that can't be read ends a wait",
        (
            HOOK,
            "            raise self._unreadable(e) from e\n        return self._at(server, found)\n\n    async",
            "            raise\n        return self._at(server, found)\n\n    async",
        ),
        (
            HOOK,
            "        except Exception as e:  # likewise\n            raise self._unreadable(e) from e",
            "        except Exception as e:  # likewise\n            raise",
        ),
    ),
    mend(
        "17a",
        "a wait pauses for as long as the server likes",
        (WAITING, "return min(retry_after, longest)", "return retry_after"),
    ),
    mend(
        "17b",
        "there is no last attempt at the deadline",
        (RETRYING, "if left <= 0:", "if left <= delay:"),
    ),
    mend(
        "18",
        "a poll that was sent before the deadline ends the wait",
        (WAITING, "if (now if sent is None else sent) >= self.deadline:", "if now >= self.deadline:"),
    ),
)


def redact(mend: Mend, folder: Path) -> None:
    """
    Make a copy of the package without a mend.

    :raises SystemExit: the package has changed, so that it is not clear what to undo.
    """
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    for change in mend.changes:
        file = folder / PACKAGE / change.file
        text = file.read_text()
        if (times := text.count(change.old)) != 1:
            raise SystemExit(f"{mend.number}: this stands {times} times in {change.file}, not once:\n{change.old}")
        file.write_text(text.replace(change.old, change.new))


def poll(mend: Mend) -> Found:
    """Run the generator without a mend, until it finds something."""
    with tempfile.TemporaryDirectory(prefix="undo-") as name:
        folder = Path(name)
        redact(mend, folder)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        env = {**os.environ, "PYTHONPATH": name, "GENERATOR_EXAMPLES": str(EXAMPLES), "GENERATOR_SHRINK": "0"}
        began = time.monotonic()
        run = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-q",
            "-x",
            "tests/reliability/test_generator.py::test_whatever_is_said_a_task_sends_once_or_fails_loudly",
        ]
        try:
            ended = subprocess.run(
                run, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return Found("", "", time.monotonic() - began)
        seconds = time.monotonic() - began
        if ended.returncode == 0:
            return Found("", "", seconds)
        rule = re.search(r"^E +\S*ViolationError: ([^:\n]+)", ended.stdout, re.MULTILINE)
        if ended.returncode != 1 or not rule:
            raise SystemExit(f"{mend.number}: the generator broke off\n{ended.stdout[-5000:]}{ended.stderr[-2000:]}")
        by = "example" if "explicit example" in ended.stdout else "drawn"
        return Found(rule[1], by, seconds)


def main(numbers: list[str]) -> int:
    chosen = [mend for mend in MENDS if not numbers or mend.number in numbers]
    if unknown := set(numbers) - {mend.number for mend in MENDS}:
        raise SystemExit(f"There are no such mends: {', '.join(sorted(unknown))}")
    # All of them first: a mend that can't be undone is to be known at once.
    for mend in chosen:
        with tempfile.TemporaryDirectory(prefix="undo-") as name:
            redact(mend, Path(name))
    results = []
    for mend in chosen:
        found = poll(mend)
        results.append(found)
        message = f"found: {found.rule} ({found.by})" if found.rule else "NOT FOUND"
        print(f"{mend.number:<4} {mend.what:<75} {found.seconds:>4.0f} s  {message}", flush=True)
    hits = sum(bool(found.rule) for found in results)
    print(f"{hits} of {len(results)} found")
    return 0 if hits >= SHARE * len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
