"""What `dag.test()` of older Airflows lacks for these tests, and real processes have."""

from __future__ import annotations

import functools
import io
import logging
import time
from typing import Any

from tests.support.versions import AIRFLOW


def mend_dag_test() -> None:
    """Let a task start quickly and surely, and a rescheduled one read what only another process would read right."""
    if AIRFLOW.release[:2] in ((3, 0), (3, 1), (3, 2)):
        from airflow.sdk.execution_time import supervisor

        make = supervisor.in_process_api_server

        @functools.cache
        def in_process_api_server() -> Any:
            # Each start of a task would make an API server anew, in three seconds, and not wait until it is up.
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

        # Where there is none, it adds one that prints all once more, to the standard output of the first test.
        logging.getLogger("airflow.task").addHandler(logging.StreamHandler(io.StringIO()))
        asked = TaskInstanceOperations.get_reschedule_start_date

        def read(*arguments: Any) -> Any:
            # The date comes as text here; on its way to another process it is read as a date.
            return TaskRescheduleStartDate(start_date=asked(*arguments).start_date)

        TaskInstanceOperations.get_reschedule_start_date = read


def task_log(printed: str) -> str:
    """Return what of a `dag.test()`'s output stands in the tasks' logs too."""
    if AIRFLOW.release[:2] != (3, 0):
        return printed
    # Here it tells itself what to mask, and draws boxes with every variable on the way to an error.
    return "\n".join(line for line in printed.splitlines() if "msg=MaskSecret(" not in line and line[:1] != "│")
