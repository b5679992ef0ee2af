"""The provider's metadata for Airflow."""

from __future__ import annotations

from typing import Any

from datatile_provider import __version__
from datatile_provider.hooks.form import BEHAVIOUR, OPTIONS

_DATABASES = [
    {
        "schemes": ["datatile"],
        "handler": "datatile_provider.assets.uris.sanitize_uri",
        "factory": "datatile_provider.assets.datatile.database_asset",
        "to_openlineage_converter": "datatile_provider.assets.uris.convert_asset_to_openlineage",
    }
]
_CONFIG = {
    "datatile": {
        "description": "Settings of the DATATILE provider.",
        "options": {
            "page": {
                "description": "Whether the menu of the UI has the page DATATILE (Airflow 3.1 and later).\n",
                "version_added": "0.1.0",
                "type": "boolean",
                "example": None,
                "default": "True",
            }
        },
    }
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, for the entry point ``apache_airflow_provider``."""
    return {
        "package-name": "airflow-provider-datatile",
        "name": "DATATILE",
        "description": "Uploads survey files to DATATILE databases and waits until they are processed.",
        "versions": [__version__],
        "integrations": [
            {"integration-name": "DATATILE", "external-doc-url": "https://datatile.eu/", "tags": ["service"]}
        ],
        "hooks": [{"integration-name": "DATATILE", "python-modules": ["datatile_provider.hooks.datatile"]}],
        "operators": [
            {
                "integration-name": "DATATILE",
                "python-modules": ["datatile_provider.operators.datatile", "datatile_provider.operators.wave_check"],
            }
        ],
        "sensors": [{"integration-name": "DATATILE", "python-modules": ["datatile_provider.sensors.datatile"]}],
        "triggers": [{"integration-name": "DATATILE", "python-modules": ["datatile_provider.triggers.datatile"]}],
        "extra-links": [
            "datatile_provider.links.datatile.DatatileLogLink",
            "datatile_provider.links.datatile.DatatileJobLink",
            "datatile_provider.links.datatile.DatatileCheckLink",
        ],
        "task-decorators": [
            {"name": "datatile_upload", "class-name": "datatile_provider.decorators.datatile.datatile_upload_task"}
        ],
        "asset-uris": _DATABASES,
        # The plugin with the page is an entry point; see pyproject.toml.
        "config": _CONFIG,
        # Read by Airflow 3.2 and later.
        "cli": ["datatile_provider.cli.commands.airflow_commands"],
        # Airflow 2 calls assets datasets.
        "dataset-uris": _DATABASES,
        "connection-types": [
            {
                "connection-type": "datatile",
                "hook-class-name": "datatile_provider.hooks.datatile.DatatileHook",
                "hook-name": "DATATILE",
                "conn-fields": OPTIONS,
                "ui-field-behaviour": BEHAVIOUR,
            }
        ],
    }
