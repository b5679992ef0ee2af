"""
Mutation test of the generator: remove one fix from a copy of the package, and check that the generator detects it.

Run it with ``python -m tests.reliability.undo``, or with the numbers of some fixes, such as ``5 14a``. ``--check`` only
checks that each fix can be removed from the present source. The exit status is 0 if at least three quarters of the
removed fixes are detected.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "datatile_provider"
TEST = "tests/reliability/test_generator.py::test_a_task_sends_once_or_fails_with_an_error"
EXAMPLES = 1500
#: The timeout for one fix, in seconds.
TIMEOUT = 90.0
#: The share of fixes that must be detected.
SHARE = 0.75


@dataclass(frozen=True)
class Change:
    """
    One change of the source that removes a fix, or a part of it.

    :param file: the file, relative to the package.
    :param old: a fragment of the present source that occurs exactly once in the file.
    :param new: the fragment without the fix.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Fix:
    """
    A fix of a reliability bug.

    :param bug: the bug, in the present tense.
    """

    number: str
    bug: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Result:
    """
    The result of the generator without a fix.

    :param rule: the violated rule; ``""`` if the generator has found no violation.
    :param source: whether the violation is of an explicit ``example`` or of a ``drawn`` plan.
    """

    rule: str
    source: str
    seconds: float


def fix(number: str, bug: str, *changes: tuple[str, str, str]) -> Fix:
    return Fix(number, bug, tuple(Change(*change) for change in changes))


STATES, PARSING, CLIENT = "api/states.py", "api/parsing.py", "api/client.py"
REJECTIONS, POLLING, RETRY = "api/rejections.py", "api/polling.py", "api/retry.py"
UPLOAD_STATE, ATTEMPT, DECORATOR = "operators/upload_state.py", "operators/attempt.py", "decorators/datatile.py"
FIRST_STEP, POLICY = "operators/first_step.py", "failure_policy.py"
HOOK, CONTENT, ASSETS = "hooks/connection.py", "hooks/content.py", "assets/datatile.py"

WITHOUT_SUCCESS_OF_REQUEST = (
    STATES,
    "found = [c for c in found if not c.is_one_of(_SUCCESS_OF_REQUEST)] or found",
    "found = list(found)",
)
LEAST_FINISHED = (STATES, 'min(found, key=lambda c: (_progress(c.state), -c.path.count(".")))', "found[0]")
RIVALS = (STATES, "rivals := [c.word for c in others if c.state is not claim.state]", "rivals := []")
SAME_SERVER = (HOOK, "if server in (None, settings.server.address):", "if True:")

