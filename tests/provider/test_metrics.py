"""The metrics reach a StatsD server, from a process in which Airflow has configured metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from datatile_provider.sandbox import Sandbox
from tests.support.statsd import StatsD

# Airflow's task runner does this in 3.2 and later; in earlier versions the first metric does it.
SET_UP = """
try:
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics import stats_utils
except ImportError:
    pass
else:
    if hasattr(stats, "initialize"):
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
    else:
        stats.Stats.initialize(factory=stats_utils.get_stats_factory(stats.Stats))
"""
WORK = """
import asyncio, contextlib, sys, time
from datatile_provider.api.errors import DatatileError
from datatile_provider.hooks.datatile import DatatileHook

good, invalid, database = sys.argv[1:]
hook = DatatileHook()
for file in (good, invalid):
    job = hook.upload("reload", database, file)
    with contextlib.suppress(DatatileError):
        hook.wait_for_job(job.id, poll_interval=0.05)
job = hook.upload("reload", database, good)
asyncio.run(hook.wait_for_job_async(job.id, poll_interval=0.05, timeout=20, started=time.time()))
with contextlib.suppress(DatatileError):
    hook.upload("reload", "f00d", good)
job = hook.upload("reload", database, good)
with contextlib.suppress(DatatileError):
    hook.wait_for_job(job.id, poll_interval=0.01, timeout=0.01)
"""


@pytest.fixture(scope="module")
def received(tmp_path_factory):
    """The metrics that a StatsD server receives of five uploads and four waits, and the files' sizes."""
    directory = tmp_path_factory.mktemp("metrics")
    good, invalid = directory / "wave.csv", directory / "invalid.csv"
    good.write_text("respondent,vote\n1,2\n2,1\n")
    invalid.write_text("respondent,vote\n1\n")
    # On a slow machine, a part of this time has passed when the wait begins.
    with Sandbox(processing_seconds=1) as sandbox, StatsD() as statsd:
        environment = {
            **os.environ,
            "AIRFLOW_CONN_DATATILE_DEFAULT": json.dumps(sandbox.connection),
            **statsd.environment,
        }
        database = sandbox.add_database(variables=("respondent", "vote"))
        command = [sys.executable, "-c", SET_UP + WORK, str(good), str(invalid), database]
        subprocess.run(command, env=environment, check=True, timeout=50)
    # All are collected now.
    return statsd, [good.stat().st_size, invalid.stat().st_size]


def test_uploads(received):
    statsd, (good, invalid) = received
    assert statsd.values("upload.accepted") == ["1"] * 4
    assert statsd.values("upload.rejected") == ["1"]
    assert statsd.values("upload.bytes") == [str(size) for size in (good, invalid, good, good)]
    assert len(statsd.values("upload.duration")) == 4


def test_jobs_by_outcome(received):
    statsd, _ = received
    succeeded = [float(value) for value in statsd.values("job.duration.succeeded")]
    assert len(succeeded) == 2
    # StatsD timings are in milliseconds.
    assert all(200 < value < 20_000 for value in succeeded)
    assert len(statsd.values("job.duration.failed")) == 1
    assert len(statsd.values("job.duration.timeout")) == 1


def test_waits_in_flight(received):
    statsd, _ = received
    assert statsd.values("waits") == ["+1", "-1"] * 4


def test_polls(received):
    statsd, _ = received
    assert len(statsd.values("polls")) >= 2 * 3 + 1


def test_kinds(received):
    kinds = {name: kind for name, _, kind in received[0].metrics}
    assert kinds == {
        "upload.accepted": "c",
        "upload.rejected": "c",
        "upload.bytes": "c",
        "upload.duration": "ms",
        "polls": "c",
        "waits": "g",
        "job.duration.succeeded": "ms",
        "job.duration.failed": "ms",
        "job.duration.timeout": "ms",
    }
