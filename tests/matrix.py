"""
``make test-matrix``: the tests on each Airflow, in an environment of its own, and a table of what came of them.

It ends with status 0 only if all passed. The table is of each version's last run; when all are green, it goes into
the docs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".matrix"
DOCS = ROOT / "docs" / "compatibility.md"
#: What stands above the table in the docs; below it there is nothing.
HEADING = "## What was tested\n\n`make test-matrix` tests each version, and writes its table here when all pass."
#: The Python that each Airflow is tested with: together, all that the package supports.
PYTHONS = {"2.11": "3.10", "3.0": "3.11", "3.1": "3.12", "3.2": "3.13", "3.3": "3.13"}
#: Where the tracking study is run by real processes too, and what else there is of Airflow 2's own.
STUDIED = ("2.11", "3.3")
RUNS = {
    "tests": ("-m", "not system and not ui and not bench"),
    "study": (
        "tests/system/test_tracking_study.py",
        "tests/system/test_airflow2.py",
        "tests/ui/test_connection_form_airflow2.py",
    ),
}
#: Seconds that one run of pytest may take.
LIMIT = 1200.0
HEADS = ("Airflow", "Python", "passed", "failed", "about other versions", "with real processes", "seconds")


class Result(NamedTuple):
    """What came of one run of pytest; ``failed`` counts errors too."""

    airflow: str
    passed: int
    failed: int
    left_out: int
    seconds: float


def main(versions: list[str]) -> int:
    if unknown := set(versions) - set(PYTHONS):
        print(f"There is no Airflow {', '.join(unknown)} to test on, but {', '.join(PYTHONS)}.")
        return 2
    FOLDER.mkdir(exist_ok=True)
    for version in versions or PYTHONS:
        for name in RUNS:
            report(version, name).unlink(missing_ok=True)
        try:
            python = environment(version)
            for name in runs(version):
                run(python, version, name)
        except subprocess.SubprocessError as e:
            print(f"Airflow {version}: {e}", flush=True)
    rows = {version: row(version) for version in PYTHONS}
    cells = [HEADS, ("---",) * len(HEADS), *rows.values()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    print(f"\n{table}", flush=True)
    green = {version for version in PYTHONS if all(found and not found.failed for found in results(version))}
    if green == set(PYTHONS):
        before = DOCS.read_text("utf-8").partition(HEADING)[0]
        DOCS.write_text(f"{before}{HEADING}\n\n{table}\n", "utf-8")
    return 0 if green >= set(versions or PYTHONS) else 1


def runs(version: str) -> list[str]:
    return ["tests", "study"] if version in STUDIED else ["tests"]


def report(version: str, name: str) -> Path:
    return FOLDER / f"{version}-{name}.xml"


def row(version: str) -> tuple[str, ...]:
    """Return a version's row, of its last run."""
    tests, *studies = results(version)
    if not tests:
        return (version, PYTHONS[version], "not run", *[""] * (len(HEADS) - 3))
    study = studies[0] if studies else None
    studied = "" if not studies else "not run" if not study else f"{study.passed} passed, {study.failed} failed"
    took = sum(found.seconds for found in (tests, study) if found)
    counts = (str(tests.passed), str(tests.failed), str(tests.left_out))
    return (tests.airflow, PYTHONS[version], *counts, studied, f"{took:.0f}")


def results(version: str) -> list[Result | None]:
    return [result(report(version, name)) for name in runs(version)]


def environment(version: str) -> Path:
    """
    Make the environment of a version, unless it is there and up to date, and return its interpreter.

    :raises subprocess.SubprocessError: it can't be made.
    """
    constraints = ROOT / "constraints" / f"airflow-{version}.txt"
    folder = FOLDER / f"airflow-{version}-python-{PYTHONS[version]}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    sources = (constraints, ROOT / "pyproject.toml")
    if ready.exists() and ready.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return python
    uv = str(Path(sys.executable).parent / "uv")
    env = dict(os.environ)
    if shutil.which("pyenv"):
        # pyenv hides the interpreters that nobody asked it for.
        found = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout
        env["PYENV_VERSION"] = ":".join(found.split())
    print(f"Airflow {version}: making its environment with Python {PYTHONS[version]}", flush=True)
    limits = ("--constraint", constraints, "--build-constraint", constraints)
    wanted = ("--group", "dev", "--group", "docs", "--editable", ".[sandbox]")
    for command in (
        (uv, "venv", "--quiet", "--clear", "--python", PYTHONS[version], folder),
        (uv, "pip", "install", "--quiet", "--python", python, "--compile-bytecode", *limits, *wanted),
    ):
        subprocess.run(command, check=True, cwd=ROOT, env=env, timeout=LIMIT)
    ready.touch()
    return python


def run(python: Path, version: str, name: str) -> None:
    """
    Run pytest, and leave its report.

    :raises subprocess.SubprocessError: it did not end in time, or ended before it could tell.
    """
    log = FOLDER / f"{version}-{name}.log"
    print(f"Airflow {version}: running its {name}, into {log.relative_to(ROOT)}", flush=True)
    with log.open("wb") as out:
        command = (python, "-m", "pytest", "--junitxml", report(version, name), *RUNS[name])
        # A run that hangs ends with all that it has started.
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(LIMIT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
    if not report(version, name).exists():
        raise subprocess.SubprocessError(f"pytest ended with status {process.returncode}; see {log}")


def result(report: Path) -> Result | None:
    """Return what a report tells; None if there is none."""
    if not report.exists():
        return None
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    reported = {found.get("name"): found.get("value", "") for found in suite.iter("property")}
    tests, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    # A run that was broken off while it collected tells neither.
    left_out = int(reported.get("not for this airflow", 0)) + skipped
    return Result(reported.get("airflow", "?"), tests - failed - skipped, failed, left_out, float(suite.get("time", 0)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
