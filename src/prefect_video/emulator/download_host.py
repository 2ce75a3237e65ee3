"""Download host: serves clips under signed links, and rejects requests that carry an API key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from prefect_video.emulator.engine import Engine
from prefect_video.emulator.errors import ApiError
from prefect_video.emulator.faults import FaultRule
from prefect_video.emulator.faults.altered_files import write_altered
from prefect_video.emulator.faults.injection import with_faults
from prefect_video.emulator.faults.rules import Alteration
from prefect_video.emulator.generation import EmulatedGeneration
from prefect_video.emulator.rendering import Clip
from prefect_video.emulator.routes import route
from prefect_video.emulator.signed_urls import LinkSigner


class ClipResponse(FileResponse):
    """File of a finished generation, or one range of it; a request for several ranges gets the whole file."""

    max_ranges = 1

    def __init__(self, path: Path, generation: EmulatedGeneration, *, etag: str, media_type: str) -> None:
        # The file may be older (shared with an earlier generation) or newer (rendered again after a restart) than the
        # generation, so its own modification time would be wrong.
        headers = {"etag": etag, "last-modified": formatdate(generation.finished, usegmt=True)}
        super().__init__(path, headers=headers, media_type=media_type)


class CountedResponse(Response):
    """Wrapper of a response that counts the bytes of its body as they are sent."""

    def __init__(self, inner: Response, count: Callable[[int], None]) -> None:
        super().__init__()
        self._inner = inner
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the wrapped response."""

        async def send_counted(message: Message) -> None:
            if body := message.get("body", b""):
                self._count(len(body))
            await send(message)

        await self._inner(scope, receive, send_counted)


class VideoResponse(Response):
    """Wrapper of a video response that counts the download just before its first byte is sent."""

    def __init__(self, inner: Response, engine: Engine, generation: EmulatedGeneration) -> None:
        super().__init__()
        self._inner = inner
        self._engine = engine
        self._prompt = generation.request.prompt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the wrapped response."""

        async def send_counted(message: Message) -> None:
            # Only the start message carries a status. Counted and durable before it leaves: a client that is killed
            # with the video half received has downloaded it, as far as the provider can know.
            if scope["method"] == "GET" and message.get("status", 400) < 300:
                self._engine.usage.count("downloaded", prompt=self._prompt)
                await self._engine.commit()
            await send(message)

        await self._inner(scope, receive, send_counted)


class DownloadHost:
    """ASGI application that serves videos and thumbnails."""

    def __init__(self, engine: Engine, signer: LinkSigner) -> None:
        self._engine = engine
        self._signer = signer

    def app(self) -> Starlette:
        """Build the ASGI application."""
        return Starlette(
            routes=[
                route("/videos/{name:path}.mp4", GET=self.video),
                route("/thumbnails/{name:path}.jpg", GET=self.thumbnail),
            ],
            exception_handlers={ApiError: _render_api_error, HTTPException: _render_http_error},
        )

    async def video(self, request: Request) -> Response:
        """Answer with the MP4 of a completed generation."""
        self._engine.usage.count_request("content")
        self._reject_keys(request)
        generation = self._get_completed(request)

        async def answer(rule: FaultRule | None) -> Response:
            self._check_link(request, expired=rule is not None and rule.kind == "expired_link")
            return await serve_video(self._engine, generation, rule)

        response = await with_faults(
            self._engine, "content", answer, prompt=generation.request.prompt, generation_id=generation.id
        )
        return CountedResponse(response, self._count_bytes)

    async def thumbnail(self, request: Request) -> Response:
        """Answer with the JPEG of a completed generation; no fault applies to it."""
        self._engine.usage.count_request("thumbnail")
        self._reject_keys(request)
        generation = self._get_completed(request)
        self._check_link(request)
        clip = await self._engine.clip(generation)
        etag = f'{clip.etag[:-1]}-thumbnail"'
        return ClipResponse(clip.thumbnail, generation, etag=etag, media_type="image/jpeg")

    def _count_bytes(self, number: int) -> None:
        self._engine.usage.count("download_bytes", amount=number)

    def _reject_keys(self, request: Request) -> None:
        """Reject a request that carries credentials, in any header or in its URL, and count the leak."""
        received = "\n".join([str(request.url), *request.headers.values()])
        if "authorization" in request.headers or self._engine.api_keys.appears_in(received):
            self._engine.usage.count("leaked_keys")
            raise ApiError("invalid", "A download link needs no credentials; the request carries some")

    def _get_completed(self, request: Request) -> EmulatedGeneration:
        generation = self._engine.find(request.path_params["name"])
        if generation is None or generation.status != "completed":
            raise ApiError("not_found", "No such file")
        return generation

    def _check_link(self, request: Request, *, expired: bool = False) -> None:
        query = request.query_params
        # As it was sent: a decoded path may hold signs that were quoted when it was signed.
        path = bytes(request.scope["raw_path"]).decode("ascii", "replace")
        expires = self._signer.verify(path, query.get("expires", ""), query.get("sig", ""))
        if expires is None:
            raise ApiError("invalid", "The link's signature does not match", status=403)
        if expired or time.time() >= expires:
            raise ApiError("invalid", "The link has expired; retrieve the generation for a fresh one", status=403)


async def serve_video(engine: Engine, generation: EmulatedGeneration, rule: FaultRule | None) -> Response:
    """Answer with the video of a generation, or with another file under a fault."""
    clip = await engine.clip(generation)
    path, etag = clip.video, clip.etag
    if rule is not None and rule.kind == "short_file":
        path = await asyncio.to_thread(_write_first_part, clip, rule.fraction)
    elif rule is not None and rule.kind == "altered_file":
        path = await _alter(engine, generation, rule.alteration)
        etag = f'"{rule.alteration}-{clip.etag.strip(chr(34))}"'
    response = ClipResponse(path, generation, etag=etag, media_type="video/mp4")
    if rule is not None and rule.kind == "lying_headers":
        response.headers["content-type"] = rule.content_type
        if rule.content_encoding is not None:
            response.headers["content-encoding"] = rule.content_encoding
    return VideoResponse(response, engine, generation)


async def _alter(engine: Engine, generation: EmulatedGeneration, alteration: Alteration) -> Path:
    """Return the file of a generation that is not as requested."""
    request = generation.request
    width, height = request.frame_size
    match alteration:
        case "longer":
            changes: dict[str, object] = {"duration": request.duration * 2, "frames": None}
        case "shorter":
            changes = {"frames": max(1, (request.frames or request.duration * request.fps) // 2)}
        case "resized":
            changes = {"size": (width // 4 * 2, height // 4 * 2)}
        case _:
            clip = await engine.clip(generation)
            return await asyncio.to_thread(write_altered, clip.video, alteration)
    return (await engine.render(request.model_copy(update=changes))).video


def _write_first_part(clip: Clip, fraction: float) -> Path:
    size = int(clip.size * fraction)
    path = clip.video.with_name(f"{clip.video.stem}.first-{size}.mp4")
    # Published by a rename: two downloads may write the same part at the same time.
    part = path.with_suffix(f".{time.monotonic_ns()}")
    part.write_bytes(clip.video.read_bytes()[:size])
    return part.replace(path)


def _render_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:g}"}
    return PlainTextResponse(f"{error.message}\n", error.status, headers)


def _render_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code)
