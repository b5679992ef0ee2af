"""Sphinx configuration; ``make docs`` builds these pages."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from importlib.metadata import version as version_of
from pathlib import Path

# Importing Airflow writes to its home.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="datatile-docs-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "airflow-provider-datatile"
author = "The airflow-provider-datatile authors"
release = version = version_of(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "benchmark_tables"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
nitpicky = True
# Types of the standard library and of other packages. A build fetches nothing, so it can't link to their documentation.
nitpick_ignore_regex = [
    (r"py:.*", r"(airflow|aiohttp|collections|datetime|enum|os|pathlib|typing|types)\..*"),
    # A type variable has no documentation.
    (r"py:.*", r"datatile_provider\.api\.errors\._Error"),
    (r"py:.*", r"Airflow\w+|Asset|BaseNotifier|Context|HITLUser|PokeReturnValue|TaskDecorator|XComArg|DatasetLike"),
    (r"py:.*", r"Any|BinaryIO|Callable|Exception|Mapping|OSError|Path|ROLES|Sequence|ValueError|timedelta|tuple\[str"),
]

html_theme = "furo"
html_title = "DATATILE in Airflow"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "light_css_variables": {"code-font-size": "80%"},
    "dark_css_variables": {"code-font-size": "80%"},
}
copybutton_exclude = ".linenos, .gp, .go"
