"""The version of Airflow that the tests run on."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

AIRFLOW = Version(version("apache-airflow"))
#: Whether tasks have a state store, which outlives an attempt.
HAS_STATE_STORE = Version("3.3") <= AIRFLOW
