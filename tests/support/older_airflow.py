"""Patches for `dag.test()` of older Airflow versions, which differs from real processes."""

from __future__ import annotations

import functools
import io
import logging
import time
from typing import Any

from tests.support.versions import AIRFLOW


def patch_dag_test() -> None:
    """Make task starts fast and reliable, and let a rescheduled task read its first start date."""
    if AIRFLOW.release[:2] in ((3, 0), (3, 1), (3, 2)):
        from airflow.sdk.execution_time import supervisor

        make = supervisor.in_process_api_server

        @functools.cache
        def in_process_api_server() -> Any:
            # Otherwise each task start makes a new API server, which takes 3 s, and does not wait until it is up.
            server = make()
            assert server.transport
            deadline = time.monotonic() + 20
            while not hasattr(server.app.state, "svcs_registry") and time.monotonic() < deadline:
                time.sleep(0.01)
            return server

        supervisor.in_process_api_server = in_process_api_server
    if AIRFLOW.release[:2] == (3, 0):
        from airflow.sdk.api.client import TaskInstanceOperations
        from airflow.sdk.execution_time.comms import TaskRescheduleStartDate

        # Without a handler, Airflow adds one that prints everything again, to the first test's standard output.
        logging.getLogger("airflow.task").addHandler(logging.StreamHandler(io.StringIO()))
        get_start_date = TaskInstanceOperations.get_reschedule_start_date

        def read_start_date(*args: Any) -> Any:
            # Here the date is text; only when it is sent to another process is it parsed.
            return TaskRescheduleStartDate(start_date=get_start_date(*args).start_date)

        TaskInstanceOperations.get_reschedule_start_date = read_start_date  # type: ignore[method-assign,assignment]  # a patch


def task_log(printed: str) -> str:
    """Return the part of the output of `dag.test()` that the tasks' logs hold too."""
    if AIRFLOW.release[:2] != (3, 0):
        return printed
    # Airflow 3.0 also prints its own masking requests, and tracebacks with all local variables in boxes.
    return "\n".join(line for line in printed.splitlines() if "msg=MaskSecret(" not in line and line[:1] != "│")
