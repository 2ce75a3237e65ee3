"""How the OpenAI Videos dialect's JSON is read, in the spelling of any server that speaks it.

Unknown fields are ignored and missing ones tolerated: engines leave out and add at will.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from pydantic import Field, ValidationError

from prefect_video.errors import GenerationEnded, InvalidInput, PolicyRefused, ProviderError, QuotaExhausted
from prefect_video.generations import Generation, Status
from prefect_video.http import retry_after_seconds
from prefect_video.providers.answers import Wire, json_of, kind_of, moment, read, read_item, refusal
from prefect_video.providers.matching import KEY_FIELD
from prefect_video.providers.openai_jobs import Job, number_of, path_part
from prefect_video.providers.pages import ListPage
from prefect_video.providers.statuses import status_of

logger = logging.getLogger(__name__)

_CODES: Final[Mapping[str, type[ProviderError]]] = {
    "content_policy_violation": PolicyRefused,
    "moderation_blocked": PolicyRefused,
    "policy_violation": PolicyRefused,
    "insufficient_quota": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "budget_exceeded": QuotaExhausted,
}
"""What an error's code means; by the HTTP status where it is none of these."""


class _Page(Wire):
    data: list[Any]
    has_more: bool | None = None


class _Event(Wire):
    class About(Wire):
        id: str = Field(min_length=1)

    type: str = Field(min_length=1)
    data: About


class JobInError(GenerationEnded):
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
            UnreadableAnswer: It is not one of the dialect.
        """
        job = read(Job, response, provider=self.provider)
        return self._told(job, called=called, retry_after=_poll_after(response))

    def page(self, response: httpx.Response) -> ListPage:
        """Read the jobs of one page of a list, each by itself: an odd one hides no others.

        Raises:
            UnreadableAnswer: It is no page of the dialect.
        """
        page = read(_Page, response, provider=self.provider)
        items = tuple(read_item(item, Job, self._told) for item in page.data)
        return ListPage(items, has_more=page.has_more, cursors=tuple(item.id for item in items))

    def error(self, response: httpx.Response) -> ProviderError:
        """What an unsuccessful answer means: a job that failed, or a refusal by the table."""
        body = json_of(response)
        job = self._job(body)
        if job is not None and job.status.ended and job.status is not Status.COMPLETED:
            return JobInError(job)
        code, message = _reason(body)
        kind = _CODES.get(code) or kind_of(response.status_code)
        return refusal(kind, message or f"HTTP {response.status_code}", response, provider=self.provider)

    def _job(self, body: Any) -> Generation | None:
        if not isinstance(body, Mapping) or body.get("object") != "video":
            return None
        try:
            return self._told(Job.model_validate(body))
        except ValidationError:
            logger.warning("%s: an unsuccessful answer holds a job that cannot be read", self.provider)
            return None

    def _told(self, job: Job, *, called: str | None = None, retry_after: float | None = None) -> Generation:
        name = called or job.id
        status = status_of(job.status, provider=self.provider, generation_id=name)
        own_link = job.url if self.links and (job.url or "").startswith(("https://", "http://")) else None
        return Generation(
            id=name,
            provider=self.provider,
            status=status,
            model=job.model,
            created_at=moment(job.created_at),
            progress=min(percent / 100, 1.0) if (percent := number_of(job.progress)) is not None else None,
            prompt=job.prompt,
            parameters=job.parameters(),
            metadata={KEY_FIELD: key} if (key := job.key_in(self.output_folder)) else {},
            result=job.result(own_link or self.content_url(name)) if status is Status.COMPLETED else None,
            fault=job.fault() if status is Status.FAILED else None,
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


def _reason(body: Any) -> tuple[str, str]:
    """Code and message of an error, in any of the shapes that servers use."""
    if not isinstance(body, Mapping):
        return "", ""
    error = body.get("error", body)
    if not isinstance(error, Mapping):
        return "", str(error)
    message = error.get("message") or error.get("detail") or ""
    if isinstance(message, list):
        message = "; ".join(_complaint(item) for item in message)
    return str(error.get("code") or ""), str(message)


def _complaint(item: Any) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    return f"{'.'.join(map(str, item.get('loc', ())))}: {item.get('msg', '')}"


def _poll_after(response: httpx.Response) -> float | None:
    milliseconds = number_of(response.headers.get("openai-poll-after-ms"))
    asked = [retry_after_seconds(response.headers), milliseconds / 1000 if milliseconds is not None else None]
    return max((delay for delay in asked if delay is not None), default=None)
