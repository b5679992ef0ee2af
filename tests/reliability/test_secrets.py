"""No token in anything that Airflow shows or stores of tasks that fail."""

from __future__ import annotations

import json
import logging
import traceback

import pytest

from datatile_provider.api import polling
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sandbox import Sandbox
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.support.faults import Fault, FaultProxy
from tests.support.rawserver import TOKEN
from tests.support.task import Task

#: Repeated without end, so that the task fails with the fault.
FAULTS = {
    "connection refused": Fault("refuse", times=99),
    "reset in the body": Fault("reset_in_body", after=1 << 20, times=99),
    "reset before the response": Fault("reset_before_response", times=99),
    "garbage": Fault("garbage", times=99),
    "an HTML page": Fault("html_body", times=99),
    "a response cut short": Fault("truncated_response", times=99),
    "the token as a status line": Fault("echo_raw", times=99),
    "the token as a header": Fault("echo_raw", status=200, times=99),
    **{
        f"the request as a {status}": Fault("echo", status=status, times=99)
        for status in (200, 302, 400, 401, 500, 503)
    },
}


@pytest.fixture(params=FAULTS)
def fault(request):
    return FAULTS[request.param]


@pytest.fixture
def shown(wave, connect, caplog, capfd, monkeypatch):
    """Run a task with faults; return its outcome, and everything that was shown and stored of it."""
    monkeypatch.setattr(polling, "GRACE", 0.2)
    caplog.set_level(logging.DEBUG)

    def shown(make, *faults):
        with Sandbox(token=TOKEN, processing_seconds=30) as sandbox, FaultProxy(sandbox.url, *faults) as proxy:
            connect(sandbox, host=proxy.url, extra={"timeout": 2})
            database = sandbox.add_database("Study", 3, ["respondent"])
            operators = []

            def make_operator():
                operators.append(make(database, str(wave)))
                return operators[-1]

            task = Task(make_operator, retries=1)
            outcome = task.run()
            hook = DatatileHook()
            texts = [repr(vars(hook)), repr(hook), repr(hook.get_conn()), str(hook.get_conn()), repr(outcome)]
            texts += [repr(vars(operator)) for operator in operators]
            texts += [json.dumps(task.stored), json.dumps(task.ti.xcoms), json.dumps(task.store.rows)]
            texts += [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
            for error in outcome.errors:
                for link in chain(error):
                    texts += [str(link), repr(link), repr(vars(link)), *traceback.format_exception(link)]
        return outcome, texts, "".join(capfd.readouterr())

    return shown


def chain(error):
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def check(outcome, texts, printed):
    assert outcome.state == "failed"
    assert "connectionpool.py" in "".join(texts), "the log of urllib3 is not captured"
    assert "Uploading" in printed or "Waiting for job" in printed, "the log of the task is not captured"
    for text in [*texts, printed]:
        assert TOKEN not in text


def appending(**options):
    """Return a function that makes the operator for a database and a dataset."""
    return lambda database, dataset: DatatileUploadOperator(
        task_id="upload", action="append", target_hash=database, dataset=dataset, **options
    )


@pytest.mark.parametrize("deferrable", [False, True])
def test_an_upload_that_fails(shown, fault, deferrable):
    check(*shown(appending(accept_timeout=0.3, deferrable=deferrable), fault))


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_of_the_operator_that_fails(shown, fault, deferrable):
    make = appending(wait_for_completion=True, deferrable=deferrable, poll_interval=0.1, timeout=0.6)
    check(*shown(make, Fault("forward", "upload"), fault))


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_sensor_that_fails(shown, fault, deferrable):
    def make(database, dataset):
        return DatatileJobSensor(task_id="wait", job_id="4711", poke_interval=0.1, timeout=0.6, deferrable=deferrable)

    check(*shown(make, fault))
