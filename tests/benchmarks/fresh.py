"""A measurement in a new interpreter: time, CPU time, and additional memory."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without proxies and CA bundles, plus other variables."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.endswith("_CA_BUNDLE")}
    return kept | variables


def call(function: str, *arguments: Any, env: Mapping[str, str] | None = None, timeout: float = 300) -> Any:
    """
    Call ``module:function`` with JSON arguments in a new interpreter, and return its result.

    :param timeout: seconds after which it is killed.
    """
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, function, json.dumps(arguments)],
        env=environment() | dict(env or {}),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=timeout,
        check=True,
    )
    # A library may have printed something before the result.
    return json.loads(done.stdout.splitlines()[-1])


def measure(work: Callable[[], object]) -> dict[str, float]:
    """Call a function, and return ``seconds``, ``cpu`` (seconds) and ``memory`` (peak in MiB, above the start)."""
    # Resets the high-water mark of the process's memory.
    Path("/proc/self/clear_refs").write_text("5")
    memory, cpu, start = status("VmRSS"), time.process_time(), time.perf_counter()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "memory": (status("VmHWM") - memory) / 1024,
    }


def status(name: str, pid: int | str = "self") -> int:
    """Return a value of a process's status (kB), 0 if it has ended."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(sys.argv[2]))))
