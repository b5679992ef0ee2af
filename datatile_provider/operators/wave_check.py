"""DatatileWaveCheckOperator: checks a survey file before it is uploaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator

from datatile_provider.api import errors
from datatile_provider.api.validation import seconds
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.links.datatile import DatatileCheckLink, push_check_link
from datatile_provider.version_compat import cannot_ask, file_question, wait_for_answer

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg
    from airflow.sdk.execution_time.hitl import HITLUser

    from datatile_provider.hooks.dataset import DatasetLike
    from datatile_provider.survey.findings import Result

#: What a person can answer, as the buttons of the form say it.
ACCEPT, REJECT = "Accept the wave", "Reject the wave"


class DatatileWaveCheckOperator(BaseOperator):
    """
    Checks a survey file by itself and against earlier waves, and fails if a rule of severity ``error`` is broken.

    Put it before the upload. The rules are in ``docs/wave-check.md``. It returns what it has found, as a dict in the
    format of ``docs/formats.md``. If it fails, that is its XCom ``return_value`` too.

    :param dataset: the wave, as for :class:`~datatile_provider.operators.datatile.DatatileUploadOperator`: a path, a
        ``file://`` URI, or an object storage path or URI. Its format is its suffix: ``.sav``, ``.zsav``, ``.csv`` or
        ``.xlsx``. (templated)
    :param reference: an earlier wave, or several, the latest last; in the same way. (templated)
    :param database: the hash of a database. Its codebook is compared too, as an earlier wave. (templated)
    :param loaded: whether the wave was loaded into ``database``. Then the check says which variables and codes of the
        wave the database does not have, and nothing else. Put it after the wait.
    :param datatile_conn_id: the connection of the database. (templated)
    :param key: the variable that identifies an interview: none may be twice in the wave or in a reference. (templated)
    :param required: the names of variables that the wave must have. (templated)
    :param severity: ``error``, ``warning`` or ``ignore`` by rule, where it is to differ from the default.
    :param row_ratio: how many times more or fewer interviews than the earlier waves are too many.
    :param report: where to write an HTML report: a path or an object storage URI; ``""`` for none. (templated)
    :param on_error: what follows when there are errors: ``fail``, or ``ask`` (a person decides in Airflow 3.1 and
        later; elsewhere like ``fail``).
    :param ask_timeout: seconds (or a ``timedelta``) to wait for an answer, then the task fails; None waits without end.
    :param ask_users: the users who may answer, as for ``DatatileUploadOperator``.
    """

    template_fields: Sequence[str] = (
        *("dataset", "reference", "database", "key", "required", "report", "datatile_conn_id"),
    )
    ui_color = "#dcebd3"
    operator_extra_links = (DatatileCheckLink(),)

    def __init__(
        self,
        *,
        dataset: DatasetLike | XComArg,
        reference: DatasetLike | XComArg | Sequence[DatasetLike] = (),
        database: str = "",
        loaded: bool = False,
        key: str = "",
        required: Sequence[str] = (),
        severity: Mapping[str, Literal["error", "warning", "ignore"]] | None = None,
        row_ratio: float = 2.0,
        report: str = "",
        datatile_conn_id: str = DatatileHook.default_conn_name,
        on_error: Literal["fail", "ask"] = "fail",
        ask_timeout: float | timedelta | None = None,
        ask_users: HITLUser | Sequence[HITLUser] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_error not in ("fail", "ask"):
            raise errors.InvalidInputError(f"There is no on_error {on_error!r}", hint="Use fail or ask.")
        if not row_ratio >= 1:
            raise errors.InvalidInputError(f"row_ratio must be at least 1, not {row_ratio!r}")
        if loaded and (reference or not database):
            raise errors.InvalidInputError(
                "loaded needs a database, and no reference", hint="It compares the wave with the database's codebook."
            )
        # A misspelt rule is an error of the DAG, so it is found when the DAG is parsed.
        from datatile_provider.survey.findings import severities

        severities(severity or {})
        self.dataset: Any = dataset
        self.reference: Any = reference
        self.database = database
        self.loaded = loaded
        self.datatile_conn_id = datatile_conn_id
        self.key = key
        self.required = required
        self.severity = severity
        self.row_ratio = row_ratio
        self.report = report
        self.on_error = on_error
        self.ask_timeout = None if ask_timeout is None else seconds("ask_timeout", ask_timeout)
        self.ask_users = [ask_users] if isinstance(ask_users, dict) else ask_users and list(ask_users)

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Check the wave, and return what was found.

        :raises AirflowFailException: there are errors in the wave, or it can't be read. A retry would change nothing.
        :raises AirflowException: an object store does not respond; Airflow may retry.
        """
        with _as_airflow_errors():
            result = self._check()
        self._write_report(result)
        self._log_findings(result)
        push_check_link(self, context)
        found = result.as_dict()
        if not result.errors:
            return found
        error = _rejected(found)
        # A task that fails has no return value of its own.
        context["ti"].xcom_push(key="return_value", value=found)
        if self.on_error == "ask":
            self._ask(context, result, error)
        raise AirflowFailException(str(error))

    def resume_answered(
        self, context: Context, found: dict[str, Any] | None = None, event: Any = None
    ) -> dict[str, Any]:
        """
        Do what a person has answered about a wave with errors. See :meth:`execute`.

        :param found: what was found.
        :param event: the answer, as Airflow's ``HITLOperator`` gets it.
        """
        from datatile_provider.operators.question import answered

        error = _rejected(found or {})
        push_check_link(self, context)
        with _as_airflow_errors():
            option, words = answered(event)
        self.log.info("%s", words)
        if option == ACCEPT:
            return found or {}
        raise AirflowFailException(str(error.extended(words)))

    def _check(self) -> Result:
        from datatile_provider.survey.check import check_wave
        from datatile_provider.survey.read import CODEBOOK

        given = self.reference
        references = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
        required = [self.required] if isinstance(self.required, str) else list(self.required)
        with tempfile.TemporaryDirectory(prefix="datatile-") as folder:
            files = [_local(dataset, Path(folder, str(n))) for n, dataset in enumerate([self.dataset, *references])]
            names = {}
            if self.database:
                codebook = Path(folder, f"codebook{CODEBOOK}")
                codebook.write_bytes(DatatileHook(self.datatile_conn_id).get_codebook(self.database))
                names[codebook] = f"the codebook of {self.database}"
                # The last reference is the latest wave, which a codebook is not.
                files.insert(1, codebook)
            return check_wave(
                files[0],
                files[1:],
                names=names,
                loaded=self.loaded,
                key=self.key,
                required=required,
                severity=self.severity,
                row_ratio=self.row_ratio,
            )

    def _write_report(self, result: Result) -> None:
        if not self.report:
            return
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        from datatile_provider.survey.report import html

        try:
            ObjectStoragePath(self.report).write_bytes(html(result).encode())
        except Exception as e:  # each store raises its own classes of errors, and the findings are in the log too
            self.log.error("The report %s could not be written: %s: %s", self.report, type(e).__name__, e)
        else:
            self.log.info("Report: %s", self.report)

    def _log_findings(self, result: Result) -> None:
        from datatile_provider.survey.rules import Severity
        from datatile_provider.survey.table import lines

        log = {Severity.ERROR: self.log.error, Severity.WARNING: self.log.warning, Severity.IGNORE: self.log.info}
        # Airflow's log view shows each call as a line.
        for severity, line in lines(result):
            log[severity]("%s", line)

    def _ask(self, context: Context, result: Result, error: errors.DatatileError) -> None:
        """Raise the exception with which the task waits for a person's answer; return if it can't ask."""
        if reason := cannot_ask():
            self.log.warning("The task fails instead of asking: %s", reason)
            return
        ti: Any = context["ti"]
        question = {
            "subject": f"Accept {result.source}? It has {result.summary}.",
            "body": _body(result),
            "options": [ACCEPT, REJECT],
            "defaults": [REJECT],
            "multiple": False,
            "params": {},
            "assigned_users": self.ask_users or [],
        }
        try:
            waits = wait_for_answer(
                ti,
                question,
                timeout=self.ask_timeout,
                method_name=self.resume_answered.__name__,
                kwargs={"found": result.as_dict()},
            )
            shown = file_question(ti, **question)
        except Exception as e:  # any error of Airflow, or of a standard provider that is too old
            self.log.error("The task fails, because Airflow could not ask: %s", e)
            return
        if shown != question["body"]:
            # Airflow keeps the text of a task's first question.
            self.log.error("The task fails, because Airflow still shows the findings of an earlier check")
            return
        self.log.warning("%s", error.report("asking a person"))
        raise waits


