"""The OpenLineage metadata of uploads and waits. Imported only when OpenLineage extracts it."""

from __future__ import annotations

from collections.abc import Mapping
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

from datatile_provider.api.models import Job
from datatile_provider.api.states import JobState
from datatile_provider.assets.uris import database_uri, file_uri, openlineage_name
from datatile_provider.hooks.datatile import DatatileHook

if TYPE_CHECKING:
    from datatile_provider.hooks.dataset import DatasetLike


@attrs.define
class DatatileJobRunFacet(RunFacet):
    """
    The job that processes an upload.

    :param jobId: the job's id.
    :param action: ``create``, ``reload`` or ``append``.
    :param state: the job's state at the end of the task.
    :param status: the server's own word for that state.
    :param processingLog: the URL of the job's page, or of the processing log.
    """

    jobId: str  # noqa: N815 - OpenLineage's JSON has camelCase keys
    action: str
    state: str
    status: str
    processingLog: str  # noqa: N815 - the same


@attrs.define
class DatatileAnswerRunFacet(RunFacet):
    """
    What a person answered about an upload of unknown outcome.

    :param answer: ``there``, ``not_there`` or ``fail``.
    :param answeredBy: the person's name in Airflow; ``""`` if nobody answered in time.
    :param answeredAt: when, in ISO 8601.
    """

    answer: str
    answeredBy: str  # noqa: N815 - OpenLineage's JSON has camelCase keys
    answeredAt: str  # noqa: N815 - the same


def lineage(
    datatile_conn_id: str,
    job: Job | None,
    *,
    dataset: DatasetLike | None = None,
    action: str = "",
    target_hash: str = "",
    answer: Mapping[str, str] | None = None,
) -> OperatorLineage[Any, Any]:
    """
    Return the inputs, outputs and facets of a task.

    :param job: the latest known state of the job; None if there is no job.
    :param dataset: the file that the task uploaded; None for a task that only waits.
    :param action: the upload's action; if it is ``""``, the action that the job reports (assumed).
    :param answer: what a person answered about the upload, as plain JSON values; None if nobody was asked.
    """
    server = DatatileHook(datatile_conn_id).get_conn().server
    source = file_uri(dataset) if dataset is not None else ""
    inputs = [InputDataset(*openlineage_name(source))] if source else []
    action = action or (job.action if job else "")
    # The target of a create is a folder. Only the finished job can report the new database.
    database = (job.database if job else "") or (target_hash if action != "create" else "")
    outputs = []
    if database:
        statistics: dict[str, Any] = {}
        if job and job.state is JobState.SUCCEEDED and job.rows is not None:
            statistics["outputStatistics"] = OutputStatisticsOutputDatasetFacet(job.rows)
        outputs.append(OutputDataset(*openlineage_name(database_uri(server.url, database)), outputFacets=statistics))
    facets: dict[str, RunFacet] = {}
    if answer:
        facets["datatile_answer"] = DatatileAnswerRunFacet(answer["choice"], answer["by"], answer["at"])
    if job and job.id:
        page = server.page_url(job.id)
        facets["externalQuery"] = ExternalQueryRunFacet(job.id, server.url)
        facets["datatile_job"] = DatatileJobRunFacet(job.id, action, job.state.value, job.status, page)
    return OperatorLineage(inputs=inputs, outputs=outputs, run_facets=facets)
