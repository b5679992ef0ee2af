"""The links on a task's page lead to the server's processing log, and to the job."""

from __future__ import annotations

import logging
import types
import uuid
from typing import Any

import pytest
import requests
from airflow.models import DagRun
from airflow.providers.common.compat.sdk import DAG

from datatile_provider.api.models import ServerConfig
from datatile_provider.get_provider_info import get_provider_info
from datatile_provider.links.datatile import DatatileJobLink, DatatileLogLink, push_links
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.operators.wave_check import DatatileWaveCheckOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from tests.provider.modes import OPERATOR_MODES, SENSOR_MODES, add_tasks
from tests.support.sandbox import upload


@pytest.fixture
def links_of(run_dag, survey):
    """Yield the link addresses of each task, and its outcome."""

    def links_of(operator, modes, **arguments):
        with DAG(f"test_{uuid.uuid4().hex}", schedule=None) as dag:
            add_tasks(operator, modes, **arguments)
        outcomes = run_dag(dag).unmapped
        (run,) = DagRun.find(dag_id=dag.dag_id)
        for ti in run.get_task_instances():
            outcome = outcomes[ti.task_id]
            assert outcome.state == "success"
            # The UIs of Airflow 3 and 2 read the addresses the same way.
            keys = [link.xcom_key for link in operator.operator_extra_links]
            pushed = [ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index) or "" for key in keys]
            yield *pushed, outcome

    return links_of


def page(url):
    response = requests.get(url, timeout=5, headers={"Accept": "text/html"})
    assert response.status_code == 200
    return response.text


def test_links_of_an_upload(links_of, sandbox, survey):
    arguments = {"action": "create", "target_hash": sandbox.folder, "dataset": str(survey), "poll_interval": 0.05}
    found = list(links_of(DatatileUploadOperator, OPERATOR_MODES, **arguments))
    assert len(found) == len(OPERATOR_MODES)
    for log_url, job_url, outcome in found:
        assert outcome.job_id[:8] in page(log_url)
        assert f"Job {outcome.job_id}" in page(job_url)


def test_links_of_a_wait(links_of, start, survey):
    sandbox = start(processing_seconds=0.3)
    job_id = upload(sandbox, "create", sandbox.folder, survey)
    found = list(links_of(DatatileJobSensor, SENSOR_MODES, job_id=job_id, poke_interval=0.05))
    assert len(found) == len(SENSOR_MODES)
    for log_url, job_url, _ in found:
        assert job_id[:8] in page(log_url)
        assert f"Job {job_id}" in page(job_url)


def test_without_a_job_page_the_links_lead_to_the_server_only(links_of, script, survey):
    server = script()
    arguments = {"action": "append", "target_hash": "f00d", "dataset": str(survey)}
    ((log_url, job_url, outcome),) = links_of(DatatileUploadOperator, {"upload": {}}, **arguments)
    assert (log_url, job_url) == (f"{server.url}/", "")
    assert "XCom not found" not in outcome.log


@pytest.mark.parametrize("link", [DatatileLogLink(), DatatileJobLink()])
def test_a_link_never_raises(link):
    assert link.get_link(None, ti_key=None) == ""


def test_links_are_registered_for_airflow_2():
    operators = (DatatileUploadOperator, DatatileJobSensor, DatatileWaveCheckOperator)
    links = [link for operator in operators for link in operator.operator_extra_links]
    classes = [f"{type(link).__module__}.{type(link).__qualname__}" for link in links]
    assert list(dict.fromkeys(classes)) == get_provider_info()["extra-links"]


def test_a_link_that_cannot_be_stored_is_logged_and_pushed_at_the_end(caplog):
    class FullStore:
        def xcom_push(self, key, value):
            raise OSError("no space left")

    task: Any = types.SimpleNamespace(log=logging.getLogger("task"))
    context: Any = {"ti": FullStore()}
    push_links(task, context, ServerConfig("https://datatile.example.com"), "7")
    assert "no space left" in caplog.text
    # Airflow 3 pushes the links at the task's end; then they need no stored value.
    assert DatatileLogLink().get_link(task, ti_key=None) == "https://datatile.example.com/"


def test_the_job_id_in_the_address():
    server = ServerConfig("https://srv", log_url="https://srv/log?job={job_id}#top")
    assert server.processing_log_url == "https://srv/log?job=#top"
    assert server.job_page_url("a&b") == "https://srv/log?job=a%26b#top"
    assert server.job_page_url("") == ServerConfig("https://srv").job_page_url("7") == ""
