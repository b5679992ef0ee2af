"""When, how often and with which token an upload is retried."""

from __future__ import annotations

import time

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from tests.support.faults import Fault
from tests.support.reading import one_line

BUSY = Fault("respond_instead", "upload", status=409, retry_after=1)
OLD_TOKEN = Fault("respond_instead", "upload", status=401, seconds=1)
TOO_FAST = Fault("respond_instead", "upload", status=429, times=1000)


@pytest.fixture
def defer_every_backoff(monkeypatch):
    monkeypatch.setattr("datatile_provider.operators.attempt.MAX_BACKOFF_IN_WORKER", 0.5)


@pytest.mark.parametrize("action", ["create", "append"])
@pytest.mark.parametrize(("fault", "accepted"), [("reset_after_body", 1), ("reset_before_response", 2)])
def test_on_unknown_resend(run, action, fault, accepted):
    run = run(Fault(fault), action=action, on_unknown="resend")
    assert run.result == f"succeeds; {accepted} accepted"


@pytest.mark.parametrize("deferrable", [False, True])
def test_accept_timeout(run, monkeypatch, deferrable):
    # The first backoffs of an attempt are at most 0.05, 0.1 and 0.2 s, so the third is the first that may be deferred.
    monkeypatch.setattr("datatile_provider.operators.attempt.MAX_BACKOFF_IN_WORKER", 0.09)
    started = time.monotonic()
    run = run(TOO_FAST, accept_timeout=1, deferrable=deferrable)
    # Each of the two task attempts lasts until its deadline.
    assert 1.9 < time.monotonic() - started < 2 * 1 + 3
    assert set(run.task.deferrals) == ({"retry_upload"} if deferrable else set())
    assert run.result == "fails: AirflowException; 0 accepted"
    # Airflow's retry gets the same accept_timeout.
    assert [type(error) for error in run.outcome.errors] == [AirflowException] * 2
    assert len(run.uploads()) > 4


def test_a_retry_after_beyond_accept_timeout(run):
    run = run(Fault("respond_instead", "upload", status=429, retry_after=3600, times=4), accept_timeout=1)
    assert run.result == "fails: AirflowException; 0 accepted"
    # Each of the two task attempts sends one last upload at the deadline.
    assert len(run.uploads()) == 4


def test_a_retry_after_beyond_accept_timeout_with_success_at_the_deadline(run):
    run = run(Fault("respond_instead", "upload", status=429, retry_after=3600), accept_timeout=1)
    assert run.result == "succeeds; 1 accepted"
    first, second = run.uploads()
    assert 0.5 < second.at - first.at < 3


@pytest.mark.parametrize("action", ["create", "append", "reload"])
@pytest.mark.parametrize("fault", [BUSY, Fault("respond_instead", "upload", status=429, retry_after=1)])
@pytest.mark.parametrize("wait", [False, True])
def test_a_backoff_without_a_worker(run, defer_every_backoff, action, fault, wait):
    run = run(fault, action=action, deferrable=True, wait_for_completion=wait)
    assert run.result == "succeeds; 1 accepted"
    assert run.task.deferrals == ["retry_upload", *["execute_complete"] * wait]
    first, second = run.uploads()
    assert second.at - first.at >= 1


def test_a_backoff_has_a_timeout_of_its_own(run, defer_every_backoff):
    run = run(BUSY, deferrable=True)
    # If the trigger does not fire, Airflow resumes or retries the task some time after the retry time.
    (limit,) = run.task.limits
    assert 1 <= limit.total_seconds() <= 1 + 600


def test_deferred_backoffs_share_one_accept_timeout(run, defer_every_backoff):
    busy = Fault("respond_instead", "upload", status=409, retry_after=1, times=1000)
    run = run(busy, deferrable=True, accept_timeout=2.5)
    assert run.result == "fails: AirflowException; 0 accepted"
    assert 2 <= len(run.task.deferrals) <= 2 * 3


def test_a_backoff_in_the_worker(run, defer_every_backoff):
    run = run(BUSY)
    assert run.result == "succeeds; 1 accepted"
    assert run.task.deferrals == []
    first, second = run.uploads()
    assert second.at - first.at >= 1


def test_a_file_that_changes_during_the_backoff(run, defer_every_backoff, tmp_path):
    dataset = tmp_path / "wave.csv"
    dataset.write_text("respondent\n1\n")
    run = run(
        BUSY, deferrable=True, dataset=str(dataset), when_deferred=lambda _: dataset.write_text("respondent\n2\n")
    )
    assert run.result == "fails: rejected; 0 accepted"
    assert "changed since its upload began" in one_line(run.outcome.error)


def test_a_token_that_is_regenerated_during_the_upload(run):
    run = run(OLD_TOKEN, soon=lambda sandbox: sandbox.regenerate_token())
    assert run.result == "succeeds; 1 accepted"
    assert len(run.uploads()) == 2


def test_a_new_token_that_is_rejected_too(run):
    run = run(OLD_TOKEN, OLD_TOKEN, soon=lambda sandbox: sandbox.regenerate_token())
    assert run.result == "fails: rejected; 0 accepted"
    assert len(run.uploads()) == 2
    assert "invalidates the one before" in one_line(run.outcome.error)


def test_a_token_that_is_regenerated_during_the_backoff(run, defer_every_backoff):
    tokens = []
    run = run(BUSY, deferrable=True, when_deferred=lambda sandbox: tokens.append(sandbox.regenerate_token()))
    assert run.result == "succeeds; 1 accepted"
    assert len(tokens) == 1
    # The new token was read from the connection, not found out by a rejection.
    assert len(run.uploads()) == 2


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_token_that_is_regenerated_while_the_task_waits_for_its_job(run, deferrable):
    delay = Fault("delay", "poll", seconds=1)
    run = run(
        delay,
        wait_for_completion=True,
        deferrable=deferrable,
        processing_seconds=4,
        soon=lambda sandbox: sandbox.regenerate_token(),
    )
    assert run.result == "succeeds; 1 accepted"
    assert 401 in [request.upstream_status for request in run.log]


def test_a_token_that_was_regenerated_and_never_updated(run):
    run = run(Fault("respond_instead", "upload", status=401))
    assert isinstance(run.outcome.error, AirflowFailException)
    assert len(run.uploads()) == 1
