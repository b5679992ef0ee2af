"""The same content for the same target: by a clear, another run, another DAG, and at the same moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from datatile_provider.api import errors
from datatile_provider.ledger.entry import Entry, Phase
from datatile_provider.ledger.ledger import Ledger, Stored
from datatile_provider.ledger.store import FolderStore
from datatile_provider.operators import claim
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.question import Choice
from datatile_provider.sandbox import Sandbox
from tests.support.faults import Fault, FaultProxy
from tests.support.task import Outcome, Task, WorkerKilled
from tests.support.versions import HAS_STATE_STORE
from tests.support.waiting import until

LOST, NOT_ACCEPTED = Fault("reset_before_response"), Fault("reset_after_body")
CAN_ASK = pytest.mark.needs_airflow(">=3.1")


class Lab:
    """
    A server behind a fault proxy, and Airflow tasks that send files to it, with one ledger or none.

    :param sandbox: the server.
    :param proxy: what the tasks connect to.
    :param folder: for files.
    :param ledger: the ledger's folder.
    """

    def __init__(self, sandbox: Sandbox, proxy: FaultProxy, folder: Path, ledger: Path, connect: Any) -> None:
        self.sandbox, self.proxy, self.folder, self.ledger, self._connect = sandbox, proxy, folder, ledger, connect
        self.database = sandbox.add_database("Study", 3, ["respondent"])
        self.conn_id = f"datatile_{id(sandbox)}"
        self.answers: list[Any] = []
        self.connect(ledger=ledger.as_uri())

    def connect(self, **extra: Any) -> None:
        extra = {"timeout": 5.0, **extra}
        self._connect(self.sandbox, conn_id=self.conn_id, host=self.proxy.url, extra=extra)

    def file(self, content: str = "respondent,vote\n1,2\n", name: str = "wave.csv") -> Path:
        path = self.folder / name
        path.write_text(content)
        return path

    def task(self, *, dag_id: str = "tracker", run_id: str = "run-1", retries: int = 0, **options: Any) -> Task:
        options = {
            "action": "append",
            "target_hash": self.database,
            "dataset": str(self.folder / "wave.csv"),
            **options,
        }
        task = Task(
            lambda: DatatileUploadOperator(
                task_id="upload", datatile_conn_id=self.conn_id, poll_interval=0.05, accept_timeout=10, **options
            ),
            retries=retries,
            answer=lambda: self.answers.pop(0),
        )
        task.ti.dag_id, task.ti.run_id = dag_id, run_id
        return task

    def accepted(self) -> int:
        return len(self.sandbox.uploads())

    def entries(self) -> list[Entry]:
        found = list(Ledger(FolderStore(self.ledger)).entries())
        assert all(isinstance(stored, Stored) for stored in found)
        return [stored.entry for stored in found if isinstance(stored, Stored)]

    def phases(self) -> list[str]:
        return [entry.phase.value for entry in self.entries()]


@pytest.fixture
def lab(tmp_path: Path, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Lab]]:
    monkeypatch.setattr(claim, "CONFIRM_PAUSE", 0.05)
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    with ExitStack() as stack:

        def make(*faults: Fault) -> Lab:
            sandbox = stack.enter_context(Sandbox(processing_seconds=0))
            made = Lab(sandbox, stack.enter_context(FaultProxy(sandbox.url, *faults)), tmp_path, ledger, connect)
            made.file()
            return made

        yield make


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The questions that were filed with Airflow."""
    filed: list[Any] = []

    def send(message: Any) -> Any:
        if type(message).__name__ == "CreateHITLDetailPayload":
            filed.append(message)
            return filed[0]
        return None

    monkeypatch.setattr(
        "airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", SimpleNamespace(send=send), raising=False
    )
    return filed


def answer(choice: Choice, job_id: str = "") -> dict[str, Any]:
    return {
        "chosen_options": [choice.value],
        "params_input": {"job_id": job_id},
        "responded_at": "2026-01-05T06:03:10+00:00",
        "responded_by_user": {"id": "7", "name": "Ada"},
    }


def assert_repeated(outcome: Outcome, *texts: str) -> None:
    outcome.assert_failed(AirflowFailException, "REPEATED UPLOAD", "append of 'wave", *texts)


