"""What an upload read and wrote, as OpenLineage wants to be told. Imported only when OpenLineage asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from airflow.providers.common.compat.openlineage.facet import (
    ExternalQueryRunFacet,
    InputDataset,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
)
from airflow.providers.openlineage.extractors import OperatorLineage

from datatile_provider.api.contract import Job
from datatile_provider.api.states import JobState
from datatile_provider.assets.datatile import database_uri, file_uri, openlineage_name
from datatile_provider.hooks.datatile import DatatileHook

if TYPE_CHECKING:
    from datatile_provider.hooks.dataset import DatasetLike


@attrs.define
class DatatileJobRunFacet(RunFacet):
    """
    The job that processes an upload.

    :param jobId: its id.
    :param action: ``create``, ``reload`` or ``append``.
    :param state: where it stood when the task ended.
    :param status: the server's own word for that.
    :param processingLog: where a person sees it.
    """

    jobId: str
    action: str
    state: str
    status: str
    processingLog: str


def lineage(
    datatile_conn_id: str,
    job: Job | None,
    *,
    dataset: DatasetLike | None = None,
    action: str = "",
    target_hash: str = "",
) -> OperatorLineage[Any, Any]:
    """
    Return what a task read and wrote.

    :param datatile_conn_id: the connection.
    :param job: the job, as far as it got; None when there is none.
    :param dataset: the file that the task uploaded, if it did.
    :param action: the upload's action; else the job's, if it tells.
    :param target_hash: the upload's target.
    """
    server = DatatileHook(datatile_conn_id).get_conn().server
    read = file_uri(dataset) if dataset is not None else ""
    inputs = [InputDataset(*openlineage_name(read))] if read else []
    action = action or (job.action if job else "")
    # A create's target is a folder; only its finished job can tell the new database.
    database = (job.database if job else "") or (target_hash if action != "create" else "")
    outputs = []
    if database:
        written = job.rows if job and job.state is JobState.SUCCEEDED else None
        statistics: dict[str, Any] = {}
        if written is not None:
            statistics["outputStatistics"] = OutputStatisticsOutputDatasetFacet(written)
        outputs.append(OutputDataset(*openlineage_name(database_uri(server.url, database)), outputFacets=statistics))
    facets = {}
    if job:
        page = server.job_page_url(job.id) or server.processing_log_url
        facets = {
            "externalQuery": ExternalQueryRunFacet(job.id, server.url),
            "datatile_job": DatatileJobRunFacet(job.id, action, job.state.value, job.status, page),
        }
    return OperatorLineage(inputs=inputs, outputs=outputs, run_facets=facets)
