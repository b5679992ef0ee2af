"""The links on a task's page: to DATATILE's processing log and to the job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from airflow.providers.common.compat.sdk import BaseOperatorLink

from datatile_provider.version_compat import HAS_PAGES, page_path

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from datatile_provider.api.models import ServerConfig

#: The attribute of a task that holds the URLs of its links in the task's process.
_URLS = "_datatile_links"


class _XComLink(BaseOperatorLink):
    """A link to a URL that the task pushed as an XCom. The UI of Airflow 3 reads the XCom itself."""

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the URL; ``""`` if it is not known."""
        from airflow.providers.common.compat.sdk import XCom

        # Airflow 3 calls this at the end of the task's process, and pushes the URL as the XCom itself.
        urls: dict[str, str] = getattr(operator, _URLS, {})
        if self.xcom_key in urls:
            return urls[self.xcom_key]
        # An exception would be an error in the task's log, or would hide the page's other links.
        try:
            return str(XCom.get_value(ti_key=ti_key, key=self.xcom_key) or "")
        except Exception:
            return ""


class DatatileLogLink(_XComLink):
    """A link to the processing log, which lists all jobs."""

    name = "DATATILE processing log"
    xcom_key = "datatile_log_url"


class DatatileJobLink(_XComLink):
    """A link to the task's job, if ``processing_log_url`` in the connection's extra has ``{job_id}`` in it."""

    name = "DATATILE job"
    xcom_key = "datatile_job_url"


class DatatileCheckLink(_XComLink):
    """A link to the page with the findings of a wave check (Airflow 3.1 and later)."""

    name = "Wave check"
    xcom_key = "datatile_check_url"


def push_check_link(task: BaseOperator, context: Context) -> None:
    """Push the URL of the page with the findings of a wave check."""
    ti = context["ti"]
    names = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}
    _push(
        task, context, {DatatileCheckLink.xcom_key: f"{page_path()}check.html?{urlencode(names)}" if HAS_PAGES else ""}
    )


def addresses(server: ServerConfig, job_id: str = "") -> dict[str, str]:
    """
    Return the URLs of the links by their XCom key. Until there is a job, ``job_id`` is ``""``.

    An unknown URL is ``""``, because Airflow logs an error at the end of the task for a link without a value.
    """
    return {DatatileLogLink.xcom_key: server.processing_log_url, DatatileJobLink.xcom_key: server.job_page_url(job_id)}


def push_links(task: BaseOperator, context: Context, server: ServerConfig, job_id: str = "") -> None:
    """Push the URLs of the links now, so that they work while the task is running; see :func:`addresses`."""
    _push(task, context, addresses(server, job_id))


def _push(task: BaseOperator, context: Context, urls: dict[str, str]) -> None:
    setattr(task, _URLS, urls)
    for key, url in urls.items():
        try:
            if url:
                context["ti"].xcom_push(key=key, value=url)
        except Exception as e:  # XCom backends raise errors of any class, and a link must not fail the task
            task.log.warning("The link %s could not be stored as an XCom: %s", url, e)
