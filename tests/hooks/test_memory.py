"""The memory of an upload does not grow with the file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.sink import sink

GIB = 1 << 30
LIMIT = 32 << 20

# The peak is measured from the point where everything that an upload needs is imported.
UPLOAD = """
import json, os, sys
import aiohttp, requests
from airflow.providers.common.compat.sdk import ObjectStoragePath
from datatile_provider.api import client
from datatile_provider.hooks import dataset
from datatile_provider.hooks.datatile import DatatileHook

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

arguments = json.loads(sys.argv[1])
file = ObjectStoragePath(arguments["file"]) if arguments["stored"] else arguments["file"]
hook = DatatileHook()
hook.get_conn()
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
idle = memory("VmRSS")
job = hook.upload("create", "abc", file)
print(json.dumps({"job": job.id, "growth": memory("VmHWM") - idle}))
"""


@pytest.mark.parametrize("stored", [False, True], ids=["local path", "object storage path"])
def test_large_upload(tmp_path, connect, stored):
    file = tmp_path / "large.sav"
    with file.open("wb") as opened:
        opened.truncate(GIB)
    arguments = {"file": f"file://{file}" if stored else str(file), "stored": stored}
    with sink() as url:
        connect(url)
        command = [sys.executable, "-c", UPLOAD, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert GIB < int(found["job"]) < GIB + 1_000
    assert 0 <= found["growth"] < LIMIT
