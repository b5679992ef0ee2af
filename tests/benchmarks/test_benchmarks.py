"""Each benchmark runs with small sizes, and compares all variants."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks import fresh

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

EXPECTED = {
    "upload": {
        *("ours", "curl -F", "requests files=", "requests-toolbelt", "toolbelt, 1 MiB blocks", "httpx files="),
    },
    "store": {"ours", "s3fs's own file", "download, then upload", "the slower link alone"},
    "uploads": {"ours, 1 at once", "ours, 2 at once"},
    "imports": {"ours", "Airbyte", "dbt Cloud"},
    "ledger": {"without", "hash", "hash and ledger"},
    "wave_check": {"check_wave", "read_sav alone"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_quick_run(tmp_path, name):
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--quick", "--out", tmp_path]
    shown = subprocess.run(command, cwd=fresh.ROOT, capture_output=True, text=True, check=True, timeout=240).stdout
    result = json.loads((tmp_path / f"{name}.json").read_text())
    cases = {m["case"] for m in result["measurements"]}
    assert cases
    for case in cases:
        assert {m["variant"] for m in result["measurements"] if m["case"] == case} == EXPECTED[name]
        assert any(mark["case"] == case and mark["mark"] for mark in result["marks"])
    assert all(m["values"] and min(m["values"]) >= 0 for m in result["measurements"])
    assert {"date", "command", "cpus", "cpu", "kernel", "python", "versions"} <= set(result["run"])
    assert result["title"] in shown
    assert all(mark["what"] in shown for mark in result["marks"])
    assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
