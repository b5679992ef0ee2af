"""The question about an upload of unknown outcome: what is asked, and what follows from each answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from datatile_provider import version_compat
from datatile_provider.api import errors
from datatile_provider.operators import attempt
from datatile_provider.operators.answered import AnsweredAttempt
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.question import Answer, Choice, Question
from datatile_provider.sandbox import Sandbox
from datatile_provider.triggers.datatile import ended
from tests.support.faults import Fault
from tests.support.reading import one_line
from tests.support.task import WorkerKilled
from tests.support.versions import HAS_STATE_STORE

pytestmark = pytest.mark.needs_airflow(">=3.1")

ADA = {"id": "7", "name": "Ada"}
NOT_ACCEPTED, LOST = Fault("reset_after_body"), Fault("reset_before_response")


def answer(choice: Choice, job_id: Any = "", user: Any = ADA) -> dict[str, Any]:
    """Return the event of an answer, as Airflow makes it."""
    return {
        "chosen_options": [choice.value],
        "params_input": {"job_id": job_id},
        "responded_at": "2026-01-05T06:03:10+00:00",
        "responded_by_user": user,
    }


def its_job(sandbox: Sandbox) -> dict[str, Any]:
    """The answer of a person who has found the upload and its job."""
    return answer(Choice.THERE, sandbox.jobs()[-1]["job_id"])


class Comms:
    """
    A task's connection to Airflow, which keeps the text of the first question of a task instance.

    :ivar filed: the questions that were filed.
    """

    def __init__(self) -> None:
        self.filed: list[Any] = []

    def send(self, message: Any) -> Any:
        if type(message).__name__ != "CreateHITLDetailPayload":
            return None
        self.filed.append(message)
        return self.filed[0]


@pytest.fixture(autouse=True)
def questions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The questions that were filed with Airflow."""
    comms = Comms()
    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", comms, raising=False)
    return comms.filed


@pytest.fixture(params=[{}, {"wait_for_completion": True}, {"wait_for_completion": True, "deferrable": True}])
def waits(request: pytest.FixtureRequest) -> Any:
    return request.param


