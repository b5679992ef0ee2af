"""The plugin of the page: what it declares to Airflow, and how its files are served."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest

from datatile_provider.get_provider_info import get_provider_info
from datatile_provider.plugins import DatatilePlugin, static_files

PAGE = Path(static_files.__file__).parent / "page"
LOADS = """
import sys
from datatile_provider.plugins import DatatilePlugin
DatatilePlugin.on_load()
print("starlette.staticfiles" in sys.modules)
"""


@pytest.fixture
def plugin(monkeypatch):
    """The plugin as Airflow instantiates it, with nothing declared by an earlier test."""
    for name in ("fastapi_apps", "external_views"):
        monkeypatch.setattr(DatatilePlugin, name, [], raising=False)
    return DatatilePlugin()


@pytest.mark.needs_airflow(">=3.1")
@pytest.mark.parametrize(("base_url", "path"), [("http://localhost:8080", ""), ("https://host/airflow/", "/airflow")])
def test_the_page_is_in_the_menu(plugin, monkeypatch, base_url, path):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    plugin.on_load()
    (app,), (view,) = plugin.fastapi_apps, plugin.external_views
    assert app["url_prefix"] == "/datatile"
    assert (view["href"], view["destination"], view["url_route"]) == (f"{path}/datatile/", "nav", "datatile")
    for icon in (view["icon"], view["icon_dark_mode"]):
        assert (PAGE / icon.rsplit("/", 1)[1]).is_file()


@pytest.mark.parametrize("value", ["False", "false", "0"])
def test_the_page_can_be_switched_off(plugin, monkeypatch, value):
    monkeypatch.setenv("AIRFLOW__DATATILE__PAGE", value)
    plugin.on_load()
    assert (plugin.fastapi_apps, plugin.external_views) == ([], [])


@pytest.mark.needs_airflow("<3.1")
def test_an_older_airflow_has_no_page(plugin):
    plugin.on_load()
    assert (plugin.fastapi_apps, plugin.external_views) == ([], [])


def test_the_option_is_declared():
    option = get_provider_info()["config"]["datatile"]["options"]["page"]
    assert (option["type"], option["default"]) == ("boolean", "True")


def test_loading_the_plugin_imports_no_web_framework():
    done = subprocess.run([sys.executable, "-c", LOADS], env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


@pytest.fixture
def client():
    pytest.importorskip("starlette")
    return import_module("starlette.testclient").TestClient(static_files.StaticPage())


def test_each_file_is_served_with_the_policy(client):
    files = sorted(path.name for path in PAGE.iterdir())
    assert {"index.html", "main.js", "style.css", "icon.svg"} <= set(files)
    for name in ("", *files):
        response = client.get(f"/{name}")
        assert response.status_code == 200, name
        assert response.headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
            "frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
        )
        assert response.headers["x-content-type-options"] == "nosniff"
        if name.endswith(".js"):
            assert response.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/missing.js", "/../static_files.py", "/%2e%2e/static_files.py"])
def test_nothing_else_is_served(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert "content-security-policy" in response.headers


class Loads(HTMLParser):
    """What a document loads, and its inline scripts, styles and handlers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        self.inline += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


def test_the_page_loads_only_its_own_files():
    loads = Loads((PAGE / "index.html").read_text())
    assert loads.inline == []
    assert [name for name in loads.addresses if name != "./" and not (PAGE / name).is_file()] == []
    for script in PAGE.glob("*.js"):
        text = script.read_text()
        assert all((PAGE / name).is_file() for name in re.findall(r'from "\./([^"]+)"', text)), script
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|DOMParser", text), script
        assert [url for url in re.findall(r"https?://[\w./]+", text) if "www.w3.org" not in url] == [], script
