"""Rendered clips: each is drawn once, kept as a file, and shared by every generation that looks the same."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prefect_video._shield import run_in_thread
from prefect_video.emulator.generation import GenerationRequest
from prefect_video.emulator.rendering.spec import Clip, ClipSpec
from prefect_video.emulator.settings import EmulatorSettings

PLATE_PROMPT = "One clip for every generation of this duration and shape"


class ClipLibrary:
    """Renders clips on a few threads and remembers them by their specification."""

    def __init__(self, settings: EmulatorSettings, folder: Path) -> None:
        self._plate = settings.render == "plate"
        self._folder = folder
        self._threads = ThreadPoolExecutor(settings.render_workers, thread_name_prefix="emulator-render")
        self._clips: dict[str, asyncio.Task[Clip]] = {}
        self._stop = threading.Event()

    def spec(self, order: GenerationRequest) -> ClipSpec:
        """What the clip of an order looks like."""
        shape = (order.duration, *order.frame_size, order.frames, order.fps)
        if self._plate:
            return ClipSpec("plate", "plate", PLATE_PROMPT, *shape)
        return ClipSpec(order.seed, order.model, order.prompt, *shape)

    async def get(self, order: GenerationRequest) -> Clip:
        """The clip of an order, rendered if it is not there yet.

        Raises:
            RenderStopped: The library is being closed.
        """
        spec = self.spec(order)
        task = self._clips.get(spec.key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._render(spec))
            self._clips[spec.key] = task
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop rendering; a clip that is being drawn is given up at its next frame."""
        self._stop.set()
        await run_in_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        for task in self._clips.values():
            task.cancel()
        await asyncio.gather(*self._clips.values(), return_exceptions=True)

    async def _render(self, spec: ClipSpec) -> Clip:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._render_to_files, spec)

    def _render_to_files(self, spec: ClipSpec) -> Clip:
        video, thumbnail = self._folder / f"{spec.key}.mp4", self._folder / f"{spec.key}.jpg"
        if not (video.exists() and thumbnail.exists()):
            from prefect_video.emulator.rendering.encode import render_clip

            self._folder.mkdir(parents=True, exist_ok=True)
            render_clip(spec, video, thumbnail, should_stop=self._stop.is_set)
        content = video.read_bytes()
        return Clip(video, thumbnail, len(content), f'"{hashlib.sha256(content).hexdigest()}"')
