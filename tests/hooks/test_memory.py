"""The memory of an upload does not grow with the file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

GIB = 1 << 30
LIMIT = 32 << 20

SINK = """
import os, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
head = b""
while b"\\r\\n\\r\\n" not in head:
    head += peer.recv(1 << 16)
head, _, body = head.partition(b"\\r\\n\\r\\n")
length = int(head.lower().split(b"content-length:")[1].split(b"\\r\\n")[0])
received, block = len(body), bytearray(1 << 20)
while received < length:
    more = peer.recv_into(block)
    if not more:
        raise SystemExit("the client left")
    received += more
response = b'{"job_id": "%d"}' % received
peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(response) + response)
"""

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


@pytest.fixture
def sink() -> Iterator[subprocess.Popen[str]]:
    """A server in its own process, which accepts one upload; its response's job id is the number of bytes received."""
    with subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("stored", [False, True], ids=["local path", "object storage path"])
def test_large_upload(sink, tmp_path, monkeypatch, stored):
    file = tmp_path / "large.sav"
    with file.open("wb") as opened:
        opened.truncate(GIB)
    host = f"http://127.0.0.1:{sink.stdout.readline().strip()}"
    monkeypatch.setenv("AIRFLOW_CONN_DATATILE_DEFAULT", json.dumps({"host": host, "password": "the-token"}))
    arguments = {"file": f"file://{file}" if stored else str(file), "stored": stored}
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, json.dumps(arguments)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert GIB < int(found["job"]) < GIB + 1_000
    assert 0 <= found["growth"] < LIMIT
