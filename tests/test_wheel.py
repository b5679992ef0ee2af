"""The wheel and the sdist. The wheel runs the demo's DAG in an environment without the sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from datatile_provider import __version__

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[1]
RESPONDENTS = 944

# Run by the new environment's interpreter, in a folder that holds only the example DAGs.
STUDY = """
import json, subprocess, sys
import datatile_provider
from datatile_provider.sandbox import Sandbox

# So long that a job has not ended at a sensor's first poll, so that the sensor defers.
with Sandbox(processing_seconds=5) as sandbox:
    for command in (
        ["db", "migrate"],
        ["connections", "add", "datatile_default", "--conn-json", json.dumps(sandbox.connection)],
        ["variables", "set", "datatile_folder", sandbox.folder],
        ["dags", "test", "datatile_tracking_study"],
    ):
        done = subprocess.run([sys.executable, "-m", "airflow", *command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-5000:] + done.stderr[-5000:])
    print(json.dumps({
        "package": datatile_provider.__file__,
        "rows": [database["rows"] for database in sandbox.databases()],
        "jobs": [job["state"] for job in sandbox.jobs()],
    }))
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder that ``make dist`` fills, built from the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def python(dist, tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel and its dependencies, at the tested versions."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True, timeout=60)
    python = Path(folder, "bin", "python")
    (wheel,) = dist.glob("*.whl")
    pinned = ["--constraint", str(ROOT / "constraints" / "airflow-3.3.txt")]
    install = [str(uv), "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *pinned]
    subprocess.run([*install, f"{wheel}[sandbox]"], check=True, timeout=240)
    return python


def test_the_wheel_alone_runs_the_tracking_study(python, tmp_path):
    dags = shutil.copytree(ROOT / "example_dags", tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    env |= {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    done = subprocess.run(
        [python, "-c", STUDY], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["package"]).is_relative_to(python.parents[1])
    assert found["rows"] == [RESPONDENTS]
    assert set(found["jobs"]) == {"SUCCEEDED"}


def test_the_wheel_holds_only_the_package(dist):
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"airflow_provider_datatile-{__version__}.dist-info"
    files = (path for path in (ROOT / "datatile_provider").rglob("*") if path.is_file())
    sources = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    metadata = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    assert names == sources | metadata


def test_the_sdist_can_be_built_and_tested(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints/airflow-3.3.txt"}
    assert needed <= names
    assert {"datatile_provider/py.typed", "tests/test_wheel.py", "example_dags/datatile_tracking_study.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "docs/benchmarks/tmp"))]
