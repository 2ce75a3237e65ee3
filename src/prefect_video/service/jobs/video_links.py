"""Links to videos: signed, so that a player needs no token, and served with ranges, so that it can seek."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from prefect_video.ledger import Job, State
from prefect_video.service.api_tokens import ApiToken, ApiTokens
from prefect_video.service.sessions import Sessions
from prefect_video.storage import Store, open_store_for

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class VideoLinks:
    """Links of one service.

    Attributes:
        tokens: Their keys sign the links, so that a removed token takes its links with it.
        public_url: The service's address for clients; None for that of each request.
        lifetime_seconds: Time for which a link is valid.
    """

    tokens: ApiTokens
    public_url: str | None
    lifetime_seconds: float

    def build(self, request: Request | None, job: Job, token: ApiToken) -> str | None:
        """Build the link to a job's video; None where it is not stored, or no address of the service is known."""
        address = self.public_url or (str(request.base_url) if request is not None else None)
        if job.state is not State.STORED or job.asset is None or address is None or "read" not in token.scopes:
            return None
        # In steps, so that a page that is loaded again finds the video in its cache.
        step = max(1, int(self.lifetime_seconds) // 2)
        expires = (int(time.time()) // step + 1) * step + step
        query = {"token": token.name, "expires": expires, "signature": _sign(token, job.id, expires)}
        return f"{address.rstrip('/')}/v1/jobs/{job.id}/video?{urlencode(query)}"

    def is_valid(self, job_id: str, name: str, expires: int, signature: str) -> bool:
        """Check the signature of a link, and that it has not expired."""
        token = self.tokens.find(name)
        if token is None or "read" not in token.scopes or expires < time.time():
            return False
        return hmac.compare_digest(_sign(token, job_id, expires).encode(), signature.encode("utf-8", "replace"))


async def serve_video(request: Request, sessions: Sessions, job: Job) -> Response:
    """Answer with a stored video, or the part of it that was requested.

    Raises:
        HTTPException: The video is not stored (404), or the range lies outside of it (416).
        StoreError: The store cannot be read.
    """
    if job.state is not State.STORED or job.asset is None:
        raise HTTPException(404, f"job {job.id} has no stored video: it is {job.state.value}")
    uri = job.asset.uri
    own = next((session.store for session in sessions.sessions if session.store.reaches(uri)), None)
    store = own or open_store_for(uri)
    size = await store.size(uri)
    if size is None:
        raise HTTPException(404, f"job {job.id}: its video is missing from the store; `prefect-video verify` mends it")
    start, stop = _parse_range(request.headers.get("range"), size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(stop - start),
        "Content-Disposition": f'inline; filename="{job.project}-{job.shot.id}.mp4"',
        "Cache-Control": "private, max-age=3600",
        "ETag": f'"{job.asset.sha256}"',
        "X-Content-Type-Options": "nosniff",
    }
    status = 200
    if request.headers.get("range") is not None and (start, stop) != (0, size):
        status = 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="video/mp4")
    chunks = _read(store, uri, start, stop, close=own is None)
    return StreamingResponse(chunks, status, headers, media_type="video/mp4")


async def _read(store: Store, uri: str, start: int, stop: int, *, close: bool) -> AsyncIterator[bytes]:
    try:
        async for chunk in store.read_chunks(uri, start, stop):
            yield chunk
    finally:
        if close:
            await store.aclose()


def _parse_range(text: str | None, size: int) -> tuple[int, int]:
    """Return the first byte and the one after the last; several ranges, or none that is understood, mean all."""
    found = _RANGE.fullmatch(text.replace(" ", "")) if text else None
    if found is None or found[0] == "bytes=-":
        return 0, size
    if not found[1]:
        start, stop = max(0, size - int(found[2])), size
    else:
        start, stop = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
    if start >= stop:
        raise HTTPException(416, f"the video has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return start, stop


def _sign(token: ApiToken, job_id: str, expires: int) -> str:
    return hmac.new(token.link_key, f"{job_id}\n{expires}".encode(), hashlib.sha256).hexdigest()