class TestWithALedger:
    @pytest.mark.parametrize(
        "waits", [{}, {"wait_for_completion": True}, {"wait_for_completion": True, "deferrable": True}]
    )
    def test_a_successful_task_is_cleared(self, lab, waits):
        lab = lab()
        task = lab.task(retries=1, **waits)
        first = task.run()
        assert first.state == "success"
        for _ in range(2):
            task.clear()
            assert_repeated(task.run(), first.result, "mark this task success", '{"datatile_on_repeat": "allow"}')
        assert lab.accepted() == 1
        assert lab.phases() == ["accepted"]

    @pytest.mark.parametrize(
        "other", [{"run_id": "run-2"}, {"dag_id": "another"}, {"dataset_name": "copy of the wave.csv"}]
    )
    def test_another_run_or_dag_or_name(self, lab, other):
        lab = lab()
        first = lab.task().run()
        if name := other.pop("dataset_name", ""):
            other = {"dataset": str(lab.file(name=name)), "run_id": "run-2"}
        outcome = lab.task(**other).run()
        outcome.assert_failed(
            AirflowFailException,
            "REPEATED UPLOAD",
            f"accepted as job {first.result}",
            "task upload of DAG tracker",
            "run run-1",
        )
        assert lab.accepted() == 1
        # Nothing of the second one is left.
        assert lab.phases() == ["accepted"]

    def test_another_target_or_content_is_another_upload(self, lab):
        lab = lab()
        assert lab.task().run().state == "success"
        other = lab.sandbox.add_database("Other", 3, ["respondent"])
        assert lab.task(target_hash=other).run().state == "success"
        lab.file("respondent,vote\n1,3\n")
        assert lab.task(run_id="run-2").run().state == "success"
        # An upload to a busy database is rejected, and retried.
        assert [phase for phase in lab.phases() if phase != "released"] == ["accepted"] * 3

    def test_two_at_the_same_moment(self, lab):
        lab = lab()
        for number in range(10):
            lab.file(f"respondent,vote\n1,{number}\n")
            tasks = [lab.task(run_id=f"run-{n}") for n in range(2)]
            with ThreadPoolExecutor(2) as pool:
                outcomes = list(pool.map(lambda task: task.run(), tasks))
            assert sorted(outcome.state for outcome in outcomes) == ["failed", "success"]
            (failed,) = (outcome for outcome in outcomes if outcome.state == "failed")
            assert_repeated(failed)
        assert lab.accepted() == 10

    @pytest.mark.parametrize(
        ("action", "on_repeat", "sent"),
        [
            ("append", None, 1),
            ("append", "fail", 1),
            ("append", "warn", 2),
            ("append", "allow", 2),
            ("create", None, 2),
            ("create", "fail", 1),
            ("reload", None, 2),
            ("reload", "fail", 2),
        ],
    )
    @pytest.mark.parametrize("cleared", [True, False])
    def test_on_repeat(self, lab, capsys, action, on_repeat, sent, cleared):
        lab = lab()
        target = lab.sandbox.folder if action == "create" else lab.database
        options = {"action": action, "on_repeat": on_repeat, "target_hash": target}
        task = lab.task(**options)
        assert task.run().state == "success"
        task.clear()
        outcome = (task if cleared else lab.task(run_id="run-2", **options)).run()
        assert (outcome.state, lab.accepted()) == ("success" if sent == 2 else "failed", sent)
        warned = "REPEATED UPLOAD: sending it again" in capsys.readouterr().out
        assert warned is (on_repeat == "warn" or (action, on_repeat) == ("create", None))

    def test_the_conf_of_the_run_decides(self, lab):
        lab = lab()
        assert lab.task().run().state == "success"
        task = lab.task(run_id="run-2")
        task.conf = {"datatile_on_repeat": "allow"}
        assert task.run().state == "success"
        assert lab.accepted() == 2
        # That was for one run.
        assert_repeated(lab.task(run_id="run-3").run())
        task = lab.task(run_id="run-4")
        task.conf = {"datatile_on_repeat": "yes"}
        task.run().assert_failed(AirflowFailException, "INVALID INPUT", "There is no on_repeat='yes'", "allow")
        assert lab.accepted() == 2

    def test_a_file_that_the_server_rejects_may_be_sent_again(self, lab):
        lab = lab(Fault("respond_instead", status=409), Fault("respond_instead", status=413))
        lab.task().run().assert_failed(AirflowFailException, "FILE TOO LARGE")
        assert set(lab.phases()) == {"released"}
        assert lab.task(run_id="run-2").run().state == "success"
        assert lab.accepted() == 1
        assert_repeated(lab.task(run_id="run-3").run())

    @pytest.mark.parametrize("waits", [True, False])
    def test_a_file_whose_job_failed_may_be_sent_again(self, lab, waits):
        lab = lab()
        dataset = str(lab.file("no survey", name="wave.sav"))
        outcome = lab.task(wait_for_completion=waits, dataset=dataset).run()
        assert outcome.state == ("failed" if waits else "success")
        until(lambda: lab.sandbox.jobs()[0]["state"] == "FAILED", "the job has failed")
        assert lab.phases() == ["released" if waits else "accepted"]
        lab.task(run_id="run-2", wait_for_completion=True, dataset=dataset).run().assert_failed(
            AirflowFailException, "JOB FAILED"
        )
        assert lab.accepted() == 2

    def test_a_retry_of_an_unknown_outcome_is_not_sent(self, lab):
        """Also where Airflow has no state store, and Airflow retries a task whose worker died after the last byte."""
        lab = lab()
        task = lab.task(retries=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claim.Claim, "note", lambda *a: (_ for _ in ()).throw(WorkerKilled))
            patch.setattr(task, "_attempt", _once(task, patch))
            outcome = task.run()
        assert "OUTCOME UNKNOWN" in str(outcome.errors[-1])
        assert lab.accepted() == 1
        assert lab.phases() == ["claimed"] if HAS_STATE_STORE else ["unknown"]

    @CAN_ASK
    def test_a_clear_after_an_unknown_outcome_asks(self, lab, asks):
        lab = lab(LOST)
        task = lab.task()
        task.run().assert_failed(AirflowFailException, "OUTCOME UNKNOWN", "clear this task, and answer its question")
        assert lab.phases() == ["unknown"]
        (job,) = lab.sandbox.jobs()
        task.clear()
        lab.answers = [answer(Choice.THERE, job["job_id"])]
        outcome = task.run()
        assert (outcome.state, outcome.result, lab.accepted(), len(asks)) == ("success", job["job_id"], 1, 1)
        (entry,) = lab.entries()
        assert (entry.phase, entry.job_id) == (Phase.ACCEPTED, job["job_id"])

    @CAN_ASK
    def test_a_clear_whose_question_is_answered_with_not_there(self, lab, asks):
        lab = lab(NOT_ACCEPTED)
        task = lab.task()
        task.run().assert_failed(AirflowFailException, "OUTCOME UNKNOWN")
        task.clear()
        lab.answers = [answer(Choice.NOT_THERE)]
        assert task.run().state == "success"
        assert (lab.accepted(), len(asks)) == (1, 1)
        assert lab.phases() == ["unknown", "accepted"]
        assert_repeated(lab.task(run_id="run-2").run())

    @CAN_ASK
    def test_another_task_sends_the_file_while_the_question_is_open(self, lab, asks):
        lab = lab(NOT_ACCEPTED)
        task = lab.task(on_unknown="ask")

        def answer_later() -> Any:
            # A person has looked, and then another run sends the file.
            meanwhile = lab.task(run_id="run-2", on_repeat="allow")
            assert meanwhile.run().state == "success"
            return answer(Choice.NOT_THERE)

        task._answer = answer_later
        assert_repeated(task.run(), "run run-2")
        assert (lab.accepted(), len(asks)) == (1, 1)

    @CAN_ASK
    def test_another_task_may_have_sent_the_file_while_the_question_is_open(self, lab, asks):
        lab = lab(NOT_ACCEPTED, LOST)
        task = lab.task(on_unknown="ask", on_repeat="ask")

        def answer_later() -> Any:
            lab.task(run_id="run-2", on_repeat="allow").run().assert_failed(AirflowFailException, "OUTCOME UNKNOWN")
            lab.answers = [answer(Choice.FAIL)]
            task._answer = lambda: lab.answers.pop(0)
            return answer(Choice.NOT_THERE)

        task._answer = answer_later
        outcome = task.run()
        assert_repeated(outcome, "the outcome is not known", "run run-2")
        assert lab.accepted() == 1
        # Nothing was sent without an answer about the other upload.
        assert lab.phases() == ["unknown", "unknown"]

    @CAN_ASK
    def test_an_answer_covers_what_an_earlier_answer_allowed(self, lab, asks):
        lab = lab()
        assert lab.task().run().state == "success"
        lab.proxy.inject(NOT_ACCEPTED)
        lab.answers = [answer(Choice.AGAIN), answer(Choice.NOT_THERE)]
        outcome = lab.task(run_id="run-2", on_repeat="ask", on_unknown="ask").run()
        assert (outcome.state, lab.accepted()) == ("success", 2)

    def test_a_repeat_whose_job_failed_does_not_hide_the_upload_before(self, lab):
        lab = lab()
        first = lab.task().run()
        task = lab.task(run_id="run-2", wait_for_completion=True)
        task.conf = {"datatile_on_repeat": "allow"}
        second = task.run()
        assert second.state == "success"
        lab.sandbox.set_status(second.result, "FAILED")
        assert_repeated(lab.task(run_id="run-3").run(), f"accepted as job {first.result}")
        assert lab.accepted() == 2
        assert (lab.phases()[0], lab.phases()[-1]) == ("accepted", "released")

    def test_resend_sends_after_an_unknown_outcome(self, lab):
        lab = lab(NOT_ACCEPTED)
        assert lab.task(on_unknown="resend").run().state == "success"
        assert lab.accepted() == 1

    @CAN_ASK
    @pytest.mark.parametrize("cleared", [True, False])
    @pytest.mark.parametrize(
        ("choice", "state", "sent"),
        [(Choice.THERE, "success", 1), (Choice.AGAIN, "success", 2), (Choice.FAIL, "failed", 1)],
    )
    def test_ask(self, lab, asks, cleared, choice, state, sent):
        lab = lab()
        task = lab.task(on_repeat="ask")
        first = task.run()
        task.clear()
        lab.answers = [answer(choice)]
        outcome = (task if cleared else lab.task(run_id="run-2", on_repeat="ask")).run()
        assert (outcome.state, lab.accepted()) == (state, sent), outcome.errors
        (question,) = asks
        assert question.subject.startswith("Send this file again? append of 'wave.csv'")
        assert question.options == ["It is there", "Send it again", "Fail the task"]
        assert first.result in question.body
        if choice is Choice.THERE:
            assert outcome.result == first.result
        if choice is Choice.FAIL:
            assert_repeated(outcome)

    def test_a_ledger_that_is_away(self, lab):
        lab = lab()
        lab.ledger.rename(lab.folder / "away")
        outcome = lab.task().run()
        assert type(outcome.error) is AirflowException
        assert "LEDGER UNUSABLE" in str(outcome.error)
        assert (lab.accepted(), lab.proxy.log) == (0, [])
        lab.connect(ledger=lab.ledger.as_uri(), ledger_optional=True)
        assert lab.task().run().state == "success"
        assert not lab.ledger.exists()

    def test_a_damaged_ledger(self, lab, capsys):
        lab = lab()
        assert lab.task().run().state == "success"
        (path,) = lab.ledger.glob("*/*/*.json")
        path.write_text(path.read_text()[:40])
        lab.task(run_id="run-2").run().assert_failed(AirflowFailException, "LEDGER DAMAGED", path.name, "wave.csv")
        assert lab.accepted() == 1
        lab.connect(ledger=lab.ledger.as_uri(), ledger_optional=True)
        assert lab.task(run_id="run-2").run().state == "success"
        assert "LEDGER DAMAGED: sending nevertheless" in capsys.readouterr().out

    def test_a_store_that_cannot_keep_a_ledger(self, lab):
        lab = lab()
        lab.connect(ledger="memory://ledger")
        lab.task().run().assert_failed(AirflowFailException, "INVALID INPUT", "'memory://ledger' can't be used")
        assert lab.proxy.log == []

    def test_the_entry_has_no_secret(self, lab):
        lab = lab()
        lab.task().run()
        (path,) = lab.ledger.glob("*/*/*.json")
        text = path.read_text()
        assert lab.sandbox.token not in text
        assert len(text) < 1000
        assert json.loads(text)["owner"]["run_id"] == "run-1"
        assert [p for p in lab.ledger.rglob("*") if p.is_file()] == [path]


