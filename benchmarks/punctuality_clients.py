"""A client of `benchmarks.punctuality`, in a process of its own: `python -m benchmarks.punctuality_clients NAME ORDER`.

`sdk` is the openai SDK, polling each second, as its own helper does; `flow` is a Prefect flow written by hand, with
four tasks a shot, httpx, SHA-256 and a rename, polling each 5 seconds; `sora` and `openai` are this package.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import httpx

from prefect_video.projects import Project
from prefect_video.shots import Shot

KEY: Final = "sk-emulator"
SDK_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Order:
    """What a client makes: `generations` videos, at most `at_once` at a time; `run` makes the prompts new.

    The flow written by hand polls each generation every `pause_seconds`.
    """

    url: str
    folder: str
    generations: int
    at_once: int
    run: int
    shot_seconds: int = 4
    pause_seconds: float = 5.0

    @property
    def prompts(self) -> list[str]:
        """The prompts."""
        return [f"a lighthouse, view {number} of run {self.run}" for number in range(self.generations)]

    @property
    def videos(self) -> Path:
        """Folder of the videos."""
        return Path(self.folder) / "videos"

    def to_json(self) -> str:
        """Return the order as an argument of the process."""
        return json.dumps(asdict(self))


def save(order: Order, number: int, content: bytes) -> str:
    """Publish a video by a rename; return its digest."""
    path = order.videos / f"run-{order.run}-{number}.mp4"
    partial = path.with_suffix(".part")
    partial.write_bytes(content)
    partial.rename(path)
    return hashlib.sha256(content).hexdigest()


async def run_sdk(order: Order) -> None:
    """Make the videos with the openai SDK."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key=KEY, base_url=f"{order.url}/v1")
    slots = asyncio.Semaphore(order.at_once)

    async def make(number: int, prompt: str) -> None:
        async with slots:
            video = await client.videos.create(
                model="sora-2", prompt=prompt, seconds=cast(Any, str(order.shot_seconds)), size="1280x720"
            )
            while video.status not in ("completed", "failed"):
                await asyncio.sleep(SDK_PAUSE_SECONDS)
                video = await client.videos.retrieve(video.id)
        content = await client.videos.download_content(video.id)
        save(order, number, await content.aread())

    await asyncio.gather(*(make(number, prompt) for number, prompt in enumerate(order.prompts)))


async def run_flow(order: Order) -> None:
    """Make the videos with a Prefect flow written by hand."""
    from prefect import flow, task

    client = httpx.AsyncClient(base_url=f"{order.url}/v1/sora", headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    # Links are of another host, which must not see the key.
    plain = httpx.AsyncClient(timeout=60)

    @task
    async def submit(prompt: str) -> str:
        body = {"model": "sora-2", "prompt": prompt, "duration": order.shot_seconds, "resolution": "720p"}
        generation_id: str = (await client.post("/generations", json=body)).raise_for_status().json()["id"]
        return generation_id

    @task
    async def poll(generation_id: str) -> str:
        while True:
            generation = (await client.get(f"/generations/{generation_id}")).raise_for_status().json()
            if generation["status"] == "completed":
                url: str = generation["result"]["video_url"]
                return url
            await asyncio.sleep(order.pause_seconds)

    @task
    async def download(url: str) -> bytes:
        return (await plain.get(url)).raise_for_status().content

    @task
    async def store(number: int, content: bytes) -> str:
        return save(order, number, content)

    @flow
    async def make_all() -> None:
        slots = asyncio.Semaphore(order.at_once)

        async def make(number: int, prompt: str) -> None:
            async with slots:
                url = await poll(await submit(prompt))
            await store(number, await download(url))

        await asyncio.gather(*(make(number, prompt) for number, prompt in enumerate(order.prompts)))

    await make_all()
    await asyncio.gather(client.aclose(), plain.aclose())


async def run_package(order: Order, provider: str) -> None:
    """Make the videos with this package's flow."""
    os.environ |= {
        "SORA_API_KEY": KEY,
        "SORA_API_ENDPOINT": f"{order.url}/v1/sora",
        "SORA_PLAN": "api-tier-3",
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{order.url}/v1",
        "PREFECT_VIDEO_LEDGER_URL": f"sqlite:///{order.folder}/ledger.db",
        "PREFECT_VIDEO_SPOOL": f"{order.folder}/spool",
    }
    from prefect_video.flows import generate_project

    shots = tuple(
        Shot(id=f"shot-{number}", prompt=prompt, duration=order.shot_seconds, resolution="720p")
        for number, prompt in enumerate(order.prompts)
    )
    await generate_project(
        Project(name=f"run-{order.run}", shots=shots),
        provider=provider,
        store=order.videos.as_uri(),
        max_in_flight=order.at_once,
    )


def main() -> None:
    """Run the client that the arguments name."""
    name, order = sys.argv[1], Order(**json.loads(sys.argv[2]))
    order.videos.mkdir(exist_ok=True)
    match name:
        case "sdk":
            asyncio.run(run_sdk(order))
        case "flow":
            asyncio.run(run_flow(order))
        case _:
            asyncio.run(run_package(order, name))


if __name__ == "__main__":
    main()