FIXES = (
    fix(
        "1a",
        "an anonymous 'error' beside a message is the job's failure",
        (STATES, "return claim.layer is not value or bool(beside)", "return claim.layer is not value"),
    ),
    fix(
        "1b",
        "a success with errors beside it is a failure",
        (
            STATES,
            "    unclear = _ambiguity(",
            "    if claim.state is JobState.SUCCEEDED and responses.inner_error(value):\n"
            "        return Status(JobState.FAILED, claim.word, _text(claim.layer), claim.own)\n"
            "    unclear = _ambiguity(",
        ),
    ),
    fix(
        "1c",
        "one poll that may not be about the job is enough to send again",
        (ATTEMPT, "if job.state.failed and job.named:", "if job.state.failed:"),
        (
            ATTEMPT,
            "time.sleep(CONFIRM_PAUSE)\n                job = hook.get_job(job.id, server=server)",
            "pass",
        ),
    ),
    fix(
        "2a",
        "the success of an envelope is the job's",
        RIVALS,
        (STATES, "return holds_more or not (claim.own or enveloped or not beside)", "return False"),
        WITHOUT_SUCCESS_OF_REQUEST,
        LEAST_FINISHED,
    ),
    fix(
        "2b",
        "the first of several statuses is the job's, not the least finished one",
        WITHOUT_SUCCESS_OF_REQUEST,
        LEAST_FINISHED,
        RIVALS,
    ),
    fix("3", "another job's status is this one's", (STATES, "foreign = not own", "foreign = False")),
    fix(
        "4",
        "an upload's own status 'failed' is ignored",
        (PARSING, "failure := states.reports_failure(server, job_id, value)", 'failure := ""'),
    ),
    fix(
        "5",
        "a success before the last byte is sent again",
        (
            PARSING,
            "    if doubt:\n",
            "    if not whole_body_sent:\n"
            '        raise errors.ServerError("The server responded early", subject=str(upload))\n'
            "    if doubt:\n",
        ),
    ),
    fix(
        "6a",
        "a redirect after the last byte is a rejection",
        (
            REJECTIONS,
            "return _MOVED if status in (307, 308) or moved or not whole_body_sent else None",
            "return _MOVED",
        ),
    ),
    fix(
        "6b",
        "the job that a redirect leads to is not read",
        (PARSING, 'server.job_id_in(location) if accepted or response.status in (301, 302, 303) else ""', '""'),
    ),
    fix("7", "an interim response (102, 103) is the last one", (CLIENT, "if not 101 < found[1] < 200:", "if True:")),
    fix(
        "8a",
        "408 and 425 after the last byte are transient",
        (
            REJECTIONS,
            "    409: _DESTINATION_BUSY,\n",
            "    408: _ABORTED,\n    425: _ABORTED,\n    409: _DESTINATION_BUSY,\n",
        ),
    ),
    fix(
        "8b",
        "503 after the last byte is transient",
        (REJECTIONS, "if whole_body_sent:", "if whole_body_sent and status != 503:"),
    ),
    fix(
        "9",
        "a 2xx with an error inside is a rejection",
        (
            PARSING,
            "    if doubt:\n",
            "    if responses.inner_error(value):\n"
            '        raise errors.PermanentError("The server rejected the upload", subject=str(upload))\n'
            "    if doubt:\n",
        ),
    ),
    fix(
        "10a",
        "an attempt does not compare the record's server",
        (UPLOAD_STATE, 'for name in ("server", "action", "target")]', 'for name in ("action", "target")]'),
        SAME_SERVER,
    ),
    fix("10b", "a wait continues at the server that the connection points to now", SAME_SERVER),
    fix(
        "11",
        "the file's content is not compared",
        (CONTENT, "    if dataset.size != size:\n        return False\n", "    return True\n"),
    ),
    fix(
        "12",
        "a cleared task does not call its function again",
        (DECORATOR, "if to_compare_after is Cleared.NO:", "if to_compare_after:"),
    ),
    fix(
        "13a",
        "an attempt resumes a job, whatever the task is to upload now",
        (FIRST_STEP, "(Step.CHANGED, Step.CHANGED, Step.CHANGED)", "(Step.RESUME, Step.RESUME, Step.RESUME)"),
    ),
    fix(
        "13b",
        "an attempt that resumes a job writes its own file into the record",
        (
            ATTEMPT,
            "self._remember(lambda: self._state.advance(record.phase))",
            "from datatile_provider.hooks.dataset import dataset_of\n\n"
            "        self._task.find_dataset(self._context)\n"
            "        file = dataset_of(self._task.dataset)\n"
            '        now = replace(record.sent, size=file.size, version=file.version, sha256="")\n'
            "        self._remember(lambda: self._state.write(record.phase, record.text, now, record.job_id))",
        ),
    ),
    fix(
        "14a",
        "a clear with fewer retries is a retry",
        (FIRST_STEP, "return cls.NO if same and not possible else cls.UNSURE", "return cls.NO"),
    ),
    fix(
        "14b",
        "an append of unknown outcome is forgotten when the task becomes a reload",
        (ATTEMPT, "harmless = self._harmless and not differences", "harmless = self._harmless"),
    ),
    fix(
        "14c",
        "a record without its job's id is accepted",
        (UPLOAD_STATE, "if found.phase in _WITH_JOB:", "if False:"),
    ),
    fix(
        "15a",
        "an error after the acceptance lets Airflow retry",
        (POLICY, "Rule(_F.OUTSIDE, _A.YES, True, None,", "Rule(_F.OUTSIDE, _A.YES, None, None,"),
    ),
    fix(
        "15b",
        "an outlet event that cannot be described fails the task",
        (ASSETS, "logging.getLogger(__name__).error(", "raise\n        logging.getLogger(__name__).error("),
    ),
    fix(
        "16",
        "a connection that cannot be read ends a wait",
        (
            HOOK,
            "raise errors.ConnectionUnreadableError(",
            "raise\n            raise errors.ConnectionUnreadableError(",
        ),
    ),
    fix(
        "17a",
        "a wait pauses for as long as the server asks",
        (POLLING, "return min(retry_after, longest)", "return retry_after"),
    ),
    fix("17b", "there is no last attempt at the deadline", (RETRY, "if left <= 0:", "if left <= delay:")),
    fix(
        "18",
        "a poll that was sent before the deadline ends the wait",
        (POLLING, "if (now if sent is None else sent) >= self.deadline:", "if now >= self.deadline:"),
    ),
)


