"""Give the package's metadata its README and addresses; ``PROJECT_URL`` makes the README's links absolute."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link or a picture whose target has no scheme.
_RELATIVE = re.compile(r"(!?)(\[[^\[\]]*\])\((?![a-z]+:)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Fill in ``readme`` and ``urls``, which depend on where the repository is published."""

    def update(self, metadata: dict[str, Any]) -> None:
        root, url = Path(self.root), os.environ.get("PROJECT_URL", "").rstrip("/")
        tag = f"v{metadata['version']}"

        def absolute(match: re.Match[str]) -> str:
            picture, text, target = match.groups()
            target = f"README.md{target}" if target.startswith("#") else target
            # A forge shows files, folders and raw content at different addresses.
            view = "raw" if picture else "tree" if (root / target).is_dir() else "blob"
            return f"{picture}{text}({url}/{view}/{tag}/{target})"

        text = (root / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": _RELATIVE.sub(absolute, text) if url else text}
        changelog = f"{url}/blob/{tag}/CHANGELOG.md"
        metadata["urls"] = {"Source": url, "Issues": f"{url}/issues", "Changelog": changelog} if url else {}
