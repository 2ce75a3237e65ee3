"""The download host: serves clips under signed links to whoever holds one, and wants to see no key."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from prefect_video.emulator.engine import Engine
from prefect_video.emulator.faults import FaultRule
from prefect_video.emulator.gate import pass_gate
from prefect_video.emulator.generation import Generation
from prefect_video.emulator.links import LinkSigner
from prefect_video.emulator.refusal import Refusal
from prefect_video.emulator.routes import route

CHUNK = 256 * 1024
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Span(NamedTuple):
    """Bytes ``start`` up to but not including ``stop``."""

    start: int
    stop: int


def parse_range(header: str | None, size: int) -> Span | None:
    """What a ``Range`` header asks of a file of ``size`` bytes.

    Several ranges at once, other units and nonsense are ignored, as the standard allows: None, the whole file.

    Raises:
        ValueError: The range lies outside the file.
    """
    matched = _RANGE.fullmatch(header.strip()) if header else None
    if matched is None or matched.group(0) == "bytes=-":
        return None
    first, last = matched.groups()
    if not first:
        span = Span(max(0, size - int(last)), size)
    else:
        if last and int(last) < int(first):
            return None
        span = Span(int(first), min(size, int(last) + 1) if last else size)
    if span.start >= size or span.start >= span.stop:
        raise ValueError(f"range {header} lies outside a file of {size} bytes")
    return span


class FileResponse(Response):
    """A part of a file, read in chunks off the event loop; no body for HEAD."""

    def __init__(self, path: Path, span: Span, *, status: int, headers: dict[str, str], media_type: str) -> None:
        super().__init__(status_code=status, media_type=media_type)
        self.headers.update({**headers, "content-length": str(span.stop - span.start)})
        self._path = path
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers and body."""
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        position = self._span.start if scope["method"] != "HEAD" else self._span.stop
        while position < self._span.stop:
            length = min(CHUNK, self._span.stop - position)
            body = await asyncio.to_thread(_read, self._path, position, length)
            position += length
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class CountedResponse(Response):
    """Another response, with the bytes of its body counted as they go out."""

    def __init__(self, inner: Response, count: Callable[[int], None]) -> None:
        super().__init__()
        self._inner = inner
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the inner response."""

        async def send_counted(message: Message) -> None:
            if body := message.get("body", b""):
                self._count(len(body))
            await send(message)

        await self._inner(scope, receive, send_counted)


class DownloadHost:
    """Routes of the download host."""

    def __init__(self, engine: Engine, signer: LinkSigner) -> None:
        self._engine = engine
        self._signer = signer

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                route("/videos/{name}.mp4", GET=self.video),
                route("/thumbnails/{name}.jpg", GET=self.thumbnail),
            ],
            exception_handlers={Refusal: _plain_refusal, HTTPException: _plain_error},
        )

    async def video(self, request: Request) -> Response:
        """The MP4 of a completed generation."""
        self._engine.books.count_request("content")
        self._refuse_keys(request)
        generation = self._generation(request)

        async def answer(rule: FaultRule | None) -> Response:
            self._check_link(request, expired=rule is not None and rule.kind == "expired_link")
            clip = await self._engine.clip(generation)
            cut = rule.fraction if rule is not None and rule.kind == "short_file" else 1.0
            response = serve_file(request.headers, clip.video, int(clip.size * cut), clip.etag, "video/mp4")
            if request.method == "GET" and response.status_code < 300:
                self._engine.books.count("downloaded", prompt=generation.order.prompt)
            return response

        response = await pass_gate(
            self._engine, "content", answer, prompt=generation.order.prompt, generation_id=generation.id
        )
        return CountedResponse(response, self._count_bytes)

    async def thumbnail(self, request: Request) -> Response:
        """The JPEG of a completed generation; faults leave it alone."""
        self._engine.books.count_request("thumbnail")
        self._refuse_keys(request)
        generation = self._generation(request)
        self._check_link(request)
        clip = await self._engine.clip(generation)
        size = (await asyncio.to_thread(clip.thumbnail.stat)).st_size
        return serve_file(request.headers, clip.thumbnail, size, f'{clip.etag[:-1]}-thumbnail"', "image/jpeg")

    def _count_bytes(self, number: int) -> None:
        self._engine.books.count("download_bytes", amount=number)

    def _refuse_keys(self, request: Request) -> None:
        sent = "\n".join([str(request.url), *request.headers.values()])
        if "authorization" in request.headers or self._engine.accounts.appears_in(sent):
            self._engine.books.count("leaked_keys")
            raise Refusal("invalid", "A download link needs no credentials; the request carries some")

    def _generation(self, request: Request) -> Generation:
        generation = self._engine.find(request.path_params["name"])
        if generation is None or generation.status != "completed":
            raise Refusal("not_found", "No such file")
        return generation

    def _check_link(self, request: Request, *, expired: bool = False) -> None:
        query = request.query_params
        expires = self._signer.verify(request.url.path, query.get("expires", ""), query.get("sig", ""))
        if expires is None:
            raise Refusal("invalid", "The link's signature does not match", status=403)
        if expired or time.time() >= expires:
            raise Refusal("invalid", "The link has expired; retrieve the generation for a fresh one", status=403)


def serve_file(headers: Headers, path: Path, size: int, etag: str, media_type: str) -> Response:
    """The file or the range asked for."""
    common = {"accept-ranges": "bytes", "etag": etag}
    wanted = headers.get("range")
    if headers.get("if-range") not in (None, etag):
        wanted = None
    try:
        span = parse_range(wanted, size)
    except ValueError as error:
        return PlainTextResponse(f"{error}\n", 416, {**common, "content-range": f"bytes */{size}"})
    if span is None:
        return FileResponse(path, Span(0, size), status=200, headers=common, media_type=media_type)
    content_range = {"content-range": f"bytes {span.start}-{span.stop - 1}/{size}"}
    return FileResponse(path, span, status=206, headers={**common, **content_range}, media_type=media_type)


def _read(path: Path, position: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(position)
        return file.read(length)


def _plain_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:g}"}
    return PlainTextResponse(f"{error.message}\n", error.status, headers)


def _plain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code)
