"""
An upgrade from the first version of the package: what it has stored goes on with this one.

The files in ``formats`` show what it stored. Here they belong to a job or a file of a sandbox.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.support.task import Outcome, Task, first_event
from tests.support.versions import HAS_STATE_STORE

FORMATS = Path(__file__).parent / "formats"
TRIGGERS = "datatile_provider.triggers.datatile"
HAS_STORE = pytest.mark.needs_airflow(">=3.3")


def stored(name: str, **changes: Any) -> Any:
    return {**json.loads((FORMATS / f"{name}.json").read_text()), **changes}


@dataclasses.dataclass
class Deployment:
    """A sandbox and an upload to it, which the first version of the package has begun."""

    sandbox: Sandbox
    file: Path
    target: str

    @property
    def server(self) -> str:
        return f"{self.sandbox.url}/api/v2"

    def task(self, **options: Any) -> Task:
        arguments = {"action": "append", "target_hash": self.target, "dataset": str(self.file), **options}
        return Task(lambda: DatatileUploadOperator(task_id="upload", **arguments), retries=2)

    def accepted(self) -> str:
        """Return the id of the job of an upload that the first version has sent."""
        return str(DatatileHook().upload("append", self.target, str(self.file)).id)

    def state(self, phase: str, job_id: str) -> Any:
        """Return what the first version has stored of an upload on another worker: the file has another inode."""
        state = stored("upload_state", phase=phase, job_id=job_id)
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        state["sent"] |= {"server": self.server, "target": self.target, "name": self.file.name, "sha256": digest}
        state["sent"]["size"] = self.file.stat().st_size
        state["text"] = f"append of '{self.file.name}' (28 bytes) to {self.target}"
        return state

    def waiting(self, job_id: str, **changes: Any) -> Any:
        """Run the deferred wait of the first version in a triggerer of this one, and return its event."""
        arguments = stored(
            "job_trigger", job_id=job_id, server=self.server, started=time.time(), execution_deadline=None, **changes
        )
        return first_event(f"{TRIGGERS}.DatatileJobTrigger", arguments)


@pytest.fixture
def deployment(sandbox: Sandbox, survey: Path) -> Deployment:
    return Deployment(sandbox, survey, sandbox.add_database())


def resume(task: Task, method: str, **arguments: Any) -> Any:
    """Resume a task that the first version has deferred, in its first attempt."""
    task.ti.begin_attempt()
    return task._make().resume_execution(method, json.loads(json.dumps(arguments)), task.context)


def next_attempt(task: Task) -> Outcome:
    """Run Airflow's retry of a task that the first version has run once."""
    task.ti.begin_attempt()
    return task.run()


def test_a_deferred_wait_of_an_upload(deployment):
    job_id = deployment.accepted()
    task = deployment.task(wait_for_completion=True, deferrable=True)
    task.store.set("datatile_upload", deployment.state("accepted", job_id))

    event = deployment.waiting(job_id)

    assert resume(task, "execute_complete", text="append of 'wave.sav'", job_id=job_id, event=event) == job_id
    assert task.store.get("datatile_upload")["phase"] == ("done" if HAS_STATE_STORE else "accepted")
    assert len(deployment.sandbox.uploads()) == 1


def test_a_deferred_sensor(deployment):
    job_id = deployment.accepted()
    task = Task(lambda: DatatileJobSensor(task_id="wait", job_id=job_id, deferrable=True))
    event = deployment.waiting(job_id)
    assert resume(task, "execute_complete", event=event)["state"] == "SUCCEEDED"


def test_an_event_that_the_first_version_has_stored(deployment):
    job_id = stored("event_succeeded")["job"]["id"]
    task = deployment.task(wait_for_completion=True, deferrable=True)
    assert resume(task, "execute_complete", text="append", job_id=job_id, event=stored("event_succeeded")) == job_id
    with pytest.raises(AirflowFailException, match="Unknown variable Q7"):
        resume(task, "execute_complete", text="append", job_id=job_id, event=stored("event_failed"))
    assert deployment.sandbox.uploads() == []


def test_a_backoff(deployment):
    state = deployment.file.stat()
    changed = datetime.fromtimestamp(state.st_mtime_ns // 10**9, timezone.utc)
    # As in the stored state.
    version = (
        f"{state.st_size} bytes of {changed:%Y-%m-%d %H:%M:%S}.{state.st_mtime_ns % 10**9:09d} UTC, "
        f"inode {state.st_ino}, ctime {state.st_ctime_ns}"
    )
    event = first_event(f"{TRIGGERS}.DatatileRetryTrigger", stored("retry_trigger", until=time.time()))
    task = deployment.task(deferrable=True)

    job_id = resume(task, "retry_upload", deadline=time.time() + 60, failures=3, version=version, event=event)

    assert [upload["job_id"] for upload in deployment.sandbox.uploads()] == [job_id]


@HAS_STORE
def test_a_half_sent_upload(deployment):
    task = deployment.task()
    task.store.set("datatile_upload", deployment.state("sending", ""))
    outcome = next_attempt(task)
    outcome.assert_failed(AirflowFailException, "OUTCOME UNKNOWN", deployment.file.name, deployment.target)
    assert deployment.sandbox.uploads() == []


@HAS_STORE
@pytest.mark.parametrize(
    "options", [{}, {"wait_for_completion": True}, {"wait_for_completion": True, "deferrable": True}]
)
def test_an_accepted_upload(deployment, options):
    job_id = deployment.accepted()
    task = deployment.task(poll_interval=0.1, **options)
    task.store.set("datatile_upload", deployment.state("accepted", job_id))
    outcome = next_attempt(task)
    assert (outcome.state, outcome.result) == ("success", job_id)
    assert task.store.get("datatile_upload")["phase"] == "done"
    assert len(deployment.sandbox.uploads()) == 1


@HAS_STORE
def test_a_rescheduled_wait(deployment):
    job_id = deployment.accepted()
    task = Task(lambda: DatatileJobSensor(task_id="wait", job_id=job_id, poke_interval=0.1))
    task.store.set("datatile_wait", stored("wait_state", rejected_since=time.time(), server=deployment.server))
    assert task.run().state == "success"
