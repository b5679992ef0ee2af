"""DatatileWaveCheckOperator: what it returns, raises, logs, writes and asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowException, AirflowFailException

from datatile_provider.api.errors import InvalidInputError
from datatile_provider.operators.wave_check import ACCEPT, REJECT, DatatileWaveCheckOperator
from datatile_provider.survey.findings import Finding, Result
from datatile_provider.survey.report import html
from datatile_provider.survey.rules import RULES, Severity
from datatile_provider.survey.table import WIDTH, lines
from tests.support.dags import dag_folder, run_dag
from tests.support.fixtures import plain_environment
from tests.support.task import Task
from tests.survey.plant import KEY, waves

__all__ = ["dag_folder", "plain_environment", "run_dag"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two good waves, and one in which a question has another scale."""
    folder = tmp_path_factory.mktemp("waves")
    first, second, third, *_ = waves()
    first.write(folder / "wave1.zsav")
    second.write(folder / "wave2.zsav")
    third.values["vote"] = {0: "Dole", 1: "Clinton"}
    third.values["PID"][9] = "*Other* <b>party</b>"
    third.write(folder / "wave3.zsav")
    return folder


def task(folder: Path, wave: str = "wave3.zsav", answer: Any = None, **options: Any) -> Task:
    given = {"dataset": str(folder / wave), "reference": str(folder / "wave1.zsav"), "key": KEY, **options}
    return Task(lambda: DatatileWaveCheckOperator(task_id="check", **given), retries=2, answer=lambda: answer)


def test_a_good_wave(folder: Path) -> None:
    outcome = task(folder, "wave2.zsav", reference=[str(folder / "wave1.zsav"), f"file://{folder}/wave1.zsav"]).run()

    assert (outcome.state, outcome.attempts) == ("success", 1)
    assert (outcome.result["errors"], outcome.result["findings"], outcome.result["rows"]) == (0, [], 70)
    assert outcome.result["references"] == ["wave1.zsav", "wave1.zsav"]


def test_a_wave_with_errors_fails_without_retries(folder: Path) -> None:
    check = task(folder)
    outcome = check.run()

    assert (outcome.state, outcome.attempts, type(outcome.error)) == ("failed", 1, AirflowFailException)
    assert str(outcome.error) == (
        "WAVE REJECTED\n"
        "check of 'wave3.zsav'\n"
        "The wave has 1 error\n"
        "scale-reversed: vote.\n"
        "Nothing was uploaded. The log says for each what to do.\n"
        "Correct the file and clear this task. To accept it as it is, set the\n"
        "rule's severity.\n"
        "Help: docs/troubleshooting.md#wave-rejected"
    )
    found = check.ti.xcoms["return_value"]
    assert [(f["severity"], f["rule"], f["variable"], f["codes"]) for f in found["findings"]] == [
        ("error", "scale-reversed", "vote", ["0", "1"]),
        ("warning", "new-code", "PID", ["9"]),
    ]


def test_a_severity_of_its_own(folder: Path) -> None:
    accepted = task(folder, severity={"scale-reversed": "warning", "new-code": "ignore"}).run()
    rejected = task(folder, severity={"scale-reversed": "ignore", "new-code": "error"}).run()

    assert [f["rule"] for f in accepted.result["findings"]] == ["scale-reversed"]
    assert "new-code: PID" in str(rejected.error)


