"""DatatileUploadOperator: uploads a file to create, reload or append a DATATILE database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator, conf

from datatile_provider.api import errors
from datatile_provider.api.waiting import seconds
from datatile_provider.hooks.datatile import ACCEPT_TIMEOUT, JOB_TIMEOUT, POLL_INTERVAL, DatatileHook
from datatile_provider.triggers.datatile import SAFETY_NET, DatatileJobTrigger, airflow_error, job_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from datatile_provider.hooks.dataset import DatasetLike


class DatatileUploadOperator(BaseOperator):
    """
    Uploads a file to create, reload or append a DATATILE database, and returns the id of the job that processes it.

    :param action: ``create`` (makes a new database in a folder), ``reload`` (replaces a database's data) or
        ``append`` (adds to a database). (templated)
    :param target_hash: the hash of the folder (create) or of the database (reload, append). (templated)
    :param dataset: a local path, a ``file://`` URI, or an object storage path or URI, which is streamed. (templated)
    :param callback_url: where DATATILE pushes the job's transitions. (templated)
    :param datatile_conn_id: the connection. (templated)
    :param wait_for_completion: whether to wait until the job has succeeded.
    :param deferrable: whether to wait in the triggerer, without a worker slot.
    :param poll_interval: seconds (or a ``timedelta``) between looks at the job, after a few quick first ones.
    :param timeout: seconds (or a ``timedelta``) to wait for the job, from its acceptance.
    :param accept_timeout: seconds (or a ``timedelta``) to go on trying until the server accepts the file.
    """

    template_fields: Sequence[str] = ("action", "target_hash", "dataset", "callback_url", "datatile_conn_id")
    ui_color = "#cfe3f1"

    def __init__(
        self,
        *,
        action: str,
        target_hash: str,
        dataset: DatasetLike,
        callback_url: str | None = None,
        datatile_conn_id: str = DatatileHook.default_conn_name,
        wait_for_completion: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta = POLL_INTERVAL,
        timeout: float | timedelta = JOB_TIMEOUT,
        accept_timeout: float | timedelta = ACCEPT_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.action = action
        self.target_hash = target_hash
        self.dataset = dataset
        self.callback_url = callback_url
        self.datatile_conn_id = datatile_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = seconds("poll_interval", poll_interval)
        self.timeout = seconds("timeout", timeout)
        self.accept_timeout = seconds("accept_timeout", accept_timeout)

    def execute(self, context: Context) -> str:
        """
        Upload the file and, if asked to, wait for its job.

        :raises AirflowFailException: bad input, a refusal, an unknown outcome, or a job that did not succeed.
        :raises AirflowException: not accepted within ``accept_timeout``; Airflow may retry.
        :raises AirflowSensorTimeout: accepted, and the job was not finished within ``timeout``.
        """
        hook = DatatileHook(self.datatile_conn_id)
        try:
            job = hook.upload(
                self.action,
                self.target_hash,
                self.dataset,
                callback_url=self.callback_url,
                timeout=self.accept_timeout,
            )
        except errors.DatatileError as e:
            raise airflow_error(e, may_retry=True) from None
        context["ti"].xcom_push(key="job_id", value=job.id)
        if not self.wait_for_completion:
            return job.id
        if self.deferrable:
            self.defer(
                trigger=DatatileJobTrigger(
                    job_id=job.id,
                    datatile_conn_id=self.datatile_conn_id,
                    poll_interval=self.poll_interval,
                    timeout=self.timeout,
                    started=time.time(),
                ),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.timeout) + SAFETY_NET,
            )
        try:
            return hook.wait_for_job(job.id, poll_interval=self.poll_interval, timeout=self.timeout).id
        except errors.DatatileError as e:
            raise airflow_error(e, may_retry=False) from None

    def execute_complete(self, context: Context, event: Any = None) -> str:
        """
        Return the id of the job that the triggerer saw succeed.

        :raises AirflowFailException: the job did not succeed, or nobody can tell; the file was accepted, so Airflow
            must not send it again.
        :raises AirflowSensorTimeout: the job was not finished within ``timeout``.
        """
        try:
            job = job_of(event)
        except errors.DatatileError as e:
            raise airflow_error(e, may_retry=False) from None
        self.log.info("Job %s has succeeded", job.id)
        return job.id
