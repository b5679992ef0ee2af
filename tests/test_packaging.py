"""The package as Airflow and pip see it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import airflow
import jsonschema
import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from markdown_it import MarkdownIt

from datatile_provider import __version__
from datatile_provider.get_provider_info import get_provider_info
from tests.support.airflow import RealAirflow

PACKAGE = "airflow-provider-datatile"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cli(tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow")
    not_started = RealAirflow(home / "dags", home=home)
    # Airflow 2 prints warnings about settings before the output.
    return lambda *arguments: json.loads(not_started.run_cli(*arguments, "--output", "json").splitlines()[-1])


def test_airflow_lists_the_provider(cli):
    (found,) = [p for p in cli("providers", "list") if p["package_name"] == PACKAGE]
    assert found["version"] == __version__


def test_airflow_lists_the_hook(cli):
    (found,) = [h for h in cli("providers", "hooks") if h["connection_type"] == "datatile"]
    assert found["class"] == "datatile_provider.hooks.datatile.DatatileHook"
    assert found["package_name"] == PACKAGE


def test_the_provider_info_is_valid_by_airflows_schema():
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)
    assert get_provider_info()["package-name"] == PACKAGE


def test_every_name_of_the_provider_info_can_be_imported():
    info = get_provider_info()
    kinds = ("hooks", "operators", "sensors", "triggers")
    modules = [module for kind in kinds for entry in info[kind] for module in entry["python-modules"]]
    assert len(modules) >= len(kinds)
    for module in modules:
        importlib.import_module(module)
    for connection in info["connection-types"]:
        module, name = connection["hook-class-name"].rsplit(".", 1)
        assert getattr(importlib.import_module(module), name).conn_type == connection["connection-type"]


def built_metadata():
    """Return the metadata that a build writes into the wheel and the sdist."""
    return ProjectMetadata(str(ROOT), PluginManager()).core


def targets(markdown):
    """Return the addresses of a text's links and images."""
    inline = [child for token in MarkdownIt().enable("table").parse(markdown) for child in token.children or []]
    return [str(t.attrs[name]) for t in inline for name in ("href", "src") if name in t.attrs]


def test_with_a_project_url_no_link_or_image_of_the_readme_is_relative(monkeypatch):
    monkeypatch.setenv("PROJECT_URL", "https://forge.example/datatile/")
    metadata = built_metadata()
    found = targets(metadata.readme)
    assert [target for target in found if not target.startswith("https://")] == []
    base = "https://forge.example/datatile"
    assert f"{base}/blob/v{__version__}/docs/quickstart.md" in found
    assert f"{base}/raw/v{__version__}/docs/images/study-graph.png" in found
    assert metadata.urls["Source"] == base


def test_without_a_project_url_the_readme_is_unchanged(monkeypatch):
    monkeypatch.delenv("PROJECT_URL", raising=False)
    metadata = built_metadata()
    assert metadata.readme == (ROOT / "README.md").read_text("utf-8")
    assert "docs/quickstart.md" in targets(metadata.readme)
    assert metadata.urls == {}
