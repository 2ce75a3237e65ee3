"""How the OpenAI Videos dialect's JSON is read, in the spelling of any server that speaks it.

Unknown fields are ignored and missing ones tolerated: engines leave out and add at will.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from pydantic import AfterValidator, Field, ValidationError

from prefect_video.errors import GenerationEnded, InvalidInput, ProviderError
from prefect_video.generations import Generation, ProviderFault, Status, VideoResult
from prefect_video.providers.http import retry_after_seconds
from prefect_video.providers.http_bodies import LONGEST_LOOK_SECONDS, usable_number
from prefect_video.providers.matching import KEY_FIELD
from prefect_video.providers.openai.refusals import table_of
from prefect_video.providers.pages import ListPage
from prefect_video.providers.responses import (
    Evidence,
    LenientModel,
    ResponseModel,
    decode_body,
    fault_of,
    parse,
    parse_status,
    parse_timestamp,
    read_document,
    read_item,
    share_of,
)

logger = logging.getLogger(__name__)


class _Fault(LenientModel):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


def _usable(generation_id: str) -> str:
    try:
        path_part(generation_id)
    except InvalidInput as error:
        raise ValueError("not an id that can be asked for") from error
    return generation_id


class VideoJob(LenientModel):
    """A job as servers tell it; only id and status are certain."""

    id: Annotated[str, AfterValidator(_usable)]
    status: str
    model: str | None = None
    prompt: str | None = None
    created_at: float | str | None = None
    expires_at: float | str | None = None
    progress: float | None = None
    seconds: str | float | None = None
    duration: float | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    size: str | None = None
    url: str | None = None
    file_path: str | None = None
    error: _Fault | str | None = None

    @property
    def length(self) -> float | None:
        """Seconds; what an engine has measured counts before what was asked for."""
        told = (self.duration_s, self.seconds, self.duration)
        return next((seconds for one in told if (seconds := number_of(one)) is not None), None)

    def parameters(self) -> dict[str, Any]:
        """What was asked for, as far as it is told."""
        asked = {"seconds": self.length, "size": self.size or None, "num_frames": self.num_frames, "fps": self.fps}
        return {name: value for name, value in asked.items() if value is not None}

    def key_in(self, output_folder: str | None) -> str | None:
        """The name of the folder below the output folder in which the file lies; None where it lies elsewhere."""
        folders = PurePosixPath((self.file_path or "").replace("\\", "/")).parts[:-1]
        if output_folder is None or output_folder not in folders[:-1]:
            return None
        return folders[folders.index(output_folder) + 1]

    def result(self, url: str) -> VideoResult:
        size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.size or "")
        return VideoResult(
            video_url=url,
            duration_seconds=self.length,
            width=int(size[1]) if size else None,
            height=int(size[2]) if size else None,
            expires_at=parse_timestamp(self.expires_at),
        )

    @property
    def has_error(self) -> bool:
        """Whether an error is told, whatever the status."""
        return self.error not in (None, "", _Fault())

    def fault(self) -> ProviderFault:
        if isinstance(self.error, _Fault):
            code = "error" if self.error.code is None else str(self.error.code)
            return ProviderFault(code=code, type=self.error.type, message=self.error.message or "no reason given")
        return ProviderFault(code="error", message=self.error or "no reason given")


def path_part(generation_id: str) -> str:
    """An id as a part of a path; proxies put slashes and plus signs into theirs.

    Raises:
        InvalidInput: No server gives such an id.
    """
    if not generation_id.isascii() or not generation_id.isprintable() or set(generation_id) <= {"."}:
        raise InvalidInput(f"generation id {generation_id!r} is not one of this dialect")
    return quote(generation_id, safe="")


def unwrap_id(generation_id: str) -> str:
    """The id that the model's own server gave: LiteLLM wraps it, and for one video differently from call to call."""
    wrapped = generation_id.removeprefix("video_")
    try:
        text = base64.b64decode(wrapped + "=" * (-len(wrapped) % 4), validate=True).decode()
    except ValueError:
        return generation_id
    return text.rpartition(";video_id:")[2] if text.startswith("litellm:") else generation_id


def number_of(value: str | float | None) -> float | None:
    """A number, also where it is told as text; None for anything that is no length, count or share."""
    return usable_number(value)


class _Page(ResponseModel):
    data: list[Any]
    has_more: bool | None = None


