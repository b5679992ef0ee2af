"""What OpenLineage is told, by its own provider, in a process of its own; and what Airflow collects of hooks."""

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
    broken = DatatileUploadOperator(
        task_id="broken", action="reload", target_hash={database!r}, wait_for_completion=True,
        **{{**upload, "dataset": {broken!r}}})
    unfit = DatatileUploadOperator(
        task_id="unfit", action="reload", target_hash={database!r}, **{{**upload, "dataset": {broken!r}}})
    waits = [
        DatatileJobSensor(task_id=name, job_id=unfit.output, poke_interval=0.05, trigger_rule="all_done", **how)
        for name, how in [("poke", {{}}), ("reschedule", {{"mode": "reschedule"}}), ("defer", {{"deferrable": True}})]
    ]
    refused = DatatileUploadOperator(task_id="refused", action="reload", target_hash="f00d", **upload)

    @task.datatile_upload(action="append", target_hash={database!r}, wait_for_completion=True, deferrable=True,
                          poll_interval=0.05, trigger_rule="all_done")
    def returned():
        return {dataset!r}

    @task(trigger_rule="all_done")
    def by_hook():
        hook = DatatileHook()
        hook.wait_for_job(hook.upload("reload", {database!r}, {dataset!r}).id, poll_interval=0.05)

    in_worker >> create >> wait >> broken >> unfit >> waits >> refused >> returned() >> by_hook()

if __name__ == "__main__":
    from tests.provider.older_airflow import mend_dag_test

    mend_dag_test()
    dag.test()
"""


ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def reported(dag_folder, tmp_path_factory):
    """The last event of each task, with the sandbox's facts beside."""
    directory = tmp_path_factory.mktemp("lineage")
    survey, broken, events = directory / "wave 1.csv", directory / "broken.csv", directory / "events"
    survey.write_text("respondent,vote\n1,2\n2,1\n3,2\n")
    broken.write_text("respondent,vote\n1\n")
    dag_id = f"lineage_{uuid.uuid4().hex}"
    with Sandbox(processing_seconds=0.1) as sandbox:
        database = sandbox.add_database(variables=("respondent", "vote"))
        file = Path(dag_folder) / f"{dag_id}.py"
        file.write_text(
            DAG_FILE.format(
                dag_id=dag_id, dataset=str(survey), broken=str(broken), database=database, folder=sandbox.folder
            )
        )
        transport = {"type": "file", "log_file_path": str(events), "append": True}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_CONN_DATATILE_DEFAULT": json.dumps(sandbox.connection),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            # A fork, as else, can't ask the Airflow that `dag.test()` runs in a thread.
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
        return last, jobs, {"server": sandbox.url, "database": database, "file": str(survey), "broken": str(broken)}


def names(datasets):
    return [(d["namespace"], d["name"]) for d in datasets]


@pytest.mark.parametrize(
    ("task_id", "action"),
    [("in_worker", "reload"), ("returned", "append")],
)
def test_an_upload_tells_what_it_read_and_wrote(reported, task_id, action):
    events, jobs, facts = reported
    event = events[task_id]
    assert event["eventType"] == "COMPLETE"
    assert names(event["inputs"]) == [("file", facts["file"])]
    facet = event["run"]["facets"]["datatile_job"]
    job = jobs[facet["jobId"]]
    namespace = facts["server"].replace("http://", "datatile://")
    assert names(event["outputs"]) == [(namespace, f"databases/{job['database']}")]
    assert event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert (facet["action"], facet["state"], facet["status"]) == (action, "SUCCEEDED", "succeeded")
    assert facet["processingLog"] == f"{facts['server']}/processing-log/{facet['jobId']}"
    query = event["run"]["facets"]["externalQuery"]
    assert (query["externalQueryId"], query["source"]) == (facet["jobId"], facts["server"])


def test_the_wait_for_a_create_tells_the_database(reported):
    events, jobs, facts = reported
    upload, wait = events["create"], events["wait"]
    assert names(upload["inputs"]) == [("file", facts["file"])]
    # While it is being made, nobody knows its hash.
    assert names(upload["outputs"]) == []
    facet = wait["run"]["facets"]["datatile_job"]
    assert facet["jobId"] == upload["run"]["facets"]["datatile_job"]["jobId"]
    assert (wait["eventType"], facet["action"], facet["state"]) == ("COMPLETE", "create", "SUCCEEDED")
    assert names(wait["inputs"]) == []
    assert [name for _, name in names(wait["outputs"])] == [f"databases/{jobs[facet['jobId']]['database']}"]
    assert wait["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 3


def test_a_job_that_failed(reported):
    events, jobs, facts = reported
    event = events["broken"]
    assert event["eventType"] == "FAIL"
    assert names(event["inputs"]) == [("file", facts["broken"])]
    assert names(event["outputs"])[0][1] == f"databases/{facts['database']}"
    assert "outputFacets" not in event["outputs"][0] or not event["outputs"][0]["outputFacets"]
    facet = event["run"]["facets"]["datatile_job"]
    assert (facet["state"], jobs[facet["jobId"]]["state"]) == ("FAILED", "FAILED")


@pytest.mark.parametrize("task_id", ["poke", "reschedule", "defer"])
def test_the_wait_for_a_job_that_failed(reported, task_id):
    events, jobs, _ = reported
    event = events[task_id]
    facet = event["run"]["facets"]["datatile_job"]
    assert facet["jobId"] == events["unfit"]["run"]["facets"]["datatile_job"]["jobId"]
    assert (event["eventType"], facet["state"], jobs[facet["jobId"]]["state"]) == ("FAIL", "FAILED", "FAILED")


def test_an_upload_that_was_refused_has_no_job(reported):
    events, _, facts = reported
    event = events["refused"]
    assert event["eventType"] == "FAIL"
    assert names(event["inputs"]) == [("file", facts["file"])]
    assert "datatile_job" not in event["run"]["facets"]


def test_a_function_that_uses_the_hook(reported):
    events, _, facts = reported
    event = events["by_hook"]
    assert event["eventType"] == "COMPLETE"
    # All tasks of `dag.test()` share one process, and so one collector.
    assert ("file", facts["file"]) in names(event["inputs"])
    namespace = facts["server"].replace("http://", "datatile://")
    assert set(names(event["outputs"])) == {(namespace, f"databases/{facts['database']}")}


def test_without_openlineage_nothing_of_it_is_imported():
    code = (
        "import sys; import datatile_provider.operators.datatile, datatile_provider.sensors.datatile; "
        "sys.exit(bool({'openlineage', 'airflow.sdk.lineage', 'datatile_provider.lineage'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 0
