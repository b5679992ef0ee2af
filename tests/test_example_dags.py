"""The example DAGs import without errors and warnings, and the files that they upload are parts of the survey."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pyreadstat
import pytest
from airflow.models import DagBag

import datatile_provider

EXAMPLES = Path(__file__).parents[1] / "example_dags"
DATA = EXAMPLES / "data"


@pytest.fixture(scope="module")
def examples():
    return DagBag(str(EXAMPLES))


def test_each_example_is_one_dag_of_its_files_name(examples):
    assert examples.import_errors == {}
    our_paths = (str(EXAMPLES), str(Path(datatile_provider.__file__).parent))
    warnings = [warning for file in examples.captured_warnings.values() for warning in file]
    assert [warning for warning in warnings if warning.startswith(our_paths)] == []
    assert set(examples.dags) == {file.stem for file in EXAMPLES.glob("*.py")}


def test_the_study_runs_in_its_order(examples):
    study = examples.dags["datatile_tracking_study"]
    order = ["create", "wait_for_create", "append", "wait_for_append", "reload", "wait_for_reload"]
    assert study.task_ids == order
    for before, after in itertools.pairwise(order):
        assert before in study.get_task(after).upstream_task_ids


@pytest.mark.parametrize(("name", "part"), [("wave1", slice(472)), ("wave2", slice(472, None)), ("whole", slice(None))])
def test_a_wave_holds_its_part_of_the_survey_with_all_labels(name, part):
    with (DATA / "anes96.csv").open(newline="") as file:
        variables, *respondents = csv.reader(file)
    codebook = json.loads((DATA / "anes96.codebook.json").read_text())

    columns, meta = pyreadstat.read_sav(DATA / f"{name}.zsav", output_format="dict")

    assert len(respondents) == 944
    assert {v: list(values) for v, values in columns.items()} == {
        v: [float(row[i]) for row in respondents[part]] for i, v in enumerate(variables)
    }
    assert meta.column_names_to_labels == codebook["variables"]
    assert meta.variable_value_labels == {
        variable: {float(code): label for code, label in labels.items()}
        for variable, labels in codebook["values"].items()
    }
