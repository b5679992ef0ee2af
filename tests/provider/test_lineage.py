"""The events that the OpenLineage provider sends, from a separate process; and the lineage of hooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from datatile_provider.sandbox import Sandbox

DAG_FILE = """
from airflow.providers.common.compat.sdk import DAG, task
from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor

with DAG({dag_id!r}, schedule=None) as dag:
    upload = {{"dataset": {dataset!r}, "poll_interval": 0.05, "trigger_rule": "all_done"}}
    in_worker = DatatileUploadOperator(
        task_id="in_worker", action="reload", target_hash={database!r}, wait_for_completion=True, **upload)
    create = DatatileUploadOperator(task_id="create", action="create", target_hash={folder!r}, **upload)
    wait = DatatileJobSensor(task_id="wait", job_id=create.output, poke_interval=0.05, deferrable=True)
    invalid = DatatileUploadOperator(
        task_id="invalid", action="reload", target_hash={database!r}, wait_for_completion=True,
        **{{**upload, "dataset": {invalid!r}}})
    not_waited = DatatileUploadOperator(
        task_id="not_waited", action="reload", target_hash={database!r}, **{{**upload, "dataset": {invalid!r}}})
    waits = [
        DatatileJobSensor(task_id=name, job_id=not_waited.output, poke_interval=0.05, trigger_rule="all_done", **how)
        for name, how in [("poke", {{}}), ("reschedule", {{"mode": "reschedule"}}), ("defer", {{"deferrable": True}})]
    ]
    rejected = DatatileUploadOperator(task_id="rejected", action="reload", target_hash="f00d", **upload)

    @task.datatile_upload(action="append", target_hash={database!r}, wait_for_completion=True, deferrable=True,
                          poll_interval=0.05, trigger_rule="all_done")
    def returned():
        return {dataset!r}

    @task(trigger_rule="all_done")
    def by_hook():
        hook = DatatileHook()
        hook.wait_for_job(hook.upload("reload", {database!r}, {dataset!r}).id, poll_interval=0.05)

    in_worker >> create >> wait >> invalid >> not_waited >> waits >> rejected >> returned() >> by_hook()

if __name__ == "__main__":
    from tests.support.older_airflow import patch_dag_test

    patch_dag_test()
    dag.test()
"""


ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def lineage(dag_folder, tmp_path_factory):
    """The last event of each task, the sandbox's jobs, and what the events should name."""
    directory = tmp_path_factory.mktemp("lineage")
    survey, invalid, events = directory / "wave 1.csv", directory / "invalid.csv", directory / "events"
    survey.write_text("respondent,vote\n1,2\n2,1\n3,2\n")
    invalid.write_text("respondent,vote\n1\n")
    dag_id = f"lineage_{uuid.uuid4().hex}"
    with Sandbox(processing_seconds=0.1) as sandbox:
        database = sandbox.add_database(variables=("respondent", "vote"))
        file = Path(dag_folder) / f"{dag_id}.py"
        file.write_text(
            DAG_FILE.format(
                dag_id=dag_id, dataset=str(survey), invalid=str(invalid), database=database, folder=sandbox.folder
            )
        )
        transport = {"type": "file", "log_file_path": str(events), "append": True}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_CONN_DATATILE_DEFAULT": json.dumps(sandbox.connection),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            # A forked process, the default, cannot reach the API server that `dag.test()` runs in a thread.
            "AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD": "True",
        }
        try:
            ran = subprocess.run(
                [sys.executable, str(file)], env=environment, capture_output=True, text=True, timeout=110
            )
        finally:
            file.unlink()
        assert events.exists(), ran.stdout[-3000:] + ran.stderr[-3000:]
        last = {}
        for line in events.read_text().splitlines():
            event = json.loads(line)
            if event["job"]["name"].startswith(f"{dag_id}."):
                last[event["job"]["name"].partition(".")[2]] = event
        jobs = {job["job_id"]: job for job in sandbox.jobs()}
        assert sandbox.token not in events.read_text()
        return last, jobs, {"server": sandbox.url, "database": database, "file": str(survey), "invalid": str(invalid)}


