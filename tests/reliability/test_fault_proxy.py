"""The fault proxy as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from datatile_provider.sandbox import Sandbox
from tests.support.faults import KINDS, Plan


@pytest.fixture
def proxy() -> Iterator[dict[str, str]]:
    """The addresses of a running proxy, in front of a sandbox."""
    with Sandbox(token="of-a-test") as sandbox:
        plan = [{"kind": "respond_instead", "on": "poll", "status": 418}]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.faults", "--upstream", sandbox.url, "--plan", json.dumps(plan)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            process.stdout.close()


def poll(proxy: dict[str, str]) -> int:
    return requests.get(f"{proxy['url']}/api/v2/jobs/none", headers={"token": "of-a-test"}, timeout=10).status_code


def test_the_proxy_as_a_process(proxy):
    assert [poll(proxy), poll(proxy)] == [418, 404]
    plan = {"faults": [{"kind": "refuse"}], "seed": 1, "rate": 1, "kinds": ["respond_instead"], "on": "poll"}
    assert requests.put(f"{proxy['control']}/plan", json=plan, timeout=10).status_code == 200
    with pytest.raises(requests.ConnectionError):
        poll(proxy)
    assert poll(proxy) in (409, 429, 503)
    log = requests.get(f"{proxy['control']}/log", timeout=10).json()
    assert [row["fault"] for row in log] == ["respond_instead", "", "refuse", "respond_instead"]
    assert [row["upstream_status"] for row in log] == [0, 404, 0, 0]


@pytest.mark.parametrize("plan", [[{"kind": "no such"}], {"rate": 1, "kinds": ["no such"]}, {"no such": 1}])
def test_invalid_plans(proxy, plan):
    assert requests.put(f"{proxy['control']}/plan", json=plan, timeout=10).status_code == 400


def test_a_seed_repeats_the_same_faults():
    first, second, third = (
        [plan.next("upload") for _ in range(200)]
        for plan in (Plan(seed=1, rate=0.5), Plan(seed=1, rate=0.5), Plan(seed=2, rate=0.5))
    )
    assert first == second != third
    injected = [fault for fault in first if fault]
    assert 50 < len(injected) < 150
    assert {fault.kind for fault in injected} <= set(KINDS)
    assert len({fault.kind for fault in injected}) > 5


def test_random_faults_of_uploads_only():
    plan = Plan(seed=1, rate=1, on="upload")
    assert not any(plan.refuses_connection() or plan.next("poll") for _ in range(50))
    assert all(plan.next("upload") for _ in range(50))