class TestAnswers:
    @pytest.mark.parametrize("action", ["create", "append"])
    def test_there_with_its_job(self, run, waits, action, questions):
        run = run(LOST, action=action, on_unknown="ask", answer=its_job, **waits)
        assert run.result == "succeeds; 1 accepted"
        assert run.outcome.result == run.outcome.job_id != ""
        assert len(questions) == len(run.uploads()) == 1
        if HAS_STATE_STORE:
            record = run.task.store.get("datatile_upload")
            assert (record["phase"], record["job_id"]) == ("done", run.outcome.result)
            assert record["answer"] == {
                "choice": "there",
                "by": "Ada",
                "at": "2026-01-05T06:03:10+00:00",
                "job_id": run.outcome.result,
            }

    def test_there_without_a_job(self, run, waits):
        run = run(LOST, on_unknown="ask", answer=lambda _: answer(Choice.THERE, None), **waits)
        assert run.result == "succeeds; 1 accepted"
        assert (run.outcome.result, run.outcome.job_id) == ("", "")
        if HAS_STATE_STORE:
            assert run.task.store.get("datatile_upload")["phase"] == "done"

    def test_not_there(self, run, waits, capsys):
        run = run(NOT_ACCEPTED, on_unknown="ask", answer=lambda _: answer(Choice.NOT_THERE), **waits)
        assert run.result == "succeeds; 1 accepted"
        # The server may be busy for a moment with the upload that was cut off.
        assert len(run.uploads()) >= 2
        assert 'Ada answered "It is not there: send it" on 2026-01-05 06:03:10 UTC' in capsys.readouterr().out
        if HAS_STATE_STORE:
            assert run.task.store.get("datatile_upload")["answer"]["choice"] == "not_there"

    @pytest.mark.parametrize(
        ("user", "said"),
        [(ADA, 'Ada answered "Fail the task" on 2026-01-05 06:03:10 UTC'), (None, "Nobody answered until 2026")],
    )
    def test_fail(self, run, user, said):
        run = run(LOST, on_unknown="ask", answer=lambda _: answer(Choice.FAIL, user=user))
        run.outcome.assert_failed(
            AirflowFailException, "OUTCOME UNKNOWN", "append of 'wave.csv'", run.target, said, "mark this task success"
        )
        assert run.accepted == 1
        if HAS_STATE_STORE:
            record = run.task.store.get("datatile_upload")
            assert (record["phase"], record["answer"]["choice"]) == ("reported", "fail")

    @pytest.mark.parametrize("job_id", ["no such job", "job-99", "7/../8"])
    def test_a_job_id_that_cannot_be_used(self, run, job_id, questions):
        answers = iter([lambda _: answer(Choice.THERE, job_id), its_job])
        run = run(LOST, on_unknown="ask", answer=lambda sandbox: next(answers)(sandbox))
        run.outcome.assert_failed(AirflowFailException, "ANSWER INVALID", job_id, "Ada")
        assert run.accepted == 1
        assert ("it asks again" in one_line(run.outcome.error)) is HAS_STATE_STORE
        assert len(questions) == 1

    @pytest.mark.parametrize(
        "event", [None, {}, {"chosen_options": ["Maybe"]}, {"error": "no", "error_type": "unknown"}]
    )
    def test_an_answer_that_cannot_be_read(self, run, event):
        run = run(LOST, on_unknown="ask", answer=lambda _: event)
        run.outcome.assert_failed(AirflowFailException, "ANSWER INVALID", "Airflow's answer can't be read")
        assert run.accepted == 1

    def test_a_job_that_failed(self, run):
        """The person named it, so it is no reason to send the file again."""

        def cancelled(sandbox: Sandbox) -> dict[str, Any]:
            sandbox.cancel(sandbox.jobs()[-1]["job_id"])
            return its_job(sandbox)

        run = run(LOST, on_unknown="ask", answer=cancelled, processing_seconds=60.0)
        run.outcome.assert_failed(AirflowFailException, "JOB CANCELLED", "Replace the file")
        assert run.accepted == 1

    def test_unknown_again(self, run, questions):
        """Airflow shows the first question again."""
        answers = iter([lambda _: answer(Choice.NOT_THERE), its_job])
        run = run(NOT_ACCEPTED, LOST, on_unknown="ask", answer=lambda sandbox: next(answers)(sandbox))
        assert run.result == "succeeds; 1 accepted"
        assert len(questions) == 2

    def test_unknown_again_for_another_file(self, run, questions, capsys, tmp_path):
        """Airflow would show the question about the first one."""
        file = tmp_path / "wave.csv"
        file.write_text("respondent\n" + "1\n" * 3_000_000)

        def change(_: Sandbox) -> dict[str, Any]:
            file.write_text("respondent\n" + "12\n" * 3_000_000)
            return answer(Choice.FAIL)

        first = run(LOST, on_unknown="ask", answer=change, dataset=str(file))
        first.task.clear()
        second = run(LOST, on_unknown="ask", dataset=str(file))
        second.outcome.assert_failed(AirflowFailException, "OUTCOME UNKNOWN")
        assert len(questions) == 2
        out = capsys.readouterr().out
        assert "could not ask: Airflow still shows this task's question about another upload" in out

    def test_a_busy_server_after_the_answer(self, run, monkeypatch):
        """The answer survives the deferral of a backoff."""
        monkeypatch.setattr(attempt, "MAX_BACKOFF_IN_WORKER", 0.01)
        busy = Fault("respond_instead", "upload", status=409, times=2)
        run = run(NOT_ACCEPTED, busy, on_unknown="ask", answer=lambda _: answer(Choice.NOT_THERE), deferrable=True)
        assert run.result == "succeeds; 1 accepted"
        assert run.task.deferrals == ["resume_answered", "retry_upload", "retry_upload"]
        if HAS_STATE_STORE:
            assert run.task.store.get("datatile_upload")["answer"]["by"] == "Ada"

    def test_a_file_that_changed_since_the_question(self, run, tmp_path):
        file = tmp_path / "wave.csv"
        file.write_text("respondent\n" + "1\n" * 3_000_000)

        def change(_: Sandbox) -> dict[str, Any]:
            file.write_text("respondent\n1\n")
            return answer(Choice.NOT_THERE)

        run = run(NOT_ACCEPTED, on_unknown="ask", answer=change, dataset=str(file))
        run.outcome.assert_failed(AirflowFailException, "FILE CHANGED")
        assert run.accepted == 0

    @pytest.mark.parametrize("waits", [{}, {"wait_for_completion": True, "deferrable": True}])
    def test_openlineage_knows_the_answer(self, run, waits):
        run = run(LOST, on_unknown="ask", answer=its_job, **waits)
        facets = run.outcome.task.get_openlineage_facets_on_complete(None).run_facets
        found = facets["datatile_answer"]
        assert (found.answer, found.answeredBy, found.answeredAt) == ("there", "Ada", "2026-01-05T06:03:10+00:00")
        assert facets["datatile_job"].jobId == run.outcome.result


