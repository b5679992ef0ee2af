"""``python -m datatile_provider``: the commands of :mod:`datatile_provider.cli`."""

from __future__ import annotations

import sys

from datatile_provider.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