class _Event(ResponseModel):
    class About(ResponseModel):
        id: str = Field(min_length=1)

    type: str = Field(min_length=1)
    data: About


class JobErrorResponse(GenerationEnded):
    """An unsuccessful answer whose body is a job that ended without a video: the request itself went well."""

    def __init__(self, generation: Generation) -> None:
        super().__init__(
            f"{generation.provider}: generation {generation.id} is {generation.status.value}",
            provider=generation.provider,
            generation_id=generation.id,
        )
        self.generation = generation


@dataclass(frozen=True)
class Reader:
    """Reads the answers of one server.

    Attributes:
        provider: Its name.
        videos_url: Address of its videos, to which `/{id}/content` is appended.
        links: Whether a finished job may name a link of its own.
        output_folder: The folder whose subfolders are named by our keys, where jobs say where their file is.
    """

    provider: str
    videos_url: str
    links: bool = False
    output_folder: str | None = None

    def content_url(self, generation_id: str) -> str:
        """Where the API serves a video to whoever has the key."""
        return f"{self.videos_url}/{path_part(generation_id)}/content"

    def generation(self, response: httpx.Response, *, called: str | None = None) -> Generation:
        """The job in a successful answer.

        Args:
            response: The answer.
            called: The id by which it was asked for; a proxy may answer with another spelling.

        Raises:
            InvalidResponse: It is not one of the dialect.
        """
        job = parse(VideoJob, response, provider=self.provider)
        return self._told(job, called=called, retry_after=_poll_after(response))

    def page(self, response: httpx.Response) -> ListPage:
        """Read the jobs of one page of a list, each by itself: an odd one hides no others.

        Raises:
            InvalidResponse: It is no page of the dialect.
        """
        page = parse(_Page, response, provider=self.provider)
        items = tuple(read_item(item, VideoJob, self._told) for item in page.data)
        return ListPage(items, has_more=page.has_more, cursors=tuple(item.id for item in items))

    def error(self, response: httpx.Response) -> ProviderError:
        """What an unsuccessful answer means: a job that failed, or a refusal by the table."""
        body = decode_body(response)
        job = self._job(body)
        if job is not None and job.status.ended and job.status is not Status.COMPLETED:
            return JobErrorResponse(job)
        return table_of(self.provider).read_error(response, provider=self.provider)

    def _job(self, body: Any) -> Generation | None:
        if not isinstance(body, Mapping) or body.get("object") != "video":
            return None
        try:
            return self._told(read_document(VideoJob, body))
        except ValidationError:
            logger.warning("%s: an unsuccessful answer holds a job that cannot be read", self.provider)
            return None

    def _told(self, job: VideoJob, *, called: str | None = None, retry_after: float | None = None) -> Generation:
        name = called or job.id
        named = job.url if (job.url or "").startswith(("https://", "http://")) else None
        own_link = named if self.links else None
        evidence = Evidence(named is not None, share_of(job.progress), job.has_error)
        status = parse_status(job.status, provider=self.provider, generation_id=name, evidence=evidence)
        return Generation(
            id=name,
            provider=self.provider,
            status=status,
            model=job.model,
            created_at=parse_timestamp(job.created_at),
            progress=share_of(job.progress),
            prompt=job.prompt,
            parameters=job.parameters(),
            metadata={KEY_FIELD: key} if (key := job.key_in(self.output_folder)) else {},
            result=job.result(own_link or self.content_url(name)) if status is Status.COMPLETED else None,
            fault=fault_of(job.status, job.fault()) if status is Status.FAILED else None,
            retry_after=retry_after,
        )


def read_event(body: bytes) -> tuple[str, str]:
    """Type and video of a webhook's body.

    Raises:
        InvalidInput: It is not an event of the dialect.
    """
    try:
        event = _Event.model_validate(json.loads(body))
    except ValueError as error:
        raise InvalidInput("webhook: the body is not an event about a video") from error
    return event.type, event.data.id


def _poll_after(response: httpx.Response) -> float | None:
    milliseconds = number_of(response.headers.get("openai-poll-after-ms"))
    asked = [retry_after_seconds(response.headers), milliseconds / 1000 if milliseconds is not None else None]
    longest = max((delay for delay in asked if delay is not None), default=None)
    return None if longest is None else min(longest, LONGEST_LOOK_SECONDS)