class TestInterruptions:
    """What is done when the worker, the trigger, a notifier or Airflow itself fails around the question."""

    @pytest.mark.needs_airflow(">=3.3")
    @pytest.mark.parametrize("when", ["while it is sent", "when the question was filed", "after the answer"])
    def test_the_worker_dies(self, run, when, questions, monkeypatch):
        deaths = iter([True])

        def die(*_: object, **__: object) -> Any:
            if next(deaths, None):
                raise WorkerKilled

        if when == "while it is sent":
            place = "datatile_provider.operators.guard.GuardedUpload._ask"
            original = attempt.UploadAttempt._ask
            monkeypatch.setattr(place, lambda *a: die() or original(*a))
        elif when == "when the question was filed":
            monkeypatch.setattr("datatile_provider.operators.question.file_question", _then(die, "ask"))
        else:
            monkeypatch.setattr("datatile_provider.operators.answered.AnsweredAttempt.note", _then(die, "note"))
        run = run(LOST, on_unknown="ask", answer=its_job)
        assert run.result == "succeeds; 1 accepted"
        assert (run.outcome.attempts, len(run.uploads())) == (2, 1)

    def test_a_failed_trigger_leaves_the_question_without_an_answer(self, run, monkeypatch):
        """Without a state store, Airflow's retry would send the file again."""

        def fails(operator: Any, method: str, kwargs: Any, context: Any) -> Any:
            assert method == "resume_answered"
            return original(operator, "__fail__", {"error": "Trigger failure"}, context)

        original = DatatileUploadOperator.resume_execution
        monkeypatch.setattr(DatatileUploadOperator, "resume_execution", fails)
        run = run(LOST, on_unknown="ask")
        run.outcome.assert_failed(
            AirflowFailException, "OUTCOME UNKNOWN", "after its question: Trigger failure", "append of 'wave.csv'"
        )
        assert run.accepted == 1

    def test_a_question_that_cannot_be_filed(self, run, monkeypatch, capsys):
        def fail(*_: object, **__: object) -> None:
            raise ConnectionError("no API server")

        monkeypatch.setattr(Comms, "send", fail)
        run = run(LOST, on_unknown="ask")
        run.outcome.assert_failed(AirflowFailException, "OUTCOME UNKNOWN")
        assert "The task fails, because Airflow could not ask: no API server" in capsys.readouterr().out

    @pytest.mark.parametrize("where", ["the question", "a notifier"])
    def test_a_timeout_while_it_asks_without_a_state_store(self, run, monkeypatch, where):
        """Airflow would retry the task, and the retry would know nothing of the upload."""

        def time_out(*_: object) -> None:
            raise AirflowTaskTimeout("60 s")

        monkeypatch.setattr("tests.support.task.HAS_STATE_STORE", False)
        if where == "the question":
            monkeypatch.setattr("datatile_provider.operators.question.file_question", lambda *_, **__: time_out())
        run = run(LOST, on_unknown="ask", answer=its_job, ask_notifiers=[time_out] if where == "a notifier" else [])
        assert run.accepted == len(run.uploads()) == 1
        assert run.outcome.attempts == 1
        if where == "the question":
            run.outcome.assert_failed(AirflowFailException, "OUTCOME UNKNOWN")
        else:
            assert run.outcome.state == "success"

    def test_an_open_question_that_cannot_be_read_without_a_state_store(self, run, monkeypatch):
        original = DatatileUploadOperator.resume_execution

        def fails(operator: Any, method: str, kwargs: Any, context: Any) -> Any:
            monkeypatch.setattr(context["ti"], "xcom_pull", unreadable)
            return original(operator, "__fail__", {"error": "Trigger failure"}, context)

        def unreadable(task_ids: str, key: str, map_indexes: int) -> Any:
            if key == "asked":
                raise ConnectionError("no XCom backend")

        monkeypatch.setattr("tests.support.task.HAS_STATE_STORE", False)
        monkeypatch.setattr(DatatileUploadOperator, "resume_execution", fails)
        run = run(LOST, on_unknown="ask", answer=lambda _: answer(Choice.FAIL))
        assert (run.outcome.attempts, run.accepted, len(run.uploads())) == (1, 1, 1)
        assert run.outcome.state == "failed"

    @pytest.mark.needs_airflow(">=3.3")
    def test_it_is_there_but_the_task_has_changed_since(self, run, monkeypatch, tmp_path, questions):
        file = tmp_path / "wave.csv"
        file.write_text("respondent\n" + "1\n" * 3_000_000)
        ask, deaths = attempt.UploadAttempt._ask, iter([True])

        def die(upload: Any, error: Any) -> Any:
            if next(deaths, None):
                file.write_text("respondent\n" + "2\n" * 3_000_000 + "3\n")
                raise WorkerKilled
            return ask(upload, error)

        monkeypatch.setattr("datatile_provider.operators.guard.GuardedUpload._ask", die)
        run = run(LOST, on_unknown="ask", answer=its_job, dataset=str(file))
        assert (run.outcome.state, run.outcome.attempts, run.accepted) == ("failed", 2, 1)
        assert "TASK CHANGED" in str(run.outcome.errors[-1])
        assert "its upload of now was not sent" in questions[0].body

    def test_notifiers(self, run, capsys):
        seen: list[str] = []

        def notify(context: Any) -> None:
            seen.append("called")

        def fail(context: Any) -> None:
            raise ConnectionError("no mail server")

        run = run(LOST, on_unknown="ask", answer=its_job, ask_notifiers=[fail, notify])
        assert run.result == "succeeds; 1 accepted"
        assert seen == ["called"]
        assert "A notifier about the question failed: no mail server" in capsys.readouterr().out

    def test_where_airflow_cannot_ask_the_task_fails_and_says_why(self, run, monkeypatch, questions, capsys):
        monkeypatch.setattr("datatile_provider.operators.guard.cannot_ask", lambda: "dag.test() does not ask")
        run = run(LOST, on_unknown="ask")
        run.outcome.assert_failed(AirflowFailException, "OUTCOME UNKNOWN")
        assert "The task fails instead of asking: dag.test() does not ask" in capsys.readouterr().out
        assert questions == []


