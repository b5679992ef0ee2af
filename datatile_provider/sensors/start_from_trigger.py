"""Which sensors can start and end in the triggerer, without a worker."""

from __future__ import annotations

import re
import sys
from typing import Any

from datatile_provider.version_compat import TRIGGERER_RENDERS


def job_id_for_triggerer(sensor: Any) -> tuple[str, str]:
    """
    Return the sensor's job id as a template that the triggerer can render, or why the task needs a worker.

    :param sensor: the sensor, with its ``job_id`` as given: a text, a template, or another task's ``output``.
    :return: the template and ``""``, or ``""`` and the reason.
    """
    if not sensor.deferrable:
        return "", "it is not deferrable"
    if not TRIGGERER_RENDERS:
        return "", "this Airflow is older than 3.3"
    if sensor.execution_timeout:
        return "", "the triggerer can't enforce its execution_timeout"
    job_id = sensor.job_id
    if isinstance(job_id, str):
        # The triggerer can't run such a pull, and would wait forever.
        hangs = "xcom_pull" in job_id and "map_indexes" not in job_id
        return ("", "the template of job_id pulls an XCom without map_indexes") if hangs else (job_id, "")
    source = getattr(job_id, "operator", None)
    # A mapped task's output, and the results of `.map()` and `.zip()`, can't be written as a template.
    if (
        type(job_id).__name__ != "PlainXComArg"
        or source is None
        or source.is_mapped
        or source.get_closest_mapped_task_group()
    ):
        return "", "job_id is not the plain output of one task that is not mapped"
    return f"{{{{ ti.xcom_pull(task_ids={source.task_id!r}, key={job_id.key!r}, map_indexes=-1) or '' }}}}", ""


def may_end_in_triggerer(sensor: Any, own: type) -> bool:
    """
    Return whether the triggerer can end the task without skipping anything that a worker must do.

    :param own: the class whose ``execute_complete`` and ``post_execute`` may be skipped.
    """
    overridden = any(
        getattr(type(sensor), name) is not getattr(own, name) for name in ("execute_complete", "post_execute")
    )
    for_a_worker = (
        sensor.outlets,
        sensor.on_success_callback,
        getattr(sensor, "multiple_outputs", False),
        getattr(sensor, "_post_execute_hook", None),
        overridden,
        # OpenLineage's listener runs in workers: it gets the task's start, and must get its end.
        "airflow.providers.openlineage.plugins.listener" in sys.modules,
    )
    return TRIGGERER_RENDERS and not any(for_a_worker)


def upload_task_id(job_id: Any) -> str:
    """Return the id of the task whose output a ``job_id`` is, or ``""`` when it does not show."""
    if isinstance(job_id, str):
        found = re.search(r"""xcom_pull\([^)]*?task_ids=['"]([\w.-]+)['"]""", job_id)
        return found[1] if found else ""
    return str(getattr(getattr(job_id, "operator", None), "task_id", ""))
