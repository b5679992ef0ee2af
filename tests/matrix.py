"""
``make test-matrix``: run the tests on each version of Airflow, each in its own environment, and print a table.

The exit status is 0 only if all pass. The table holds the last run of each version. If all versions pass, it is
written into the docs.
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
UV = Path(sys.executable).parent / "uv"
DOCS = ROOT / "docs" / "compatibility.md"
#: The text above the table in the docs. The table is at the end of the page.
HEADING = "## What was tested\n\n`make test-matrix` tests each version, and writes its table here when all pass."
#: The Python version that each Airflow is tested with. Together these are all that the package supports. ``next`` is
#: the newest pre-release of Airflow. It must pass like the others.
PYTHONS = {
    "2.11": "3.10",
    "3.0": "3.11",
    "3.1": "3.12",
    "3.2": "3.13",
    "3.3": "3.13",
    "3.3-py3.14": "3.14",
    "next": "3.13",
}
#: Skipped where there is no such Python. ``uv python install`` and ``pyenv install`` get one.
OPTIONAL = ("3.3-py3.14",)
#: Versions with tests of real processes too: the tracking study, the questions, the repeats, and the tests for
#: Airflow 2 only.
STUDIED = ("2.11", "3.1", "3.2", "3.3", "next")
RUNS = {
    "tests": ("--numprocesses", "3", "--dist", "loadfile", "-m", "not system and not ui and not bench and not cluster"),
    "study": (
        "tests/system/test_tracking_study.py",
        "tests/system/test_answers.py",
        "tests/system/test_airflow2.py",
        "tests/system/test_repeats_airflow.py::test_a_clear_another_run_and_another_dag_end_loud",
        "tests/ui/test_connection_form_airflow2.py",
    ),
}
#: Seconds that one run of pytest may take.
LIMIT = 1200.0
HEADINGS = ("Airflow", "Python", "passed", "failed", "about other versions", "with real processes", "seconds")


class Result(NamedTuple):
    """The result of one run of pytest; ``failed`` includes errors."""

    airflow: str
    passed: int
    failed: int
    deselected: int
    seconds: float


def main(versions: list[str]) -> int:
    if unknown := set(versions) - set(PYTHONS):
        print(f"Unknown versions of Airflow: {', '.join(unknown)}. Known are: {', '.join(PYTHONS)}.")
        return 2
    FOLDER.mkdir(exist_ok=True)
    skipped = {version for version in OPTIONAL if version not in versions and not has_python(version)}
    for version in skipped:
        print(f"Airflow {version}: skipped, there is no Python {PYTHONS[version]}", flush=True)
    wanted = [version for version in versions or PYTHONS if version not in skipped]
    for version in wanted:
        for name in RUNS:
            report(version, name).unlink(missing_ok=True)
        try:
            python = environment(version)
            for name in runs(version):
                run(python, version, name)
        except subprocess.SubprocessError as e:
            print(f"Airflow {version}: {e}", flush=True)
    rows = {version: row(version) for version in PYTHONS}
    cells = [HEADINGS, ("---",) * len(HEADINGS), *rows.values()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    print(f"\n{table}", flush=True)
    passed = {version for version in PYTHONS if all(found and not found.failed for found in results(version))}
    if passed | {version for version in skipped if not any(results(version))} == set(PYTHONS):
        before = DOCS.read_text("utf-8").partition(HEADING)[0]
        DOCS.write_text(f"{before}{HEADING}\n\n{table}\n", "utf-8")
    return 0 if passed >= set(wanted) else 1


def runs(version: str) -> list[str]:
    return ["tests", "study"] if version in STUDIED else ["tests"]


def report(version: str, name: str) -> Path:
    return FOLDER / f"{version}-{name}.xml"


def row(version: str) -> tuple[str, ...]:
    """Return the row of a version's last run."""
    tests, *studies = results(version)
    if not tests:
        return (version, PYTHONS[version], "not run", *[""] * (len(HEADINGS) - 3))
    study = studies[0] if studies else None
    study_result = "" if not studies else "not run" if not study else f"{study.passed} passed, {study.failed} failed"
    seconds = sum(found.seconds for found in (tests, study) if found)
    counts = (str(tests.passed), str(tests.failed), str(tests.deselected))
    return (tests.airflow, PYTHONS[version], *counts, study_result, f"{seconds:.0f}")


def results(version: str) -> list[Result | None]:
    return [result(report(version, name)) for name in runs(version)]


def environment(version: str) -> Path:
    """
    Make the environment of a version, unless it exists and is up to date, and return its interpreter.

    :raises subprocess.SubprocessError: it cannot be made.
    """
    airflow = version.partition("-")[0]
    constraints = ROOT / "constraints" / f"airflow-{airflow}.txt"
    folder = FOLDER / f"airflow-{airflow}-python-{PYTHONS[version]}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    sources = (constraints, ROOT / "pyproject.toml")
    if ready.exists() and ready.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return python
    print(f"Airflow {version}: making its environment with Python {PYTHONS[version]}", flush=True)
    limits = ("--constraint", constraints, "--build-constraint", constraints)
    packages = ("--group", "dev", "--group", "docs", "--editable", ".[sandbox]")
    for command in (
        (UV, "venv", "--quiet", "--clear", "--python", PYTHONS[version], folder),
        (UV, "pip", "install", "--quiet", "--python", python, "--compile-bytecode", *limits, *packages),
    ):
        subprocess.run(command, check=True, cwd=ROOT, env=uv_environment(), timeout=LIMIT)
    ready.touch()
    return python


def has_python(version: str) -> bool:
    command = (UV, "python", "find", "--quiet", PYTHONS[version])
    return subprocess.run(command, capture_output=True, cwd=ROOT, env=uv_environment()).returncode == 0


def uv_environment() -> dict[str, str]:
    """Return environment variables with which uv finds the interpreters of pyenv."""
    if not shutil.which("pyenv"):
        return dict(os.environ)
    # pyenv only shows the interpreters that this variable lists.
    found = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout
    return {**os.environ, "PYENV_VERSION": ":".join(found.split())}


def run(python: Path, version: str, name: str) -> None:
    """
    Run pytest, which writes a report.

    :raises subprocess.SubprocessError: it did not end in time, or ended without a report.
    """
    log = FOLDER / f"{version}-{name}.log"
    print(f"Airflow {version}: running its {name}, into {log.relative_to(ROOT)}", flush=True)
    with log.open("wb") as out:
        command = [str(python), "-m", "pytest", "--junitxml", str(report(version, name)), *RUNS[name]]
        # Kill a hanging run with all its child processes.
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
    """Return the result in a report; None if there is no report."""
    if not report.exists():
        return None
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    properties = {found.get("name"): found.get("value", "") for found in suite.iter("property")}
    tests, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    # A run that ended during collection has neither property.
    deselected = int(properties.get("not for this airflow", 0)) + skipped
    return Result(
        properties.get("airflow", "?"), tests - failed - skipped, failed, deselected, float(suite.get("time", 0))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