@pytest.mark.parametrize("uri", [False, True])
def test_the_report(folder: Path, tmp_path: Path, uri: bool) -> None:
    path = tmp_path / "report.html"
    assert task(folder, report=path.as_uri() if uri else str(path)).run().state == "failed"
    page = path.read_text()

    assert "<b>party" not in page
    assert "9 = *Other* &lt;b&gt;party&lt;/b&gt;" in page
    assert "0 = Clinton, 1 = Dole" in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"wave": "none.zsav"}, AirflowFailException, "There is no file"),
        ({"wave": "broken.sav"}, AirflowFailException, "SURVEY UNREADABLE"),
        ({"reference": "s3://bucket/wave.txt", "wave": "wave1.zsav"}, AirflowException, "wave.txt"),
    ],
)
def test_what_can_not_be_checked(folder: Path, options: dict[str, Any], kind: type, text: str) -> None:
    (folder / "broken.sav").write_bytes(b"$FL2" + bytes(3))
    outcome = task(folder, **options).run()

    assert outcome.state == "failed"
    assert isinstance(outcome.errors[0], kind)
    assert text in str(outcome.errors[0])
    # Only what may be better later is retried.
    assert outcome.attempts == (1 if kind is AirflowFailException else len(outcome.errors))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"severity": {"scale": "error"}}, "There is no rule 'scale'"),
        ({"severity": {"row-count": "info"}}, "There is no severity 'info'"),
        ({"on_error": "warn"}, "There is no on_error 'warn'"),
        ({"row_ratio": 0.5}, "row_ratio must be at least 1"),
    ],
)
def test_arguments_that_can_not_be_used(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        DatatileWaveCheckOperator(task_id="check", dataset="wave.sav", **options)


def test_a_report_that_can_not_be_written_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert task(folder, "wave2.zsav", report="/proc/no/report.html").run().state == "success"
    assert "The report /proc/no/report.html could not be written" in capsys.readouterr().out


def test_in_a_dag_before_an_upload(run_dag: Any, folder: Path) -> None:
    with DAG("checked", schedule=None) as dag:
        DatatileWaveCheckOperator(
            task_id="check",
            dataset=f"{folder}/{{{{ dag.dag_id and 'wave3' }}}}.zsav",
            reference=[f"{folder}/wave1.zsav", f"{folder}/{{{{ 'wave2' }}}}.zsav"],
            retries=1,
        )
    outcome = run_dag(dag)

    assert outcome.state == "failed"
    check = outcome.unmapped["check"]
    assert check.state == "failed"
    assert check.result["errors"] == 1
    assert "ERROR scale-reversed: the same labels have other codes" in check.log
    assert "vote: 0 = Clinton, 1 = Dole -> 0 = Dole, 1 = Clinton" in check.log


def answer(option: str) -> dict[str, Any]:
    """Return the event of an answer, as Airflow makes it."""
    user = {"id": "7", "name": "Ada"}
    return {"chosen_options": [option], "responded_at": "2026-01-05T06:03:10+00:00", "responded_by_user": user}


@pytest.mark.needs_airflow(">=3.1")
class TestQuestions:
    @pytest.fixture(autouse=True)
    def filed(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        filed: list[Any] = []

        class Comms:
            def send(self, message: Any) -> Any:
                filed.append(message)
                # Airflow keeps the first text.
                return filed[0]

        monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", Comms(), raising=False)
        return filed

    def test_accepted(self, folder: Path, filed: list[Any]) -> None:
        outcome = task(folder, on_error="ask", answer=answer(ACCEPT)).run()

        assert (outcome.state, outcome.result["errors"]) == ("success", 1)
        (question,) = filed
        assert question.subject == "Accept wave3.zsav? It has 1 error, 1 warning."
        assert question.options == [ACCEPT, REJECT]
        assert question.defaults == [REJECT]
        assert r"\*Other\* \<b\>party\<\/b\>" in question.body
        assert "vote" in question.body

    @pytest.mark.parametrize(
        ("event", "text"),
        [
            (answer(REJECT), 'Ada answered "Reject the wave" on 2026-01-05 06:03:10 UTC'),
            ({**answer(REJECT), "responded_by_user": None}, "Nobody answered until 2026-01-05"),
            ({"error": "?"}, "Airflow's answer can't be read"),
        ],
    )
    def test_rejected(self, folder: Path, event: Any, text: str) -> None:
        outcome = task(folder, on_error="ask", answer=event).run()

        assert (outcome.state, outcome.attempts, type(outcome.error)) == ("failed", 1, AirflowFailException)
        assert text in str(outcome.error).replace("\n", " ")

    def test_a_question_of_an_earlier_check_is_not_answered_again(self, folder: Path, filed: list[Any]) -> None:
        check = task(folder, on_error="ask", answer=answer(ACCEPT))
        check.run()
        other = task(folder, on_error="ask", answer=answer(ACCEPT), severity={"new-code": "error"}).run()

        assert (other.state, len(filed)) == ("failed", 2)
        assert "new-code: PID" in str(other.error)

    def test_a_good_wave_asks_nothing(self, folder: Path, filed: list[Any]) -> None:
        assert task(folder, "wave2.zsav", on_error="ask").run().state == "success"
        assert filed == []


def test_where_airflow_can_not_ask_the_task_fails(folder: Path) -> None:
    assert task(folder, on_error="ask").run().state == "failed"


def many() -> Result:
    found = [(Severity.ERROR, Finding("other-label", f"q{n}", "1 = a" * n, "1 = b\x1b[31m")) for n in range(60)]
    return Result("wave.sav", ("a.sav", "b.sav"), None, tuple(found), ("A note. " * 30,))


def test_lines_are_short() -> None:
    found = [line for _, line in lines(many())]

    assert max(map(len, found)) <= WIDTH
    assert "  … and 40 more" in found
    assert all(line.isprintable() for line in found)


def test_the_result_as_data() -> None:
    data = json.loads(json.dumps(many().as_dict()))

    assert (data["version"], data["errors"], len(data["findings"])) == (1, 60, 60)
    assert all(finding["hint"] == RULES["other-label"].hint for finding in data["findings"])
    assert "60 errors, no warnings" in html(many())