class TestText:
    def test_what_is_asked(self, run, questions):
        run = run(LOST, on_unknown="ask", answer=its_job)
        (question,) = questions
        assert question.subject.startswith("Does DATATILE have this upload? append of 'wave.csv' (6,0")
        assert question.options == ["It is there", "It is not there: send it", "Fail the task"]
        assert question.defaults == ["Fail the task"]
        assert question.params["job_id"]["value"] == ""
        page = MarkdownIt("commonmark").render(question.body)
        for text in ("append of", "wave.csv", "bytes", run.target, "started 20", "then no response came"):
            assert text in page, page
        assert page.count("<a href=") == 1

    @given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
    def test_what_comes_from_outside_is_text(self, name, what, message):
        def markup(name: str, what: str, message: str) -> list[str]:
            error = errors.OutcomeUnknownError(what, server_message=message, log_url="https://datatile.example.com/log")
            question = Question(f"append of {name}\nstarted now", "", "", False, ended(error))
            tokens = _flat(MarkdownIt("commonmark").parse(question.body))
            return [token.type for token in tokens if token.type not in LAYOUT]

        assert markup(repr(name), what, message) == markup("wave", "It broke", "no")

    def test_markup_is_escaped(self):
        error = errors.OutcomeUnknownError(
            "no", server_message="<b>[click](https://evil.example.com)</b> ![](x) `a` *b*"
        )
        body = Question("append of '#1_a.sav'", "", "", False, ended(error)).body
        page = MarkdownIt("commonmark").render(body)
        assert "&lt;b&gt;[click](https://evil.example.com)&lt;/b&gt; ![](x) `a` *b*" in page
        assert "#1_a.sav" in page
        assert "<a" not in page

    def test_a_question_survives_its_storage(self):
        question = Question(
            "append", "https://d.example.com/api/v2", "v1", True, ended(errors.OutcomeUnknownError("no"))
        )
        assert Question.of(json.loads(json.dumps(question.as_dict()))) == question
        assert "its upload of now was not sent" in question.body


