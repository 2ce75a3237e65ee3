"""Library of rendered clips: each is rendered once, kept as a file, and shared by equal generations."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prefect_video._shield import run_in_thread
from prefect_video.emulator.generation import GenerationRequest
from prefect_video.emulator.rendering.image_folder import ImageFolder
from prefect_video.emulator.rendering.spec import Clip, ClipSpec
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.frame_sizes import ADAPTIVE, frame_size

PLATE_PROMPT = "One clip for every generation of this duration and shape"


class ClipLibrary:
    """Cache of clips by specification, rendered on a few threads.

    Attributes:
        images: The images that requests have brought.
    """

    def __init__(self, settings: EmulatorSettings, folder: Path) -> None:
        self._plate = settings.render == "plate"
        self._folder = folder
        self.images = ImageFolder(folder / "images")
        self._threads = ThreadPoolExecutor(settings.render_workers, thread_name_prefix="emulator-render")
        self._clips: dict[str, asyncio.Task[Clip]] = {}
        self._stop = threading.Event()

    def spec(self, request: GenerationRequest) -> ClipSpec:
        """Return the specification of a request's clip."""
        width, height = self._frame_size(request)
        return ClipSpec(
            seed="plate" if self._plate else request.seed,
            model="plate" if self._plate else request.model,
            prompt=PLATE_PROMPT if self._plate else request.prompt,
            duration=request.duration,
            width=width,
            height=height,
            frames=request.frames,
            fps=request.fps,
            first_frame=next(iter(request.images.get("first_frame", ())), None),
            last_frame=next(iter(request.images.get("last_frame", ())), None),
            references=request.images.get("references", ()),
            audio=request.audio is True,
            watermark=request.watermark is not False,
            remix_of=None if self._plate else request.remix_of,
        )

    def _frame_size(self, request: GenerationRequest) -> tuple[int, int]:
        """Return the size of a request's frames: an adaptive one has the shape of its first frame."""
        frame = next(iter(request.images.get("first_frame", ())), None)
        if request.size is not None or request.aspect_ratio != ADAPTIVE or frame is None:
            return request.frame_size
        ratio = self.images.ratio(frame)
        return request.frame_size if ratio is None else frame_size(ratio, request.resolution)

    async def get(self, request: GenerationRequest) -> Clip:
        """Return the clip of a request, rendering it first if necessary.

        Raises:
            RenderStopped: The library is being closed.
        """
        spec = self.spec(request)
        task = self._clips.get(spec.key)
        # A failed render is tried again with the next request; a running one is shared.
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._render(spec))
            self._clips[spec.key] = task
        # Several generations may wait for one clip; the cancellation of one must not cancel it for the others.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop rendering; a clip in progress is abandoned at its next frame."""
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
            # Imported late: PyAV and Pillow would make the import of the package slow.
            from prefect_video.emulator.rendering.encode import render_clip

            self._folder.mkdir(parents=True, exist_ok=True)
            render_clip(spec, video, thumbnail, images=self.images, should_stop=self._stop.is_set)
        content = video.read_bytes()
        return Clip(video, thumbnail, len(content), f'"{hashlib.sha256(content).hexdigest()}"')
