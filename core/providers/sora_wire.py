"""How the Sora dialect's JSON is read: generations, pages, events and errors.

Unknown fields are ignored and missing optional ones tolerated: a provider may add to its answers at any time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
from pydantic import Field, ValidationError

from prefect_video.errors import (
    AuthenticationFailed,
    GenerationFailed,
    NotFound,
    PolicyRefused,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UnreadableAnswer,
)
from prefect_video.generations import Cost, Generation, ProviderFault, VideoResult, WebhookEvent
from prefect_video.http import retry_after_seconds
from prefect_video.providers.answers import Loose, Wire, read_item
from prefect_video.providers.matching import Match, match_prompt, match_values
from prefect_video.providers.pages import ListPage
from prefect_video.providers.statuses import status_of
from prefect_video.shots import Shot


class _Result(Loose):
    video_url: str
    thumbnail_url: str | None = None
    duration: float | None = None
    resolution: str | None = None
    file_size: int | None = None
    expires_at: float | None = None


class _Usage(Loose):
    seconds_generated: float | None = None
    cost_usd: Cost = None


class _Fault(Loose):
    type: str | None = None
    code: str | None = None
    message: str | None = None


class _Generation(Loose):
    id: str = Field(min_length=1)
    status: str
    created: float | None = None
    model: str | None = None
    prompt: str | None = None
    estimated_completion_time: float | None = None
    parameters: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    result: _Result | None = None
    usage: _Usage | None = None
    error: _Fault | str | None = None

    def told(self, provider: str, retry_after: float | None = None) -> Generation:
        return Generation(
            id=self.id,
            provider=provider,
            status=status_of(self.status, provider=provider, generation_id=self.id),
            model=self.model,
            created_at=_moment(self.created),
            estimated_completion_at=_moment(self.estimated_completion_time),
            prompt=self.prompt,
            parameters=self.parameters or {},
            metadata={name: str(value) for name, value in (self.metadata or {}).items()},
            result=_result(self.result),
            cost_usd=self.usage.cost_usd if self.usage else None,
            fault=_fault(self.error),
            retry_after=retry_after,
        )


class _Page(Wire):
    data: list[Any]
    has_more: bool | None = None
    total_count: int | None = None


def read_generation(response: httpx.Response, *, provider: str) -> Generation:
    """The generation in a successful answer.

    Raises:
        UnreadableAnswer: It is not one of the contract.
    """
    try:
        wire = _Generation.model_validate_json(response.content)
    except ValidationError as error:
        raise _unreadable(response, provider, error) from error
    return wire.told(provider, retry_after_seconds(response.headers))


def read_page(response: httpx.Response, *, provider: str, offset: int = 0, limit: int | None = None) -> ListPage:
    """Read one page of a list, item by item: one that does not keep to the contract hides no others.

    Raises:
        UnreadableAnswer: It is no page of the contract.
    """
    try:
        page = _Page.model_validate_json(response.content)
    except ValidationError as error:
        raise _unreadable(response, provider, error) from error
    items = tuple(read_item(item, _Generation, lambda wire: wire.told(provider)) for item in page.data)
    return ListPage(
        items,
        has_more=page.has_more,
        cursors=tuple(range(offset + 1, offset + len(items) + 1)),
        total=page.total_count,
        limit=limit,
        positional=True,
    )


def read_event(body: Any) -> WebhookEvent:
    """The event of a webhook body; raises what reading a wrong mapping or number raises when it is none."""
    return WebhookEvent(
        event_id=str(body["event_id"]),
        event_type=str(body["event_type"]),
        generation_id=str(body["data"]["generation_id"]),
        sent_at=datetime.fromtimestamp(float(body["timestamp"]), UTC),
    )


def read_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """The error that an unsuccessful answer means, by the contract's table."""
    body = _json(response)
    fault = body.get("error") if isinstance(body, Mapping) else None
    error: Mapping[str, Any] = fault if isinstance(fault, Mapping) else {}
    generation_id = error.get("generation_id")
    kind = _kind(response.status_code, error)
    message = str(error.get("message") or fault or f"HTTP {response.status_code}")[:500]
    return kind(
        f"{provider}: {message}",
        provider=provider,
        generation_id=str(generation_id) if generation_id else None,
        request_id=response.headers.get("x-request-id"),
        retry_after=retry_after_seconds(response.headers, body),
    )


def _kind(status: int, error: Mapping[str, Any]) -> type[ProviderError]:
    code = str(error.get("code") or "")
    if status == 501:
        return RequestRefused
    if status >= 500 or status == 408:
        if error.get("type") == "generation_error" and error.get("generation_id"):
            return GenerationFailed
        return ProviderUnavailable
    if status == 429:
        about_quota = "quota" in code.lower() or "quota" in str(error.get("message") or "").lower()
        return QuotaExhausted if about_quota else RateLimited
    if status in (401, 403):
        return AuthenticationFailed
    if status in (404, 410):
        return NotFound
    if code == "content_policy_violation":
        return PolicyRefused
    return RequestRefused


def compare(generation: Generation, shot: Shot) -> Match:
    """Compare a generation that does not echo our key with a shot, by its words and parameters."""
    requested = {
        "duration": shot.duration,
        "aspect_ratio": shot.aspect_ratio,
        "resolution": shot.resolution,
    }
    words = match_prompt(shot.prompt, generation.prompt)
    if words is Match.DIFFERENT:
        return words
    model = Match.SAME if generation.model in (None, shot.model) else Match.POSSIBLE
    return min(words, model, match_values(requested, generation.parameters))


def _result(wire: _Result | None) -> VideoResult | None:
    if wire is None:
        return None
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", wire.resolution or "")
    return VideoResult(
        video_url=wire.video_url,
        thumbnail_url=wire.thumbnail_url,
        duration_seconds=wire.duration,
        width=int(size[1]) if size else None,
        height=int(size[2]) if size else None,
        file_size=wire.file_size if wire.file_size and wire.file_size > 0 else None,
        expires_at=_moment(wire.expires_at),
    )


def _fault(wire: _Fault | str | None) -> ProviderFault | None:
    if wire is None:
        return None
    if isinstance(wire, str):
        return ProviderFault(code="error", message=wire)
    return ProviderFault(code=wire.code or wire.type or "error", message=wire.message or "no reason given")


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None and 0 < seconds < 32503680000 else None


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _unreadable(response: httpx.Response, provider: str, error: ValidationError) -> UnreadableAnswer:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the body"
    return UnreadableAnswer(
        f"{provider}: the answer to {response.request.method} is not one of the contract: {where}: {first['msg']}",
        provider=provider,
        request_id=response.headers.get("x-request-id"),
    )
