"""The page DATATILE in the menu of Airflow 3.1 and later. It shows the uploads and waits that its user may see."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.providers.common.compat.sdk import conf

from datatile_provider.plugins.static_files import StaticPage
from datatile_provider.version_compat import HAS_PAGES, ROUTE, page_path


class DatatilePlugin(AirflowPlugin):
    """Adds the page; on an older Airflow, or with ``[datatile] page = False``, it adds nothing."""

    name = "datatile"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Declare the page. Airflow calls it in each process that loads plugins, so it imports no web framework."""
        if not HAS_PAGES or not conf.getboolean("datatile", "page", fallback=True):
            return
        page = page_path()
        cls.fastapi_apps = [{"app": StaticPage(), "url_prefix": f"/{ROUTE}", "name": "DATATILE"}]
        cls.external_views = [
            {
                "name": "DATATILE",
                "href": page,
                "destination": "nav",
                "url_route": ROUTE,
                "icon": f"{page}icon.svg",
                "icon_dark_mode": f"{page}icon-dark.svg",
            }
        ]