class TestWithoutALedger:
    @pytest.mark.needs_airflow(">=3.3")
    def test_a_successful_append_is_cleared(self, lab):
        lab = lab()
        lab.connect()
        task = lab.task()
        first = task.run()
        for _ in range(2):
            task.clear()
            assert_repeated(
                task.run(), f"as job {first.result}", "An earlier attempt of this task has sent the same file"
            )
        assert lab.accepted() == 1
        # A corrected file is another upload.
        lab.file("respondent,vote\n1,3\n")
        task.clear()
        assert task.run().state == "success"
        assert lab.accepted() == 2

    def test_the_log_says_what_is_not_noticed(self, lab, capsys):
        lab = lab()
        lab.connect()
        lab.task().run()
        assert lab.task(run_id="run-2").run().state == "success"
        assert capsys.readouterr().out.count("No ledger: a clear or another run") == 2
        lab.task(action="reload").run()
        assert "No ledger" not in capsys.readouterr().out


def _once(task: Task, patch: pytest.MonkeyPatch) -> Any:
    """Return a function that undoes a patch after the task's first attempt."""
    run = task._attempt

    def attempt(*args: Any) -> Any:
        try:
            return run(*args)
        finally:
            patch.undo()

    return attempt


def test_on_repeat_is_checked_where_the_task_is_made():
    with pytest.raises(errors.InvalidInputError, match="on_repeat='never'"):
        DatatileUploadOperator(task_id="upload", action="append", target_hash="f00d", dataset="x", on_repeat="never")  # type: ignore[arg-type]
