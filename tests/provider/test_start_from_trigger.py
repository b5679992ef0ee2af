"""Which waits may start and end in the triggerer; the tests in tests/system run them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import DAG, Asset

from datatile_provider.hooks.datatile import DatatileHook
from datatile_provider.operators.datatile import DatatileUploadOperator
from datatile_provider.sensors.datatile import DatatileJobSensor
from datatile_provider.sensors.start_from_trigger import may_end_in_triggerer, upload_task_id

pytestmark = pytest.mark.needs_airflow(">=3.3")


@pytest.fixture
def dag():
    with DAG("under_test", schedule=None) as dag:
        yield dag


def upload(**kwargs):
    return DatatileUploadOperator(task_id="upload", action="append", target_hash="f00d", dataset="a.csv", **kwargs)


def sensor(job_id, **kwargs):
    return DatatileJobSensor(
        task_id="wait", job_id=job_id, **{"deferrable": True, "start_from_trigger": True, **kwargs}
    )


def test_output_becomes_a_template_that_the_triggerer_can_render(dag):
    source = upload()
    wait = sensor(source.output)
    assert wait.start_from_trigger
    kwargs = wait.start_trigger_args.trigger_kwargs
    assert kwargs["job_id"] == "{{ ti.xcom_pull(task_ids='upload', key='return_value', map_indexes=-1) or '' }}"
    assert wait.upstream_task_ids == {"upload"}


@pytest.mark.parametrize(
    "job_id", ["7", "{{ params.job }}", "{{ ti.xcom_pull(task_ids='upload', key='job_id', map_indexes=-1) }}"]
)
def test_text_is_unchanged(dag, job_id):
    wait = sensor(job_id, poke_interval=timedelta(seconds=5), timeout=100, datatile_conn_id="other")
    assert wait.start_from_trigger
    assert wait.start_trigger_args.timeout == timedelta(seconds=700)
    assert wait.start_trigger_args.trigger_kwargs == {
        "job_id": job_id,
        "datatile_conn_id": "other",
        "poll_interval": 5.0,
        "timeout": 100.0,
        "ends_task": True,
        "do_xcom_push": True,
    }


def mapped_output():
    return (
        DatatileUploadOperator.partial(task_id="uploads", action="append", target_hash="f00d")
        .expand(dataset=["a.csv"])
        .output
    )


@pytest.mark.parametrize(
    ("job_id", "kwargs", "reason"),
    [
        (lambda: "7", {"deferrable": False}, "not deferrable"),
        (lambda: "7", {"execution_timeout": timedelta(hours=1)}, "execution_timeout"),
        (lambda: "{{ ti.xcom_pull('upload') }}", {}, "without map_indexes"),
        (mapped_output, {}, "not mapped"),
        (lambda: upload().output.map(str), {}, "plain output"),
    ],
)
def test_what_cannot_start_in_the_triggerer_starts_in_a_worker(dag, job_id, kwargs, reason):
    wait = sensor(job_id(), **kwargs)
    assert not wait.start_from_trigger
    assert wait.start_trigger_args is None
    assert reason in wait._needs_worker


@pytest.mark.parametrize(
    ("job_id", "task_id"),
    [
        (lambda: upload().output, "upload"),
        (mapped_output, "uploads"),
        (lambda: "{{ ti.xcom_pull(task_ids='study.upload', key='job_id') }}", "study.upload"),
        (lambda: "{{ ti.xcom_pull('upload') }}", ""),
        (lambda: "5f0c1d", ""),
    ],
)
def test_the_upload_task_of_a_job_id(dag, job_id, task_id):
    assert upload_task_id(job_id()) == task_id


@pytest.mark.parametrize(("start_from_trigger", "lines"), [(True, 1), (False, 0)])
def test_the_reason_for_a_worker_is_logged_once(run, sandbox, survey, start_from_trigger, lines):
    job = DatatileHook().upload("create", sandbox.folder, survey)
    wait = {"deferrable": True, "start_from_trigger": start_from_trigger, "poke_interval": 0.1}
    outcome = run(DatatileJobSensor, job_id=job.id, **wait)
    assert (outcome.state, outcome.result["id"]) == ("success", job.id)
    assert outcome.log.count("Started in a worker despite start_from_trigger") == lines


class Extended(DatatileJobSensor):
    def execute_complete(self, context, event=None):
        return {**super().execute_complete(context, event), "more": 1}


@pytest.mark.parametrize(
    ("kind", "kwargs", "may_end"),
    [
        (DatatileJobSensor, {}, True),
        (DatatileJobSensor, {"do_xcom_push": False}, True),
        (DatatileJobSensor, {"soft_fail": True}, True),
        (DatatileJobSensor, {"outlets": [Asset("datatile://host/databases/f00d")]}, False),
        (DatatileJobSensor, {"on_success_callback": print}, False),
        (DatatileJobSensor, {"post_execute": print}, False),
        (DatatileJobSensor, {"multiple_outputs": True}, False),
        (Extended, {}, False),
    ],
)
def test_the_triggerer_ends_only_tasks_that_need_no_worker(dag, kind, kwargs, may_end):
    assert (
        may_end_in_triggerer(kind(task_id="wait", job_id="7", deferrable=True, **kwargs), DatatileJobSensor) is may_end
    )
