"""A real Airflow and a sandbox for each module, which defines Airflow's ``SETTINGS``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.airflow import RealAirflow
from tests.support.faults import FaultProxy
from tests.support.sandbox import SandboxProcess
from tests.system.lab import Lab


@pytest.fixture(scope="module")
def lab(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with SandboxProcess(folder) as sandbox, FaultProxy(sandbox.url) as faults:
        env = {
            "AIRFLOW_CONN_DATATILE_DEFAULT": sandbox.connection(),
            "AIRFLOW_CONN_DATATILE_FAULTY": sandbox.connection(faults.url),
            **request.module.SETTINGS,
        }
        with RealAirflow(Path(__file__).parent / "dags", home=folder / "airflow", env=env) as airflow:
            yield Lab(airflow, sandbox, faults, folder)
