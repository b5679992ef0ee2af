"""Fixtures for the tests of faults."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from tests.reliability.run import Run
from tests.support.faults import Fault, FaultProxy
from tests.support.fixtures import connect
from tests.support.task import Task

__all__ = ["connect"]


@pytest.fixture(scope="session")
def wave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A file of 60 interviews.

    It is larger than the socket buffers between client and proxy, so a client cannot have sent its last byte
    before the proxy has started to read.
    """
    path = tmp_path_factory.mktemp("dataset") / "wave.csv"
    path.write_text("respondent,text\n" + "".join(f"{i},{'x' * 100_000}\n" for i in range(60)))
    return path


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datatile_provider.api.retry._FIRST_BACKOFF", 0.05)


@pytest.fixture
def run(wave: Path, connect: Callable[..., None]) -> Callable[..., Run]:
    """
    Run an upload with faults, and with one retry.

    ``when_deferred`` changes the sandbox each time the task is deferred, ``soon`` changes it after 1 s. Both then
    update the connection. ``answer`` returns what a person answers.
    """

    def run(
        *faults: Fault,
        action: str = "append",
        connection_timeout: float = 5.0,
        processing_seconds: float = 0.0,
        when_deferred: Callable[[Sandbox], None] = lambda sandbox: None,
        soon: Callable[[Sandbox], None] | None = None,
        answer: Callable[[Sandbox], Any] = lambda sandbox: None,
        **options: Any,
    ) -> Run:
        with Sandbox(processing_seconds=processing_seconds) as sandbox, FaultProxy(sandbox.url, *faults) as proxy:
            conn_id = f"datatile_{id(sandbox)}"

            def and_connect(change: Callable[[Sandbox], None]) -> None:
                change(sandbox)
                connect(sandbox, conn_id=conn_id, host=proxy.url, extra={"timeout": connection_timeout})

            and_connect(lambda sandbox: None)
            database = sandbox.add_database("Study", 3, ["respondent"])
            target = sandbox.folder if action == "create" else database
            arguments: dict[str, Any] = {
                "dataset": str(wave),
                "datatile_conn_id": conn_id,
                "poll_interval": 0.05,
                **options,
            }
            task = Task(
                lambda: DatatileUploadOperator(task_id="upload", action=action, target_hash=target, **arguments),
                retries=1,
                answer=lambda: answer(sandbox),
            )
            if soon:
                threading.Timer(1.0, and_connect, [soon]).start()
            outcome = task.run(lambda: and_connect(when_deferred))
            return Run(task, outcome, len(sandbox.uploads()), proxy.log, target)

    return run
