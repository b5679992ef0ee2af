"""How long, how often and with what an upload is tried again."""

from __future__ import annotations

import time

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from tests.support.faults import Fault

BUSY = Fault("answer_instead", "upload", status=409, retry_after=1)
STALE = Fault("answer_instead", "upload", status=401, seconds=1)
TOO_FAST = Fault("answer_instead", "upload", status=429, times=1000)


@pytest.fixture
def any_wait_is_long(monkeypatch):
    monkeypatch.setattr("datatile_provider.operators.datatile.MAX_BACKOFF_IN_WORKER", 0.5)


@pytest.mark.parametrize("action", ["create", "append"])
@pytest.mark.parametrize(("fault", "accepted"), [("reset_after_body", 1), ("reset_before_answer", 2)])
def test_an_unknown_outcome_that_the_user_chose_to_send_again(run, action, fault, accepted):
    run = run(Fault(fault), action=action, resend_unknown=True)
    assert run.result == f"succeeds; {accepted} accepted"


@pytest.mark.parametrize("deferrable", [False, True])
def test_the_time_to_go_on_trying(run, deferrable):
    begun = time.monotonic()
    run = run(TOO_FAST, accept_timeout=1, deferrable=deferrable)
    assert time.monotonic() - begun < 2 * 1 + 3
    assert run.result == "fails: AirflowException; 0 accepted"
    # Airflow's own retry had its turn, and as long.
    assert [type(error) for error in run.outcome.errors] == [AirflowException] * 2
    assert len(run.uploads()) > 4


def test_a_server_that_asks_for_more_time_than_there_is(run):
    run = run(Fault("answer_instead", "upload", status=429, retry_after=3600, times=4), accept_timeout=1)
    assert run.result == "fails: AirflowException; 0 accepted"
    # The last attempt of each of the two is at the deadline.
    assert len(run.uploads()) == 4


def test_a_server_that_asks_for_more_time_than_there_is_and_then_has_some(run):
    run = run(Fault("answer_instead", "upload", status=429, retry_after=3600), accept_timeout=1)
    assert run.result == "succeeds; 1 accepted"


@pytest.mark.parametrize("action", ["create", "append", "reload"])
@pytest.mark.parametrize("fault", [BUSY, Fault("answer_instead", "upload", status=429, retry_after=1)])
@pytest.mark.parametrize("wait", [False, True])
def test_a_turn_that_is_waited_for_without_a_worker(run, any_wait_is_long, action, fault, wait):
    run = run(fault, action=action, deferrable=True, wait_for_completion=wait)
    assert run.result == "succeeds; 1 accepted"
    assert run.task.deferrals == ["retry_upload", *["execute_complete"] * wait]
    first, second = run.uploads()
    assert second.at - first.at >= 1


def test_a_turn_that_no_triggerer_gives(run, any_wait_is_long):
    run = run(BUSY, deferrable=True)
    # Airflow lets the task go on, or be tried again, some time after its turn.
    (limit,) = run.task.limits
    assert 1 <= limit.total_seconds() <= 1 + 600


def test_turns_share_one_time_to_go_on_trying(run, any_wait_is_long):
    busy = Fault("answer_instead", "upload", status=409, retry_after=1, times=1000)
    run = run(busy, deferrable=True, accept_timeout=2.5)
    assert run.result == "fails: AirflowException; 0 accepted"
    assert 2 <= len(run.task.deferrals) <= 2 * 3


def test_a_turn_that_is_waited_for_in_the_worker(run, any_wait_is_long):
    run = run(BUSY)
    assert run.result == "succeeds; 1 accepted"
    assert run.task.deferrals == []


def test_a_file_that_changes_while_the_task_waits_for_its_turn(run, any_wait_is_long, tmp_path):
    dataset = tmp_path / "wave.csv"
    dataset.write_text("respondent\n1\n")
    run = run(
        BUSY, deferrable=True, dataset=str(dataset), when_deferred=lambda _: dataset.write_text("respondent\n2\n")
    )
    assert run.result == "fails: refused; 0 accepted"
    assert "wave.csv' changed since its upload began" in str(run.outcome.error)


def test_a_token_that_is_regenerated_during_the_upload(run):
    run = run(STALE, soon=lambda sandbox: sandbox.regenerate_token())
    assert run.result == "succeeds; 1 accepted"
    assert len(run.uploads()) == 2


def test_a_newer_token_that_is_refused_too(run):
    run = run(STALE, STALE, soon=lambda sandbox: sandbox.regenerate_token())
    assert run.result == "fails: refused; 0 accepted"
    assert len(run.uploads()) == 2
    assert "at once invalidates the old one" in str(run.outcome.error)


def test_a_token_that_is_regenerated_while_the_task_waits_for_its_turn(run, any_wait_is_long):
    run = run(BUSY, deferrable=True, when_deferred=lambda sandbox: sandbox.regenerate_token())
    assert run.result == "succeeds; 1 accepted"


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_token_that_is_regenerated_while_the_task_waits_for_its_job(run, deferrable):
    held_back = Fault("delay", "poll", seconds=1)
    run = run(
        held_back,
        wait_for_completion=True,
        deferrable=deferrable,
        processing_seconds=2,
        soon=lambda sandbox: sandbox.regenerate_token(),
    )
    assert run.result == "succeeds; 1 accepted"
    assert 401 in [played.upstream_status for played in run.log]


def test_a_token_that_was_regenerated_and_never_updated(run):
    run = run(Fault("answer_instead", "upload", status=401))
    assert isinstance(run.outcome.error, AirflowFailException)
    assert len(run.uploads()) == 1
