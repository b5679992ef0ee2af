"""What Airflow asks a provider about itself."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, for the entry point ``apache_airflow_provider``."""
    from datatile_provider import __version__

    return {
        "package-name": "airflow-provider-datatile",
        "name": "DATATILE",
        "description": "Uploads survey files to DATATILE databases and waits until they are processed.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "DATATILE",
                "external-doc-url": "https://datatile.eu/",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": "DATATILE", "python-modules": ["datatile_provider.hooks.datatile"]}],
        "operators": [{"integration-name": "DATATILE", "python-modules": ["datatile_provider.operators.datatile"]}],
        "sensors": [{"integration-name": "DATATILE", "python-modules": ["datatile_provider.sensors.datatile"]}],
        "triggers": [{"integration-name": "DATATILE", "python-modules": ["datatile_provider.triggers.datatile"]}],
        "connection-types": [
            {
                "connection-type": "datatile",
                "hook-class-name": "datatile_provider.hooks.datatile.DatatileHook",
                "hook-name": "DATATILE",
            }
        ],
    }
