"""The benchmarks of waits with small sizes: they run, and the results show what holds on any machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench


def results(name: str, folder: Path, seconds: float) -> dict[tuple[str, str], float]:
    """Return the medians of a quick run, by variant and metric."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--quick", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / f"{name}.json").read_text())["measurements"]
    return {(m["variant"], m["metric"]): m["median"] for m in found}


@pytest.mark.timeout(150)
def test_waits(tmp_path):
    found = results("waits", tmp_path, 140)
    variants = {variant for variant, _ in found}
    assert variants == {"ours", "a session a poll", "dbt Cloud", "Airbyte"}
    assert 0 < found["ours", "connections"] <= 8
    assert found["a session a poll", "handshakes"] >= 40
    assert found["ours", "CPU a poll"] < found["a session a poll", "CPU a poll"]
    # A response takes 3 s, and Airbyte's trigger blocks the loop for it.
    assert found["Airbyte", "longest lag"] > 2500
    assert found["ours", "longest lag"] < 2500
    assert 2 <= found["ours", "polls"] < 20


@pytest.mark.timeout(300)
def test_airflow_waits(tmp_path):
    found = results("airflow_waits", tmp_path, 290)
    assert found["ours, start from trigger", "task processes"] == 0
    assert found["ours, deferrable", "task processes"] == found["ours, deferrable", "attempts"] == 1
    assert found["ours, deferrable", "CPU, workers and tasks"] > 0.05
    assert found["ours, deferrable", "delay after the job's end"] < 15


@pytest.mark.timeout(150)
def test_latency(tmp_path):
    found = results("latency", tmp_path, 140)
    # Eight connections carry 40 polls a second at 200 ms, of the 100 that are asked for.
    assert found["8 connections", "polls a second"] < 45 < found["ours", "polls a second"]
    # Jobs that have ended are polled no more, so the queue of the eight connections gets shorter meanwhile.
    assert found["ours", "latest, in intervals"] < found["8 connections", "latest, in intervals"]
    assert 8 < found["ours", "connections opened"] <= 101


@pytest.mark.timeout(150)
def test_growth(tmp_path):
    found = results("growth", tmp_path, 140)
    assert {variant for variant, _ in found} == {"ours, 100 waits", "ours, 100 waits in 2 processes"}
    for (_, metric), value in found.items():
        assert value > 0, metric
        if metric == "memory a wait":
            assert value < 40


@pytest.mark.timeout(150)
def test_soak(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.soak", "--minutes", "0.3", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=140, cwd=Path(__file__).parents[2])
    found = json.loads((tmp_path / "soak.json").read_text())["measurements"]
    medians = {(m["variant"], m["metric"]): m["median"] for m in found}
    assert 0 < medians["triggerer", "connections"] <= 100
    assert medians["triggerer", "open files"] >= medians["triggerer", "connections"]
    assert medians["worker", "memory"] > 20
    assert (tmp_path / "soak.svg").read_text().startswith("<?xml")


@pytest.mark.timeout(300)
def test_rejections(tmp_path):
    found = results("rejections", tmp_path, 290)
    variants = ("each waits for its job", "one at a time in each DAG", "pool of 1 slot for both")
    # Nothing but the ledger knows that the other DAG sends the same files.
    assert [found[variant, "accepted a file"] for variant in variants] == [2, 2, 2]
    assert (found["pool and ledger", "accepted a file"], found["pool and ledger", "failed tasks"]) == (1, 4)
    assert found["pool of 1 slot for both", "rejected"] == 0
    assert found["pool of 1 slot", "accepted a file"] == 1