def mismatches(fixes: Iterable[Fix]) -> Iterator[str]:
    """Yield an error for each change whose fragment does not occur exactly once, or that breaks the syntax."""
    for fix in fixes:
        for change in fix.changes:
            text = (ROOT / PACKAGE / change.file).read_text()
            if (count := text.count(change.old)) != 1:
                yield f"{fix.number}: {change.file} contains this fragment {count} times, not once:\n{change.old}"
                continue
            try:
                ast.parse(text.replace(change.old, change.new))
            except SyntaxError as e:
                yield f"{fix.number}: without the fix, {change.file} has a syntax error: {e}"


def copy_without(fix: Fix, folder: Path) -> None:
    """Copy the package and the tests into a folder, without a fix."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (PACKAGE, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for change in fix.changes:
        file = folder / PACKAGE / change.file
        file.write_text(file.read_text().replace(change.old, change.new))


def run_generator(fix: Fix) -> Result:
    """
    Run the generator without a fix, until it finds a violation.

    :raises SystemExit: it failed for another reason.
    """
    with tempfile.TemporaryDirectory(prefix="undo-") as name:
        copy_without(fix, Path(name))
        env = {**os.environ, "PYTHONPATH": name, "GENERATOR_EXAMPLES": str(EXAMPLES), "GENERATOR_SHRINK": "0"}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-x", TEST]
        started = time.monotonic()
        try:
            ended = subprocess.run(
                command, cwd=name, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return Result("", "", time.monotonic() - started)
        seconds = time.monotonic() - started
        if ended.returncode == 0:
            return Result("", "", seconds)
        rule = re.search(r"^E +\S*ViolationError: ([^:\n]+)", ended.stdout, re.MULTILINE)
        if ended.returncode != 1 or not rule:
            raise SystemExit(f"{fix.number}: the generator failed\n{ended.stdout[-5000:]}{ended.stderr[-2000:]}")
        source = "example" if "explicit example" in ended.stdout else "drawn"
        return Result(rule[1], source, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.undo", description=__doc__)
    parser.add_argument("numbers", nargs="*", help="numbers of fixes; default, all")
    parser.add_argument("--check", action="store_true", help="only check that each fix can be removed")
    options = parser.parse_args()
    fixes = [fix for fix in FIXES if not options.numbers or fix.number in options.numbers]
    if unknown := set(options.numbers) - {fix.number for fix in FIXES}:
        raise SystemExit(f"There are no such fixes: {', '.join(sorted(unknown))}")
    # Before anything is run: if the source has changed, it is not clear what to remove.
    if found := list(mismatches(fixes)):
        raise SystemExit("\n".join(found))
    if options.check:
        return 0
    results = []
    for fix in fixes:
        result = run_generator(fix)
        results.append(result)
        text = f"detected: {result.rule} ({result.source})" if result.rule else "NOT DETECTED"
        print(f"{fix.number:<4} {fix.bug:<75} {result.seconds:>4.0f} s  {text}", flush=True)
    detected = sum(bool(result.rule) for result in results)
    print(f"{detected} of {len(results)} detected")
    return 0 if detected >= SHARE * len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
