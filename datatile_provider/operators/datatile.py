"""DatatileUploadOperator: uploads a file to create, reload or append a DATATILE database."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator, conf

from datatile_provider.api.models import Job, OnRepeat, OnUnknown
from datatile_provider.api.validation import seconds
from datatile_provider.hooks.datatile import ACCEPT_TIMEOUT, JOB_TIMEOUT, POLL_INTERVAL, DatatileHook
from datatile_provider.links.datatile import DatatileJobLink, DatatileLogLink
from datatile_provider.triggers.datatile import resume_arguments
from datatile_provider.version_compat import resumed_method

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context, XComArg
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk.execution_time.hitl import HITLUser

    from datatile_provider.hooks.dataset import DatasetLike
    from datatile_provider.operators.attempt import UploadAttempt
    from datatile_provider.operators.first_step import Cleared


class DatatileUploadOperator(BaseOperator):
    """
    Uploads a file to create, reload or append a DATATILE database, and returns the id of the job that processes it.

    A create or append is never sent again when its outcome is unknown: the task fails without Airflow's retries, and
    its error says what to check.

    :param action: ``create`` (makes a new database in a folder), ``reload`` (replaces a database's data) or
        ``append`` (adds to a database). (templated)
    :param target_hash: the hash of the folder (create) or of the database (reload, append). (templated)
    :param dataset: a local path, a ``file://`` URI, or an object storage path or URI, which is streamed. (templated)
    :param callback_url: the URL that DATATILE sends the job's transitions to. (templated)
    :param datatile_conn_id: the connection. (templated)
    :param wait_for_completion: whether to wait until the job has succeeded.
    :param deferrable: whether to wait in the triggerer, without a worker slot: for the job, and for the next attempt
        when the destination is busy or uploads come too fast.
    :param poll_interval: seconds (or a ``timedelta``) between polls of the job, after a few quick first ones.
    :param timeout: seconds (or a ``timedelta``) after which the wait for the job times out.
    :param accept_timeout: seconds (or a ``timedelta``) within which the server must accept the file.
    :param on_unknown: what follows when the outcome of a create or append is unknown: ``fail``, ``ask`` (a person
        decides in Airflow 3.1 and later; elsewhere like ``fail``) or ``resend`` (the server may then have the data
        twice).
    :param on_repeat: what follows when the same content went to the same target before: ``fail``, ``ask`` (as for
        ``on_unknown``), ``warn`` (it is sent, with a warning) or ``allow``. None is ``fail`` for an append and ``warn``
        for a create. A reload may be sent again. The DAG run's conf ``datatile_on_repeat`` replaces it.
    :param ask_timeout: seconds (or a ``timedelta``) to wait for an answer, then the task fails; None waits without end.
    :param ask_users: the users who may answer, as Airflow's ``HITLOperator`` takes them in ``assigned_users``; None for
        all who may answer in this DAG.
    :param ask_notifiers: notifiers that are called when a question was filed. The template ``{{ task.question }}`` is
        the question in Markdown.
    """

    template_fields: Sequence[str] = ("action", "target_hash", "dataset", "callback_url", "datatile_conn_id")
    ui_color = "#cfe3f1"
    operator_extra_links = (DatatileLogLink(), DatatileJobLink())

    def __init__(
        self,
        *,
        action: str,
        target_hash: str,
        dataset: DatasetLike | XComArg,
        callback_url: str | None = None,
        datatile_conn_id: str = DatatileHook.default_conn_name,
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta = POLL_INTERVAL,
        timeout: float | timedelta = JOB_TIMEOUT,
        accept_timeout: float | timedelta = ACCEPT_TIMEOUT,
        on_unknown: Literal["fail", "ask", "resend"] = "fail",
        on_repeat: Literal["fail", "ask", "warn", "allow"] | None = None,
        ask_timeout: float | timedelta | None = None,
        ask_users: HITLUser | Sequence[HITLUser] | None = None,
        ask_notifiers: BaseNotifier | Sequence[BaseNotifier] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.action = action
        self.target_hash = target_hash
        self.dataset: DatasetLike = dataset  # type: ignore[assignment]  # Airflow replaces an XComArg by its value.
        self.callback_url = callback_url
        self.datatile_conn_id = datatile_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = seconds("poll_interval", poll_interval)
        self.timeout = seconds("timeout", timeout)
        self.accept_timeout = seconds("accept_timeout", accept_timeout)
        self.on_unknown = OnUnknown.of(on_unknown)
        self.on_repeat = on_repeat
        OnRepeat.of(on_repeat, "")
        self.ask_timeout = None if ask_timeout is None else seconds("ask_timeout", ask_timeout)
        self.ask_users = [ask_users] if isinstance(ask_users, dict) else ask_users and list(ask_users)
        self.ask_notifiers = ask_notifiers if isinstance(ask_notifiers, Sequence) else (ask_notifiers,)
        self.question = ""  #: The question that the task has filed, in Markdown.
        self._attempt: UploadAttempt | None = None

    def execute(self, context: Context) -> str:
        """
        Upload the file, or resume what an earlier attempt uploaded, and wait for its job if asked to.

        :raises AirflowFailException: bad input, a permanent error, an unknown outcome, or a job that did not succeed.
        :raises AirflowException: not accepted within ``accept_timeout``; Airflow may retry.
        :raises AirflowSensorTimeout: accepted, and the job was not finished within ``timeout``.
        """
        return self.retry_upload(context)

    def retry_upload(
        self,
        context: Context,
        deadline: float | None = None,
        failures: int = 0,
        version: str | None = None,
        answer: dict[str, str] | None = None,
        event: Any = None,
    ) -> str:
        """Upload the file, also after a backoff in the triggerer. See :meth:`execute`."""
        self._label_mapped_task(context)
        with self._begin(context, answer) as attempt:
            # `dag.test()` passes nothing but the event.
            return attempt.begin(deadline or time.time() + self.accept_timeout, failures, version)

    def resume_answered(self, context: Context, question: dict[str, Any] | None = None, event: Any = None) -> str:
        """
        Do what a person answered about an upload of unknown outcome. See :meth:`execute`.

        :param question: what was asked, as it was stored.
        :param event: the answer, as Airflow's ``HITLOperator`` gets it.
        """
        from datatile_provider.operators.answered import AnsweredAttempt
        from datatile_provider.operators.question import Question

        self.recall_dataset(context)
        self._label_mapped_task(context)
        self._attempt = attempt = AnsweredAttempt(self, context)
        with attempt:
            return attempt.answered(Question.of(question or {}), event)

    def _begin(self, context: Context, answer: Mapping[str, str] | None = None) -> UploadAttempt:
        self._attempt = self._new_attempt(context)
        self._attempt.note(answer)
        return self._attempt

    def _new_attempt(self, context: Context, *, show_cause: bool = False) -> UploadAttempt:
        # Imported here, as Airflow parses DAG files often.
        from datatile_provider.operators.attempt import UploadAttempt

        return UploadAttempt(self, context, show_cause=show_cause)

    def _label_mapped_task(self, context: Context) -> None:
        """Show the file's name in the place of the map index, unless the DAG has a template for that."""
        ti: Any = context["ti"]
        if ti.map_index >= 0 and not context.get("map_index_template"):
            # Airflow renders the template after the task, but not after a failure.
            context["map_index_template"] = "{{ task.file_name }}"
            # Older versions of Airflow have no such attribute, and a label must not fail the task.
            with contextlib.suppress(Exception):
                ti.rendered_map_index = self.file_name

    @property
    def file_name(self) -> str:
        """The name of the file."""
        return str(self.dataset).rpartition("/")[2]

    def find_dataset(self, context: Context, *, to_compare_after: Cleared | None = None) -> bool:
        """
        Make sure that ``dataset`` is set.

        :param to_compare_after: given if the file is only compared with the one that was sent: whether the task was
            cleared since.
        :return: whether it is set.
        """
        return True

    def recall_dataset(self, context: Context) -> None:
        """Set ``dataset`` to what this attempt has sent in an earlier process, for messages and lineage."""

    def execute_complete(
        self,
        context: Context,
        text: str = "",
        job_id: str = "",
        answer: dict[str, str] | None = None,
        event: Any = None,
    ) -> str:
        """
        Return the id of the job that the triggerer saw succeed.

        :raises AirflowFailException: the job did not succeed, or its end is unknown. The file was accepted, so Airflow
            must not send it again.
        :raises AirflowSensorTimeout: the job was not finished within ``timeout``.
        """
        self.recall_dataset(context)
        with self._begin(context, answer) as attempt:
            attempt.accept(Job(job_id) if job_id else None, text)
            if not job_id:
                # `dag.test()` passes nothing but the event.
                attempt.recall_job()
            return attempt.complete(event)

    def pre_execute(self, context: Context) -> None:
        """Let Airflow 2 resume an accepted upload also after its ``execution_timeout``."""
        with self._hook_of_the_user(context):
            super().pre_execute(context)
        # Otherwise Airflow 2 would end the task, retry it, and so send the file again.
        if resumed_method(context["ti"]) not in ("", self.retry_upload.__name__):
            self.execution_timeout = None

    def post_execute(self, context: Context, result: Any = None) -> None:
        """Prevent that an error in a hook of the DAG makes Airflow send the file again."""
        with self._hook_of_the_user(context):
            super().post_execute(context, result)

    @contextlib.contextmanager
    def _hook_of_the_user(self, context: Context) -> Iterator[None]:
        with self._new_attempt(context, show_cause=True) as attempt:
            try:
                yield
            except Exception:
                if self._job:
                    attempt.accept(self._job)
                else:
                    # Airflow deletes the XComs of earlier attempts, so this one is of this attempt.
                    attempt.recall_job()
                raise

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume the task; a failed trigger must not make an older Airflow send an accepted file again."""
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        with self._begin(context) as attempt:
            job_id = attempt.accepted_job_id()
            if not job_id:
                attempt.check_question(str((next_kwargs or {}).get("error")))
                return super().resume_execution(next_method, next_kwargs, context)
            method, kwargs = resume_arguments(next_method, next_kwargs, job_id, self.timeout)
            if method != next_method:
                kwargs = {**(kwargs or {}), "job_id": job_id}
            return super().resume_execution(method, kwargs, context)

    def on_kill(self) -> None:
        """Log that the job continues: DATATILE documents no way to cancel it."""
        if self._attempt:
            self._attempt.killed = True
        if self._job and self._job.id:
            self.log.warning("Job %s continues in DATATILE; see its processing log", self._job.id)

    @property
    def _job(self) -> Job | None:
        return self._attempt.job if self._attempt else None

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the task's inputs and outputs for OpenLineage."""
        from datatile_provider.lineage import lineage

        return lineage(
            self.datatile_conn_id,
            self._job,
            dataset=self.dataset,
            action=self.action,
            target_hash=self.target_hash,
            answer=self._attempt.answer.as_dict() if self._attempt and self._attempt.answer else None,
        )

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the inputs and outputs of a failed task for OpenLineage."""
        return self.get_openlineage_facets_on_complete(task_instance)
