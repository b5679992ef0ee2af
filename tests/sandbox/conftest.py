"""Fixtures for the tests of the sandbox: a running sandbox, a user of its API, and survey files in every format."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pandas
import pyreadstat
import pytest
import requests

from datatile_provider.sandbox import Sandbox

FINAL = {"succeeded", "failed", "cancelled"}


class User:
    """A user who uploads to a sandbox and polls its jobs."""

    def __init__(self, sandbox: Sandbox, state_dir: Path) -> None:
        self.sandbox = sandbox
        self.state_dir = state_dir

    def upload(self, action: str, target: str, file: Any, **form: str) -> requests.Response:
        """Upload a file, or a pair of name and content."""
        dataset = (file.name, file.read_bytes()) if isinstance(file, Path) else file
        return requests.post(
            f"{self.sandbox.url}/api/v2/upload/{action}/{target}",
            headers={"token": self.sandbox.token},
            files={"dataset": dataset},
            data=form,
            timeout=10,
        )

    def job(self, job_id: str) -> dict[str, Any]:
        response = requests.get(
            f"{self.sandbox.url}/api/v2/jobs/{job_id}", headers={"token": self.sandbox.token}, timeout=10
        )
        assert response.status_code == 200, response.text
        return dict(response.json())

    def wait(self, job_id: str) -> dict[str, Any]:
        """Wait until the job has finished, and return it."""
        deadline = time.monotonic() + 10
        while (job := self.job(job_id))["status"] not in FINAL:
            assert time.monotonic() < deadline, job
            time.sleep(0.02)
        return job

    def run(self, action: str, target: str, file: Any, **form: str) -> dict[str, Any]:
        """Upload, wait for the job, and return it."""
        response = self.upload(action, target, file, **form)
        assert response.status_code == 200, response.text
        return self.wait(response.json()["job_id"])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., User]]:
    """Start a sandbox with options, and return its user."""
    running = []

    def start(**options: Any) -> User:
        options = {"processing_seconds": 0.05, "state_dir": tmp_path / "state", **options}
        sandbox = Sandbox(**options)
        sandbox.__enter__()
        running.append(sandbox)
        return User(sandbox, options["state_dir"])

    yield start
    for sandbox in running:
        sandbox.__exit__(None, None, None)


@pytest.fixture
def user(start: Callable[..., User]) -> User:
    return start()


@pytest.fixture
def survey(tmp_path: Path) -> Callable[..., Path]:
    """Write a survey with this number of rows; the suffix of its name determines the format."""

    def write(name: str, rows: int = 3, variables: tuple[str, ...] = ("respondent", "vote")) -> Path:
        path = tmp_path / name
        columns = {variable: [float(row) for row in range(rows)] for variable in variables}
        lines = [variables, *zip(*columns.values(), strict=True)]
        if path.suffix in (".sav", ".zsav"):
            pyreadstat.write_sav(pandas.DataFrame(columns), path, compress=path.suffix == ".zsav")
        elif path.suffix == ".xlsx":
            workbook = openpyxl.Workbook()
            sheet = workbook.worksheets[0]
            for line in lines:
                sheet.append(line)
            workbook.save(path)
        else:
            text = io.StringIO()
            csv.writer(text).writerows(lines)
            path.write_text(text.getvalue(), "utf-8")
        return path

    return write
