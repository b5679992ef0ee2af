"""The links from a task's page to DATATILE's processing log, and to the very job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from datatile_provider.api.contract import Server

#: Where a task keeps its links' addresses while its process lasts.
_KNOWN = "_datatile_links"


class _PushedLink(BaseOperatorLink):
    """A link to the address that the task has pushed as an XCom. Airflow 3 reads that by itself."""

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address, or ``""`` while it is not known."""
        from airflow.providers.common.compat.sdk import XCom

        # Airflow asks at the end of each of the task's processes, and pushes the answer itself.
        known: dict[str, str] = getattr(operator, _KNOWN, {})
        if self.xcom_key in known:
            return known[self.xcom_key]
        # Whatever it raised would stand in the task's log as an error, or take the page's other links along.
        try:
            return str(XCom.get_value(ti_key=ti_key, key=self.xcom_key) or "")
        except Exception:
            return ""


class DatatileLogLink(_PushedLink):
    """Where a person sees all jobs."""

    name = "DATATILE processing log"
    xcom_key = "datatile_log_url"


class DatatileJobLink(_PushedLink):
    """Where a person sees this job, if the connection tells how to get there."""

    name = "DATATILE job"
    xcom_key = "datatile_job_url"


def addresses(server: Server, job_id: str = "") -> dict[str, str]:
    """
    Return the links' addresses by the key of their XCom.

    One that is not known is ``""``: Airflow asks for each at the task's end, and where there is none it logs an error.
    """
    return {DatatileLogLink.xcom_key: server.processing_log_url, DatatileJobLink.xcom_key: server.job_page_url(job_id)}


def push_links(task: BaseOperator, context: Context, server: Server, job_id: str = "") -> None:
    """Let the links lead somewhere from here on, not only from the task's end."""
    links = addresses(server, job_id)
    setattr(task, _KNOWN, links)
    for key, url in links.items():
        try:
            if url:
                context["ti"].xcom_push(key=key, value=url)
        except Exception as e:  # as of any XCom backend; a link must not fail a task
            task.log.warning("The link %s could not be stored: %s", url, e)
