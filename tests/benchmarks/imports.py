"""Import operators and sensors, as each parse of a DAG file does: of this provider, Airbyte and dbt Cloud."""

from __future__ import annotations

import importlib
import sys
import time
from tempfile import TemporaryDirectory

from tests.benchmarks import fresh, report
from tests.benchmarks.report import Report

CASE = "over a bare `from airflow.sdk import DAG, BaseOperator`"
OURS = "ours"
VARIANTS = {
    OURS: ("datatile_provider.operators.datatile", "datatile_provider.sensors.datatile"),
    "Airbyte": ("airflow.providers.airbyte.operators.airbyte", "airflow.providers.airbyte.sensors.airbyte"),
    "dbt Cloud": ("airflow.providers.dbt.cloud.operators.dbt", "airflow.providers.dbt.cloud.sensors.dbt"),
}


def added(*modules: str) -> dict[str, float]:
    """Import modules; return the number of newly loaded modules, and the time."""
    from airflow.sdk import DAG, BaseOperator  # noqa: F401

    before, cpu, start = len(sys.modules), time.process_time(), time.perf_counter()
    for module in modules:
        importlib.import_module(module)
    return {
        "modules": len(sys.modules) - before,
        "time": (time.perf_counter() - start) * 1e3,
        "processor": (time.process_time() - cpu) * 1e3,
    }


def main() -> None:
    options = report.options(__doc__, runs=7)
    providers = ("apache-airflow-providers-airbyte", "apache-airflow-providers-dbt-cloud")
    result = Report("imports", "Import of operators and sensors", options, ("apache-airflow", *providers))
    with TemporaryDirectory() as directory:
        # The first run may compile modules, so it does not count.
        for run in range(options.runs + 1):
            for variant, modules in VARIANTS.items():
                # Python reads bytecode in production, and writes it in the first run unless this variable is set.
                env = {"AIRFLOW_HOME": directory, "PYTHONDONTWRITEBYTECODE": ""}
                found = fresh.call(f"{__spec__.name}:added", *modules, env=env)
                if run:
                    units = {"modules": "modules", "time": "ms", "processor": "ms"}
                    result.add(CASE, variant, **{metric: (found[metric], unit) for metric, unit in units.items()})
    result.limit(CASE, "modules", OURS, under=30)
    result.limit(CASE, "time", OURS, under=30)
    for peer in (p for p in VARIANTS if p != OURS):
        result.ratio(CASE, "modules", OURS, peer, at_least=None, lower=True)
        result.ratio(CASE, "time", OURS, peer, at_least=None, lower=True)
    result.finish()


if __name__ == "__main__":
    main()
