"""When a rescheduled sensor looked first: its deadline counts from there."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context


def first_poke(context: Context, retries: int) -> datetime | None:
    """
    Return when the task looked first, in an earlier process; None if this is the first look.

    From Airflow 3 on a retry begins anew; on Airflow 2 it goes on with the deadline of the first try.

    :param retries: the sensor's own.
    """
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        found: datetime | None = ti.get_first_reschedule_date(context)
        return found
    # Airflow 2 asks so itself, and has no public name for it.
    first_try = (ti.max_tries or 0) - retries + 1
    found = import_module("airflow.sensors.base")._orig_start_date(
        ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_try
    )
    return found
