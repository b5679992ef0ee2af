"""The proxy as a process. At its control address, ``PUT /plan`` sets the faults, ``GET /log`` returns the requests."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys

from aiohttp import web

from tests.support.faults.plan import Plan
from tests.support.faults.proxy import Proxy


async def _main(options: argparse.Namespace) -> None:
    if options.plan:
        plan = Plan.of(json.loads(options.plan))
    else:
        plan = Plan(seed=options.seed, rate=options.rate, on=options.on)
    proxy = Proxy(options.upstream, plan)

    async def put_plan(request: web.Request) -> web.Response:
        try:
            proxy.plan = Plan.of(await request.json())
        except (ValueError, TypeError) as e:
            return web.json_response({"error": str(e)}, status=400)
        return web.json_response({})

    async def get_log(request: web.Request) -> web.Response:
        return web.json_response([dataclasses.asdict(request) for request in proxy.log])

    app = web.Application()
    app.add_routes([web.put("/plan", put_plan), web.get("/log", get_log)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    addresses = {"url": await proxy.start(options.port), "control": f"http://127.0.0.1:{runner.addresses[0][1]}"}
    sys.stdout.write(f"{json.dumps(addresses)}\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await proxy.stop()
    await runner.cleanup()


def main() -> int:
    """Run the proxy until it receives a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, help="address of the DATATILE server")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; default, a free one")
    parser.add_argument("--plan", help="faults to inject, as JSON")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random faults")
    parser.add_argument("--rate", type=float, default=0.0, help="share of requests with a random fault, 0 to 1")
    parser.add_argument(
        "--on", choices=("upload", "poll", "any"), default="any", help="which requests get random faults"
    )
    asyncio.run(_main(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