def names(datasets):
    return [(d["namespace"], d["name"]) for d in datasets]


@pytest.mark.parametrize(
    ("task_id", "action"),
    [("in_worker", "reload"), ("returned", "append")],
)
def test_an_upload_reports_its_inputs_and_outputs(lineage, task_id, action):
    events, jobs, expected = lineage
    event = events[task_id]
    assert event["eventType"] == "COMPLETE"
    assert names(event["inputs"]) == [("file", expected["file"])]
    facet = event["run"]["facets"]["datatile_job"]
    job = jobs[facet["jobId"]]
    namespace = expected["server"].replace("http://", "datatile://")
    assert names(event["outputs"]) == [(namespace, f"databases/{job['database']}")]
    assert event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert (facet["action"], facet["state"], facet["status"]) == (action, "SUCCEEDED", "succeeded")
    assert facet["processingLog"] == f"{expected['server']}/processing-log/{facet['jobId']}"
    query = event["run"]["facets"]["externalQuery"]
    assert (query["externalQueryId"], query["source"]) == (facet["jobId"], expected["server"])


def test_the_wait_for_a_create_reports_the_database(lineage):
    events, jobs, expected = lineage
    upload, wait = events["create"], events["wait"]
    assert names(upload["inputs"]) == [("file", expected["file"])]
    # The hash is not known until the job has succeeded.
    assert names(upload["outputs"]) == []
    facet = wait["run"]["facets"]["datatile_job"]
    assert facet["jobId"] == upload["run"]["facets"]["datatile_job"]["jobId"]
    assert (wait["eventType"], facet["action"], facet["state"]) == ("COMPLETE", "create", "SUCCEEDED")
    assert names(wait["inputs"]) == []
    assert [name for _, name in names(wait["outputs"])] == [f"databases/{jobs[facet['jobId']]['database']}"]
    assert wait["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 3


def test_a_job_that_failed(lineage):
    events, jobs, expected = lineage
    event = events["invalid"]
    assert event["eventType"] == "FAIL"
    assert names(event["inputs"]) == [("file", expected["invalid"])]
    assert names(event["outputs"])[0][1] == f"databases/{expected['database']}"
    assert "outputFacets" not in event["outputs"][0] or not event["outputs"][0]["outputFacets"]
    facet = event["run"]["facets"]["datatile_job"]
    assert (facet["state"], jobs[facet["jobId"]]["state"]) == ("FAILED", "FAILED")


@pytest.mark.parametrize("task_id", ["poke", "reschedule", "defer"])
def test_the_wait_for_a_job_that_failed(lineage, task_id):
    events, jobs, _ = lineage
    event = events[task_id]
    facet = event["run"]["facets"]["datatile_job"]
    assert facet["jobId"] == events["not_waited"]["run"]["facets"]["datatile_job"]["jobId"]
    assert (event["eventType"], facet["state"], jobs[facet["jobId"]]["state"]) == ("FAIL", "FAILED", "FAILED")


def test_a_rejected_upload_has_no_job(lineage):
    events, _, expected = lineage
    event = events["rejected"]
    assert event["eventType"] == "FAIL"
    assert names(event["inputs"]) == [("file", expected["file"])]
    assert "datatile_job" not in event["run"]["facets"]


def test_a_function_that_uses_the_hook(lineage):
    events, _, expected = lineage
    event = events["by_hook"]
    assert event["eventType"] == "COMPLETE"
    # All tasks of `dag.test()` share one process, and so one collector.
    assert ("file", expected["file"]) in names(event["inputs"])
    namespace = expected["server"].replace("http://", "datatile://")
    assert set(names(event["outputs"])) == {(namespace, f"databases/{expected['database']}")}


def test_openlineage_is_not_imported_without_need():
    code = (
        "import sys; import datatile_provider.operators.datatile, datatile_provider.sensors.datatile; "
        "sys.exit(bool({'openlineage', 'airflow.sdk.lineage', 'datatile_provider.lineage'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 0
