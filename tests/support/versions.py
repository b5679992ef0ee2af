"""Which Airflow the tests run on."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

AIRFLOW = Version(version("apache-airflow"))
#: Whether a task can keep something from one try to the next.
HAS_STATE_STORE = Version("3.3") <= AIRFLOW
