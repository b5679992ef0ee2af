"""A worker's death once the file was accepted: what the next try knows of it."""

from __future__ import annotations

import pytest

from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from tests.reliability.task import Instance, Task
from tests.support.faults import FaultProxy
from tests.support.versions import HAS_STATE_STORE


class Death(BaseException):
    """The worker is gone."""


def test_a_worker_that_dies_once_the_file_was_accepted(wave, connect, monkeypatch):
    push = Instance.xcom_push

    def die(self, key, value):
        if key == "job_id":
            raise Death
        push(self, key, value)

    with Sandbox() as sandbox, FaultProxy(sandbox.url) as proxy:
        connect(sandbox, proxy)
        arguments = {"action": "append", "target_hash": sandbox.add_database("Study"), "dataset": str(wave)}
        task = Task(lambda: DatatileUploadOperator(task_id="upload", **arguments), retries=1)
        with monkeypatch.context() as patch:
            patch.setattr(Instance, "xcom_push", die)
            with pytest.raises(Death):
                task.run()
        assert task.run().state == "success"
        # An Airflow that keeps nothing from one try to the next lets the next one send the file again.
        assert len(sandbox.uploads()) == (1 if HAS_STATE_STORE else 2)
