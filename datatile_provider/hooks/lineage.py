"""What an upload reports to Airflow's hook lineage collector."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from datatile_provider.api.models import Action, ServerConfig, Upload
from datatile_provider.assets.uris import database_uri, file_uri

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseHook

    from datatile_provider.hooks.dataset import DatasetLike


def collect_lineage(hook: BaseHook, server: ServerConfig, upload: Upload, dataset: DatasetLike) -> None:
    """Report the file and the database of an accepted upload to Airflow's hook lineage collector."""
    # The server has accepted the file, so an error here must not fail the task.
    with contextlib.suppress(Exception):
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

        collector: Any = get_hook_lineage_collector()  # type: ignore[no-untyped-call]  # Airflow's own
        source = file_uri(dataset)
        if source:
            collector.add_input_asset(context=hook, uri=source)
        # The hash of a new database is not known yet.
        if upload.action is not Action.CREATE:
            collector.add_output_asset(context=hook, uri=database_uri(server.url, upload.target_hash))
