"""Responses of the OpenAI Videos dialect, in the spelling of any server that speaks it: jobs, pages, events and errors.

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
from typing import Any

import httpx
from pydantic import Field, ValidationError

from prefect_video.errors import GenerationEnded, InvalidInput, ProviderError
from prefect_video.generations import Generation, ProviderFault, Status, VideoResult
from prefect_video.providers.http import is_stale, retry_after_seconds
from prefect_video.providers.http_bodies import MAX_POLL_DELAY_SECONDS, usable_number
from prefect_video.providers.matching import KEY_FIELD
from prefect_video.providers.openai.refusals import find_refusal_table
from prefect_video.providers.pages import ListPage
from prefect_video.providers.responses import (
    GenerationId,
    LenientModel,
    ResponseModel,
    compute_seconds_taken,
    decode_body,
    parse,
    parse_document,
    parse_page,
    parse_progress,
    parse_timestamp,
    path_part,
    read_item,
)
from prefect_video.providers.statuses import Evidence, build_fault, parse_status, reports_error

logger = logging.getLogger(__name__)


class _Fault(LenientModel):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


class VideoJob(LenientModel):
    """Job as servers report it; only id and status are certain."""

    id: GenerationId
    status: str
    model: str | None = None
    prompt: str | None = None
    created_at: float | str | None = None
    completed_at: float | str | None = None
    expires_at: float | str | None = None
    inference_time_s: float | None = None
    progress: float | None = None
    seconds: str | float | None = None
    duration: float | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    fps: float | None = None
    size: str | None = None
    url: str | None = None
    file_path: str | None = None
    remixed_from_video_id: str | None = None
    error: _Fault | str | None = None

    @property
    def length(self) -> float | None:
        """Length in seconds; the length that an engine measured counts before the requested one."""
        reported = (self.duration_s, self.seconds, self.duration)
        return next((seconds for value in reported if (seconds := usable_number(value)) is not None), None)

    def parameters(self) -> dict[str, Any]:
        """Return the echoed parameters of the request."""
        echoed = {"seconds": self.length, "size": self.size or None, "num_frames": self.num_frames, "fps": self.fps}
        return {name: value for name, value in echoed.items() if value is not None}

    def find_key(self, output_folder: str | None) -> str | None:
        """Return the name of the file's folder below the output folder; None where the file is elsewhere."""
        folders = PurePosixPath((self.file_path or "").replace("\\", "/")).parts[:-1]
        if output_folder is None or output_folder not in folders[:-1]:
            return None
        return folders[folders.index(output_folder) + 1]

    def result(self, url: str) -> VideoResult:
        """Build the result of a completed job.

        Args:
            url: Address of the video.
        """
        size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.size or "")
        return VideoResult(
            video_url=url,
            duration_seconds=self.length,
            width=int(size[1]) if size else None,
            height=int(size[2]) if size else None,
            expires_at=parse_timestamp(self.expires_at),
        )

    @property
    def seconds_taken(self) -> float | None:
        """Seconds from its acceptance to its end, as far as the server reports its times."""
        created, completed = parse_timestamp(self.created_at), parse_timestamp(self.completed_at)
        return compute_seconds_taken(created, completed, self.inference_time_s)

    @property
    def has_error(self) -> bool:
        """True where an error is reported, whatever the status."""
        return reports_error(self.error)

    def fault(self) -> ProviderFault:
        """Build the fault of a failed job."""
        if isinstance(self.error, _Fault):
            code = "error" if self.error.code is None else str(self.error.code)
            return ProviderFault(code=code, type=self.error.type, message=self.error.message or "no reason given")
        return ProviderFault(code="error", message=self.error or "no reason given")


def unwrap_id(generation_id: str) -> str:
    """Return the id by the model's own server: LiteLLM wraps it, for the same video differently from call to call."""
    wrapped = generation_id.removeprefix("video_")
    try:
        text = base64.b64decode(wrapped + "=" * (-len(wrapped) % 4), validate=True).decode()
    except ValueError:
        return generation_id
    return text.rpartition(";video_id:")[2] if text.startswith("litellm:") else generation_id


def wrap_id(generation_id: str, model: str) -> str:
    """Return an id as LiteLLM wraps it, which then asks the server that it has for the model."""
    text = f"litellm:custom_llm_provider:;model_id:{model};video_id:{generation_id}"
    return "video_" + base64.b64encode(text.encode()).decode()


class _Models(ResponseModel):
    data: list[Any]


class _Page(ResponseModel):
    data: list[Any]
    has_more: bool | None = None


class _Event(ResponseModel):
    class About(ResponseModel):
        id: str = Field(min_length=1)

    type: str = Field(min_length=1)
    data: About


