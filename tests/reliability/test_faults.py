"""Faults between the task and the server: the outcome of uploads and waits in every mode."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from datatile_provider.api.models import OnUnknown
from datatile_provider.failure_policy import Accepted, Airflow, Failure, decide
from tests.reliability.run import Run
from tests.support.faults import Fault

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"
ACTIONS = ("create", "append", "reload")
MODES = {
    "fire and forget": {},
    "wait in the worker": {"wait_for_completion": True},
    "wait deferred": {"wait_for_completion": True, "deferrable": True},
}
WAITS = [mode for mode in MODES if mode != "fire and forget"]
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Row:
    """
    One fault, and its expected outcome.

    :param meaning: ``none`` (no effect), ``transient``, ``permanent`` or ``unknown``.
    :param held: whether the server accepts the upload in spite of the fault.
    :param timeout: the connection's ``timeout``.
    """

    fault: Fault
    meaning: str = "transient"
    held: bool = False
    timeout: float = 5.0

    def expected(self, action: str) -> str:
        if self.meaning == "permanent":
            return "fails: rejected; 0 accepted"
        if self.meaning == "unknown" and action != "reload":
            return f"fails: unknown; {int(self.held)} accepted"
        return f"succeeds; {1 + (self.meaning == 'unknown' and self.held)} accepted"


def status(code: int, kind: str = "respond_instead", **options: Any) -> Fault:
    return Fault(kind, "upload", status=code, **options)


UPLOAD_FAULTS = {
    "connection closed as soon as it is made": Row(Fault("refuse")),
    "connection reset after 1 MB of the body": Row(Fault("reset_in_body", after=MIB)),
    "body not read after 1 MB, until the timeout": Row(Fault("stall_in_body", after=MIB, seconds=5), timeout=2),
    "503 after 1 MB of the body": Row(status(503, "respond_early", after=MIB)),
    "502 after 1 MB of the body": Row(status(502, "respond_early", after=MIB)),
    "413 after 1 MB of the body": Row(status(413, "respond_early", after=MIB), "permanent"),
    "401 after 1 MB of the body": Row(status(401, "respond_early", after=MIB), "permanent"),
    "409, destination busy": Row(status(409)),
    "429 with Retry-After in seconds": Row(status(429, retry_after=1)),
    "429 with Retry-After as a date": Row(status(429, retry_after=1, as_date=True)),
    "400": Row(status(400), "permanent"),
    "403": Row(status(403), "permanent"),
    "connection reset after the last byte, which did not arrive": Row(Fault("reset_after_body"), "unknown"),
    "500 by a gateway that forwarded nothing": Row(status(500), "unknown"),
    "502 by a gateway that forwarded nothing": Row(status(502), "unknown"),
    "503 without Retry-After, by a gateway that forwarded nothing": Row(status(503), "unknown"),
    "503 with Retry-After, by a gateway that forwarded nothing": Row(status(503, retry_after=1), "unknown"),
    "504 by a gateway that forwarded nothing": Row(status(504), "unknown"),
    "408 by a gateway that forwarded nothing": Row(status(408), "unknown"),
    "500 by a gateway that had forwarded the file": Row(status(500, "respond_after"), "unknown", held=True),
    "502 by a gateway that had forwarded the file": Row(status(502, "respond_after"), "unknown", held=True),
    "503 without Retry-After, by a gateway that had forwarded the file": Row(
        status(503, "respond_after"), "unknown", held=True
    ),
    "503 with Retry-After, by a gateway that had forwarded the file": Row(
        status(503, "respond_after", retry_after=1), "unknown", held=True
    ),
    "504 by a gateway that had forwarded the file": Row(status(504, "respond_after"), "unknown", held=True),
    "408 by a gateway that had forwarded the file": Row(status(408, "respond_after"), "unknown", held=True),
    "303 to another page by a gateway that had forwarded the file": Row(
        status(303, "respond_after"), "unknown", held=True
    ),
    "connection reset before the response": Row(Fault("reset_before_response"), "unknown", held=True),
    "connection reset after the response's first byte": Row(Fault("reset_in_response"), "unknown", held=True),
    "response cut short": Row(Fault("truncated_response"), "unknown", held=True),
    "response that is not HTTP": Row(Fault("garbage"), "unknown", held=True),
    "200 with an HTML page": Row(Fault("html_body"), "unknown", held=True),
    "response later than the timeout": Row(Fault("delay", seconds=3), "unknown", held=True, timeout=2),
    "response in small pieces, beyond the timeout": Row(Fault("drip", seconds=0.05), "unknown", held=True, timeout=2),
    "response in small pieces": Row(Fault("drip", seconds=0.001), "none"),
    "slow response": Row(Fault("delay", seconds=0.3), "none"),
    "connection closed after the response": Row(Fault("close_kept_alive"), "none"),
}

POLL_FAULTS = {
    "connection closed as soon as it is made": Row(Fault("refuse")),
    "connection reset before the response": Row(Fault("reset_before_response")),
    "connection reset after the response's first byte": Row(Fault("reset_in_response")),
    "connection kept alive, and reset under the next poll": Row(Fault("close_kept_alive")),
    "response cut short": Row(Fault("truncated_response")),
    "response that is not HTTP": Row(Fault("garbage")),
    "200 with an HTML page": Row(Fault("html_body")),
    "response later than the timeout": Row(Fault("delay", seconds=3), timeout=2),
    "response in small pieces, beyond the timeout": Row(Fault("drip", seconds=0.05), timeout=2),
    "404, once": Row(Fault("respond_instead", status=404)),
    "409": Row(Fault("respond_instead", status=409)),
    "429 with Retry-After in seconds": Row(Fault("respond_instead", status=429, retry_after=1)),
    "503 with Retry-After as a date": Row(Fault("respond_instead", status=503, retry_after=1, as_date=True)),
    "500": Row(Fault("respond_instead", status=500, times=3)),
    "502": Row(Fault("respond_after", status=502, times=3)),
    "504": Row(Fault("respond_instead", status=504, times=3)),
}


@pytest.fixture
def run_all(run: Callable[..., Run]) -> Callable[..., dict[tuple[str, str], Run]]:
    """Run all actions in some modes concurrently, because they mostly wait."""

    def run_all(*faults: Fault, modes: Iterable[str], **options: object) -> dict[tuple[str, str], Run]:
        cases = [(action, mode) for action in ACTIONS for mode in modes]
        with ThreadPoolExecutor(len(cases)) as pool:
            runs = [pool.submit(run, *faults, action=action, **MODES[mode], **options) for action, mode in cases]
        return {case: run.result() for case, run in zip(cases, runs, strict=True)}

    return run_all


def check(row: Row, runs: dict[tuple[str, str], Run], modes: Iterable[str]) -> None:
    assert set(runs) == set(product(ACTIONS, modes))
    for (action, mode), run in runs.items():
        assert run.result == row.expected(action), (action, mode, run.outcome.errors, run.log)


@pytest.mark.parametrize("name", UPLOAD_FAULTS)
def test_a_fault_of_an_upload(name, run_all, wave):
    row = UPLOAD_FAULTS[name]
    runs = run_all(row.fault, modes=MODES, connection_timeout=row.timeout)
    check(row, runs, MODES)
    for run in runs.values():
        assert [request.fault for request in run.log if request.fault] == [row.fault.kind]
        if run.outcome.state == "failed":
            assert_fails_with_an_error(run, wave)
        if row.fault.retry_after and run.outcome.state == "success":
            first, second, *_ = run.uploads()
            assert second.at - first.at >= row.fault.retry_after


@pytest.mark.parametrize("name", POLL_FAULTS)
def test_a_fault_of_a_wait(name, run_all):
    row = POLL_FAULTS[name]
    faults = (Fault("forward", "upload"), row.fault)
    runs = run_all(*faults, modes=WAITS, connection_timeout=row.timeout, processing_seconds=0.2)
    check(row, runs, WAITS)
    for run in runs.values():
        assert [request.fault for request in run.log if request.fault] == [
            "forward",
            *[row.fault.kind] * row.fault.times,
        ]
        if row.fault.retry_after:
            polls = [request for request in run.log if request.on == "poll"]
            faulty = next(number for number, request in enumerate(polls) if request.fault)
            assert polls[faulty + 1].at - polls[faulty].at >= row.fault.retry_after


def assert_fails_with_an_error(run: Run, wave: Path) -> None:
    """Assert one failure without a retry, whose error names the file, the target, the time and the processing log."""
    assert isinstance(run.outcome.error, AirflowFailException)
    assert run.accepted <= 1
    text = str(run.outcome.error)
    assert wave.name in text
    assert run.target in text
    if "unknown" in run.result:
        assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
        assert re.search(r"Processing log: http://127.0.0.1:\d+/", text)


def test_the_documented_table(request):
    """It shows the outcomes that the tests above assert."""
    written = rendered()
    if request.config.getoption("--write-tables"):
        TABLE.write_text(written, "utf-8")
    assert TABLE.read_text("utf-8") == written


def rendered() -> str:
    def rows(faults: dict[str, Row]) -> str:
        cells = [("fault", "`create`, `append`", "`reload`"), ("---",) * 3]
        for name, row in faults.items():
            create, append, reload = (
                row.expected(action).removeprefix("fails: ").removesuffix(" accepted") for action in ACTIONS
            )
            assert create == append
            cells.append((name, create, reload))
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)

    def meaning(failure: Failure) -> str:
        rule = decide(failure, Accepted.MAYBE, store=True, on_unknown=OnUnknown.FAIL)
        return f"the task fails; Airflow {'does not retry' if rule.airflow is Airflow.FAILS else 'retries'} it"

    return f"""\
# Failure modes

A test causes each fault between a task and the sandbox, and counts the uploads that the sandbox accepts. Each outcome
holds for a task that does not wait, one that waits in the worker, and one that waits deferred. Faults of polls are
tested with the two that wait.

| outcome | meaning |
|---|---|
| succeeds | the task succeeds, after retries if needed |
| rejected | {meaning(Failure.PERMANENT)} |
| unknown | {meaning(Failure.UNKNOWN)}, because the server may hold the file |

The number beside the outcome is that of accepted uploads. Two accepted uploads of a `reload` do no harm: the second one
replaces the first. The error of a failed task names the file and the target. If the outcome is unknown, it also names
the time and the processing log.

## Faults of an upload

{rows(UPLOAD_FAULTS)}

## Faults of the polls of a job

{rows(POLL_FAULTS)}

`pytest tests/reliability/test_faults.py --write-tables` writes this page. Without that option, the test compares
it.
"""