def _body(result: Result) -> str:
    """Return the findings in Markdown, for the person who decides. All that comes from a file is escaped."""
    from datatile_provider.operators.question import escaped
    from datatile_provider.survey.rules import RULES
    from datatile_provider.survey.table import LINES, lines_of

    parts = []
    for (severity, name), findings in result.by_rule().items():
        rule = RULES[name]
        more = [f"- … and {len(findings) - LINES} more"] if len(findings) > LINES else []
        parts.append(f"**{severity.value} {name}**: {rule.what}. {rule.reason}")
        listed = [f"- {escaped(' '.join(lines_of(finding)))}" for finding in findings[:LINES]]
        parts.append("\n".join([*listed, *more]))
    return "\n\n".join([*parts, *map(escaped, result.notes)])


def _rejected(found: Mapping[str, Any]) -> errors.WaveRejectedError:
    broken = [finding for finding in found.get("findings", ()) if finding["severity"] == "error"]
    rules = dict.fromkeys(finding["rule"] for finding in broken)
    names = {rule: [f["variable"] for f in broken if f["rule"] == rule and f["variable"]] for rule in rules}
    listed = [f"{rule}{f': {_first(variables)}' if variables else ''}" for rule, variables in names.items()]
    number = found.get("errors", 0)
    return errors.WaveRejectedError(
        f"The wave has {number} error{'' if number == 1 else 's'}\n" + "\n".join(listed),
        subject=f"check of {found.get('file')!r}",
        hint="Nothing was uploaded. The log says for each what to do.\n"
        "Correct the file and clear this task. To accept it as it is, set the rule's severity.",
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _local(dataset: DatasetLike, folder: Path) -> Path:
    """Return a local file with a dataset's content: itself, or a copy in a folder."""
    from datatile_provider.api.dataset import BLOCK, map_read_errors
    from datatile_provider.hooks.dataset import dataset_of, local_path

    found = dataset_of(dataset)
    if path := local_path(dataset):
        return path
    folder.mkdir()
    with map_read_errors(found), found.open() as source, Path(folder, Path(found.name).name).open("wb") as target:
        while block := source.read(BLOCK):
            target.write(block)
    return Path(folder, Path(found.name).name)


@contextmanager
def _as_airflow_errors() -> Iterator[None]:
    """Let Airflow retry what is transient, and nothing else."""
    try:
        yield
    except errors.DatatileError as e:
        kind = AirflowException if isinstance(e, errors.TransientError) else AirflowFailException
        raise kind(str(e)) from None