#: Tokens that depend on how much text there is.
LAYOUT = {"text", "text_special", "softbreak", "inline", "paragraph_open", "paragraph_close"}


def _flat(tokens: Any) -> Iterator[Any]:
    for token in tokens:
        yield token
        yield from _flat(token.children or ())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


class TestAnswer:
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "chosen_options": st.lists(st.sampled_from([*Choice]).map(lambda c: c.value), max_size=2) | JSON,
                "params_input": st.fixed_dictionaries({}, optional={"job_id": JSON}) | JSON,
                "responded_at": st.datetimes(timezones=st.just(timezone.utc)) | JSON,
                "responded_by_user": st.just(ADA) | JSON,
            },
        )
        | JSON
    )
    def test_any_event(self, event):
        with contextlib.suppress(errors.AnswerInvalidError):
            found = Answer.of(event)
            assert Answer.stored(json.loads(json.dumps(found.as_dict()))) == found
            assert str(found)

    def test_a_time_as_airflow_gives_it(self):
        at = datetime(2026, 1, 5, 6, 3, 10, tzinfo=timezone.utc)
        found = Answer.of({**answer(Choice.THERE, " 17 "), "responded_at": at})
        assert found == Answer(Choice.THERE, "Ada", "2026-01-05T06:03:10+00:00", "17")
        assert str(found) == 'Ada answered "It is there" on 2026-01-05 06:03:10 UTC'

    @pytest.mark.parametrize("value", [None, {}, {"choice": "perhaps"}, {"choice": 1, "by": "", "at": ""}])
    def test_what_is_not_an_answer(self, value):
        assert Answer.stored(value) is None


def _then(after: Callable[[], None], name: str) -> Any:
    """Return the function of that name, and something that follows it."""
    original: Any = version_compat.file_question if name == "ask" else AnsweredAttempt.note

    def both(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        after()
        return result

    return both


def test_the_parameters(tmp_path: Path):
    given: dict[str, Any] = {"task_id": "upload", "action": "append", "target_hash": "f00d", "dataset": "x.sav"}
    asking: dict[str, Any] = {"on_unknown": "ask", "ask_users": ADA, "ask_timeout": 60, "ask_notifiers": print}
    one = DatatileUploadOperator(**given, **asking)
    assert (one.ask_users, one.ask_timeout, one.ask_notifiers) == ([ADA], 60.0, (print,))
    two = DatatileUploadOperator(**given)
    assert (two.on_unknown, two.ask_users, two.ask_timeout, two.ask_notifiers) == ("fail", None, None, ())
    with pytest.raises(errors.InvalidInputError, match="on_unknown='sometimes'"):
        DatatileUploadOperator(**{**given, "on_unknown": "sometimes"})
    with pytest.raises(errors.InvalidInputError, match="ask_timeout"):
        DatatileUploadOperator(**given, ask_timeout=0)
