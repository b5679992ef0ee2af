"""An Airflow home for the tests, independent of the environment, and the selection of tests for its version."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from typing import Any

import hypothesis
import pytest
from _pytest.junitxml import xml_key
from packaging.specifiers import SpecifierSet

from tests.support.versions import AIRFLOW

# Airflow reads these variables when it is imported, and writes into its home.
for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
    del os.environ[name]
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="datatile-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
# Airflow 3.2 needs a secret for the API server in `dag.test()`.
os.environ["AIRFLOW__API_AUTH__JWT_SECRET"] = secrets.token_hex()
# With the default, Airflow 2 prints a warning into the output that tests read.
os.environ["AIRFLOW__METRICS__TIMER_UNIT_CONSISTENCY"] = "True"
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

# Slow examples on a busy machine are not failures.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


DESELECTED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-tables", action="store_true", help="write the tables of the docs that tests compare")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are marked for other versions of Airflow."""

    def is_for_another_version(item: pytest.Item) -> bool:
        # A pre-release counts as the version that it precedes.
        version = AIRFLOW.base_version
        return not all(version in SpecifierSet(mark.args[0]) for mark in item.iter_markers("needs_airflow"))

    deselected = [item for item in items if is_for_another_version(item)]
    config.hook.pytest_deselected(items=deselected)
    config.stash[DESELECTED] = len(deselected)
    items[:] = [item for item in items if item not in deselected]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the version, and the number of tests deselected for it, into the JUnit report."""
    config = session.config
    deselected = config.stash.get(DESELECTED, 0)
    if hasattr(config, "workeroutput"):
        config.workeroutput["deselected"] = deselected
    elif report := config.stash.get(xml_key, None):
        report.add_global_property("airflow", AIRFLOW)
        report.add_global_property("not for this airflow", deselected)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the number from a worker of pytest-xdist: each has collected all tests."""
    node.config.stash[DESELECTED] = getattr(node, "workeroutput", {}).get("deselected", 0)
