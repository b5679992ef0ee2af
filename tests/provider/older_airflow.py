"""What `dag.test()` of older Airflows lacks for these tests, and real processes have."""

from __future__ import annotations

import functools
from typing import Any

from tests.support.versions import AIRFLOW


def mend_dag_test() -> None:
    """Let a task start quickly, and a rescheduled one read what only another process would read right."""
    if AIRFLOW.release[:2] in ((3, 0), (3, 1), (3, 2)):
        from airflow.sdk.execution_time import supervisor

        # Each start of a task would make an API server anew, in three seconds.
        supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)
    if AIRFLOW.release[:2] == (3, 0):
        from airflow.sdk.api.client import TaskInstanceOperations
        from airflow.sdk.execution_time.comms import TaskRescheduleStartDate

        asked = TaskInstanceOperations.get_reschedule_start_date

        def read(*arguments: Any) -> Any:
            # The date comes as text here; on its way to another process it is read as a date.
            return TaskRescheduleStartDate(start_date=asked(*arguments).start_date)

        TaskInstanceOperations.get_reschedule_start_date = read
