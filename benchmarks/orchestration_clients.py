"""A client of `benchmarks.orchestration`, in a process of its own.

    python -m benchmarks.orchestration_clients NAME ORDER [--profile]

`bare` is Prefect with empty tasks, `flow` is written by hand, `package` is this package; each has four tasks a shot.
Prints one JSON object: seconds, processor seconds and Prefect API requests of the flow run, imports left out, and the
peak of the memory. The processor seconds are counted until Prefect's client has sent all events and logs: what it holds
back at the end of a short run is not less work. With `--profile` it writes the functions that took the longest to a
file beside its videos.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.cpu_profile import CpuProfile
from benchmarks.punctuality_clients import Order, run_flow, run_package


async def run_bare(order: Order) -> None:
    """Run a flow of as many empty tasks."""
    from prefect import flow, task

    @task
    async def empty(before: int) -> int:
        return before

    @flow
    async def run_all() -> None:
        async def run_four(number: int) -> None:
            for _ in range(4):
                number = await empty(number)

        await asyncio.gather(*(run_four(number) for number in range(order.generations)))

    await run_all()


async def run_sora(order: Order) -> None:
    """Make the videos with this package's flow, at the Sora dialect."""
    await run_package(order, "sora")


CLIENTS: Final[Mapping[str, Callable[[Order], Awaitable[None]]]] = {
    "bare": run_bare,
    "flow": run_flow,
    "package": run_sora,
}

_OF_PREFECT: Final = (
    "prefect.main", "prefect.flow_engine", "prefect.task_engine", "prefect.engine", "fastapi.encoders", "graphviz",
)  # fmt: skip
IMPORTED_BEFORE: Final[Mapping[str, tuple[str, ...]]] = {
    "bare": _OF_PREFECT,
    "flow": _OF_PREFECT,
    "package": ("prefect_video.flows.project", *_OF_PREFECT),
}
"""What each client imports before its run: Prefect imports much of itself at the first use, in one client and not in
another."""


def count_requests() -> list[httpx.Request]:
    """Return the list to which every request to Prefect's API is added from now on."""
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

    sent: list[httpx.Request] = []
    send, send_sync = PrefectHttpxAsyncClient.send, PrefectHttpxSyncClient.send

    async def count_and_send(client: Any, request: httpx.Request, *args: Any, **named: Any) -> httpx.Response:
        sent.append(request)
        return await send(client, request, *args, **named)

    def count_and_send_sync(client: Any, request: httpx.Request, *args: Any, **named: Any) -> httpx.Response:
        sent.append(request)
        return send_sync(client, request, *args, **named)

    for kind, counting in ((PrefectHttpxAsyncClient, count_and_send), (PrefectHttpxSyncClient, count_and_send_sync)):
        setattr(kind, "send", counting)  # noqa: B010
    return sent


def send_held_back() -> None:
    """Wait until Prefect's client has sent all events and logs that it sends in the background."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all()


async def drive(name: str, order: Order) -> None:
    """Run a client by its name."""
    await CLIENTS[name](order)


def main() -> None:
    """Run the client that the arguments name."""
    name, order = sys.argv[1], Order(**json.loads(sys.argv[2]))
    order.videos.mkdir(exist_ok=True)
    for module in IMPORTED_BEFORE[name]:
        importlib.import_module(module)
    sent = count_requests()
    profile = CpuProfile() if "--profile" in sys.argv else None
    began, cpu_began = time.perf_counter(), time.process_time()
    with profile.recording() if profile else nullcontext():
        asyncio.run(drive(name, order))
    wall = time.perf_counter() - began
    send_held_back()
    measured = {
        "wall": wall,
        "client_cpu": time.process_time() - cpu_began,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "requests": len(sent),
    }
    print(json.dumps(measured))
    if profile:
        Path(order.folder, "profile.txt").write_text(profile.render())


if __name__ == "__main__":
    main()
