"""Gives the tests an Airflow of their own, whatever the environment holds, and each Airflow the tests it can pass."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable

import hypothesis
import pytest
from packaging.specifiers import SpecifierSet

from tests.support.versions import AIRFLOW

# Airflow reads these the moment it is imported, and writes into its home.
for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
    del os.environ[name]
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="datatile-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
# Airflow 3.2 wants one for the API server within `dag.test()`.
os.environ["AIRFLOW__API_AUTH__JWT_SECRET"] = secrets.token_hex()
# Airflow 2 warns of its own default at each start, in the midst of what tests read.
os.environ["AIRFLOW__METRICS__TIMER_UNIT_CONSISTENCY"] = "True"
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

# A busy machine is no failure.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


NOT_FOR_THIS_AIRFLOW = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked as being about another Airflow's abilities."""

    def elsewhere(item: pytest.Item) -> bool:
        return not all(AIRFLOW in SpecifierSet(mark.args[0]) for mark in item.iter_markers("needs_airflow"))

    left_out = [item for item in items if elsewhere(item)]
    config.hook.pytest_deselected(items=left_out)
    config.stash[NOT_FOR_THIS_AIRFLOW] = len(left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True, scope="session")
def report_of_versions(pytestconfig: pytest.Config, record_testsuite_property: Callable[[str, object], None]) -> None:
    """Tell the version and the number of tests left out for its sake in a JUnit report."""
    record_testsuite_property("airflow", AIRFLOW)
    record_testsuite_property("not for this airflow", pytestconfig.stash[NOT_FOR_THIS_AIRFLOW])