class JobErrorResponse(GenerationEnded):
    """An unsuccessful response whose body is a job that ended without a video. Read `generation`; the request was fine.

    Attributes:
        generation: The job.
    """

    def __init__(self, generation: Generation) -> None:
        super().__init__(
            f"{generation.provider}: generation {generation.id} is {generation.status.value}",
            provider=generation.provider,
            generation_id=generation.id,
        )
        self.generation = generation


@dataclass(frozen=True)
class ResponseReader:
    """Reader of one server's responses.

    Attributes:
        provider: Name of the provider.
        videos_url: Address of its videos, to which `/{id}/content` is appended.
        links: Whether a completed job may have a link of its own.
        output_folder: Folder whose subfolders are named by our idempotency keys, where jobs report their file.
    """

    provider: str
    videos_url: str
    links: bool = False
    output_folder: str | None = None

    def content_url(self, generation_id: str) -> str:
        """Return the address at which the API serves a video to holders of the key."""
        return f"{self.videos_url}/{path_part(generation_id)}/content"

    def generation(self, response: httpx.Response, *, requested_id: str | None = None) -> Generation:
        """Read the job in a successful response.

        Args:
            response: The response.
            requested_id: Id of the job in the request; a proxy may respond with another spelling.

        Raises:
            InvalidResponse: It breaks the contract of the dialect.
        """
        job = parse(VideoJob, response, provider=self.provider)
        return self._build_generation(job, requested_id=requested_id, retry_after=_poll_delay_seconds(response))

    def page(self, response: httpx.Response) -> ListPage:
        """Read the jobs of one page of a list, each by itself: a job that breaks the contract hides no others.

        Raises:
            InvalidResponse: It is no page of the dialect.
        """
        page = parse_page(_Page, response, provider=self.provider)
        items = tuple(read_item(item, VideoJob, self._build_generation) for item in page.data)
        cursors = tuple(item.id for item in items)
        return ListPage(items, has_more=page.has_more, cursors=cursors, is_stale=is_stale(response))

    def models(self, response: httpx.Response) -> None:
        """Check that a response is a list of models.

        Raises:
            InvalidResponse: It breaks the contract of the dialect.
        """
        parse(_Models, response, provider=self.provider)

    def error(self, response: httpx.Response) -> ProviderError:
        """Build the error of an unsuccessful response: a job that ended without a video, or an error by the table."""
        body = decode_body(response)
        job = self._read_job(body)
        if job is not None and job.status.ended and job.status is not Status.COMPLETED:
            return JobErrorResponse(job)
        return find_refusal_table(self.provider).read_error(response, provider=self.provider)

    def _read_job(self, body: Any) -> Generation | None:
        if not isinstance(body, Mapping) or body.get("object") != "video":
            return None
        try:
            return self._build_generation(parse_document(VideoJob, body))
        except ValidationError:
            logger.warning("%s: an unsuccessful response has a job that cannot be read", self.provider)
            return None

    def _build_generation(
        self, job: VideoJob, *, requested_id: str | None = None, retry_after: float | None = None
    ) -> Generation:
        generation_id = requested_id or job.id
        link = job.url if (job.url or "").startswith(("https://", "http://")) else None
        own_link = link if self.links else None
        evidence = Evidence(link is not None, parse_progress(job.progress), job.has_error)
        status = parse_status(job.status, provider=self.provider, generation_id=generation_id, evidence=evidence)
        return Generation(
            id=generation_id,
            provider=self.provider,
            status=status,
            model=job.model,
            created_at=parse_timestamp(job.created_at),
            progress=parse_progress(job.progress),
            prompt=job.prompt,
            parameters=job.parameters(),
            metadata={KEY_FIELD: key} if (key := job.find_key(self.output_folder)) else {},
            result=job.result(own_link or self.content_url(generation_id)) if status is Status.COMPLETED else None,
            fault=build_fault(job.status, job.fault()) if status is Status.FAILED else None,
            retry_after=retry_after,
            seconds_taken=job.seconds_taken if status is Status.COMPLETED else None,
            remixed_from=job.remixed_from_video_id or None,
        )


def read_event(body: bytes) -> tuple[str, str]:
    """Read the event type and the generation's id in the body of a webhook.

    Raises:
        InvalidInput: It is not an event of the dialect.
    """
    try:
        event = _Event.model_validate(json.loads(body))
    except ValueError as error:
        raise InvalidInput("webhook: the body is not an event about a video") from error
    return event.type, event.data.id


def _poll_delay_seconds(response: httpx.Response) -> float | None:
    """Return the delay that a response requests before the next poll, in seconds; None when it requests none."""
    milliseconds = usable_number(response.headers.get("openai-poll-after-ms"))
    requested = [retry_after_seconds(response.headers), milliseconds / 1000 if milliseconds is not None else None]
    longest = max((delay for delay in requested if delay is not None), default=None)
    return None if longest is None else min(longest, MAX_POLL_DELAY_SECONDS)
