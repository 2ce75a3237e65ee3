"""Responses of the Sora dialect: generations, pages, events and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from prefect_video.errors import GenerationBlocked, GenerationFailed, ProviderError, QuotaExhausted
from prefect_video.generations import Cost, Generation, ProviderFault, Status, VideoResult, WebhookEvent
from prefect_video.providers.http import is_stale, poll_delay_seconds
from prefect_video.providers.matching import Match, match_prompt, match_values
from prefect_video.providers.moderation import is_moderation
from prefect_video.providers.pages import ListPage
from prefect_video.providers.reference_images import match_images
from prefect_video.providers.refusals import ACCOUNT, ErrorBody, RefusalRule, RefusalTable, to_text
from prefect_video.providers.responses import (
    GenerationId,
    LenientModel,
    ResponseModel,
    decode_body,
    parse,
    parse_page,
    parse_progress,
    parse_timestamp,
    read_item,
)
from prefect_video.providers.statuses import Evidence, build_fault, parse_status, reports_error
from prefect_video.shots import Shot


class _Result(LenientModel):
    video_url: str
    thumbnail_url: str | None = None
    duration: float | None = None
    resolution: str | None = None
    file_size: int | None = None
    expires_at: float | None = None


class _Usage(LenientModel):
    seconds_generated: float | None = None
    cost_usd: Cost = None


class _Fault(LenientModel):
    type: str | None = None
    code: str | None = None
    message: str | None = None


class _Generation(LenientModel):
    id: GenerationId
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
    progress: float | None = None
    remixed_from: str | None = None

    def to_generation(self, provider: str, retry_after: float | None = None) -> Generation:
        """Build the generation that this response describes."""
        status = self._parse_status(provider)
        return Generation(
            id=self.id,
            provider=provider,
            status=status,
            model=self.model,
            created_at=parse_timestamp(self.created),
            estimated_completion_at=parse_timestamp(self.estimated_completion_time),
            prompt=self.prompt,
            parameters=self.parameters or {},
            metadata={name: str(value) for name, value in (self.metadata or {}).items()},
            result=_build_result(self.result),
            cost_usd=self.usage.cost_usd if self.usage else None,
            fault=build_fault(self.status, _build_reported_fault(self.error), status),
            retry_after=retry_after,
            remixed_from=self.remixed_from,
        )

    def _parse_status(self, provider: str) -> Status:
        evidence = Evidence(self.result is not None, parse_progress(self.progress), reports_error(self.error))
        return parse_status(self.status, provider=provider, generation_id=self.id, evidence=evidence)


class _Page(ResponseModel):
    data: list[Any]
    has_more: bool | None = None
    total_count: int | None = None


def read_generation(response: httpx.Response, *, provider: str) -> Generation:
    """Read the generation in a successful response.

    Raises:
        InvalidResponse: It breaks the contract.
    """
    wire = parse(_Generation, response, provider=provider)
    return wire.to_generation(provider, poll_delay_seconds(response.headers))


def read_page(response: httpx.Response, *, provider: str, offset: int = 0, limit: int | None = None) -> ListPage:
    """Read one page of a list, item by item: an item that breaks the contract hides no others.

    Raises:
        InvalidResponse: It is no page of the contract.
    """
    page = parse_page(_Page, response, provider=provider)
    items = tuple(read_item(item, _Generation, lambda wire: wire.to_generation(provider)) for item in page.data)
    return ListPage(
        items,
        has_more=page.has_more,
        cursors=tuple(range(offset + 1, offset + len(items) + 1)),
        total=page.total_count,
        limit=limit,
        positional=True,
        is_stale=is_stale(response),
    )


def read_event(body: Any) -> WebhookEvent:
    """Read the event of a webhook body.

    Raises:
        TypeError: The body is no mapping, or its timestamp no number.
        KeyError: A field is missing.
        ValueError: The timestamp is no number.
        OverflowError: The timestamp is out of range.
        OSError: The same, as some platforms report it.
    """
    return WebhookEvent(
        event_id=str(body["event_id"]),
        event_type=str(body["event_type"]),
        generation_id=str(body["data"]["generation_id"]),
        sent_at=datetime.fromtimestamp(float(body["timestamp"]), UTC),
    )


def read_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """Build the error of an unsuccessful response, by the contract's table."""
    document = decode_body(response)
    fault = document.get("error") if isinstance(document, Mapping) else None
    return REFUSALS.read_error(response, provider=provider, otherwise=_find_immediate_failure(response, fault))


def _find_immediate_failure(response: httpx.Response, fault: Any) -> type[ProviderError] | None:
    """Return the failure that a 5xx reports where it names a generation, which was accepted and failed at once."""
    has_id = isinstance(fault, Mapping) and fault.get("type") == "generation_error" and fault.get("generation_id")
    if not has_id or response.status_code < 500:
        return None
    is_blocked = is_moderation(to_text(fault.get("code")), None, to_text(fault.get("message")))
    return GenerationBlocked if is_blocked else GenerationFailed


def _error_body(document: Any, _status: int) -> ErrorBody | None:
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping) or not isinstance(error.get("message"), str):
        return None
    if not isinstance(error.get("type"), str):
        return None
    return ErrorBody(error["type"], to_text(error.get("code")), error["message"])


def _is_about_quota(body: ErrorBody) -> bool:
    return "quota" in f"{body.code} {body.message}".casefold()


REFUSALS: Final = RefusalTable(
    _error_body,
    (
        RefusalRule((429,), error=QuotaExhausted, applies=_is_about_quota),
        ACCOUNT,
        RefusalRule((400, 422), types=("invalid_request_error", "content_policy_violation")),
        RefusalRule((404,), types=("not_found_error",)),
    ),
)
"""Rejections by the contract's table of errors."""


def compare(generation: Generation, shot: Shot) -> Match:
    """Compare a generation that does not echo our idempotency key with a shot, by prompt, model and parameters."""
    requested = {
        "duration": shot.duration,
        "aspect_ratio": shot.aspect_ratio,
        "resolution": shot.resolution,
    }
    # What goes beyond the dialect must be echoed: a generation without it is another one.
    optional = match_values(optional_parameters(shot), generation.parameters, required=True)
    images = match_images(shot, generation.parameters)
    prompt = match_prompt(shot.prompt, generation.prompt)
    model = Match.SAME if generation.model in (None, shot.model) else Match.POSSIBLE
    original = Match.SAME if generation.remixed_from == shot.remixed_from else Match.POSSIBLE
    return min(prompt, model, original, images, optional, match_values(requested, generation.parameters))


def optional_parameters(shot: Shot) -> dict[str, Any]:
    """Return the parameters of a shot beyond the dialect, without its images; only the emulator takes them."""
    given = {"audio": shot.audio, "watermark": shot.watermark, "options": shot.options or None}
    return {name: value for name, value in given.items() if value is not None}


def _build_result(wire: _Result | None) -> VideoResult | None:
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
        expires_at=parse_timestamp(wire.expires_at),
    )


def _build_reported_fault(wire: _Fault | str | None) -> ProviderFault | None:
    if wire is None:
        return None
    if isinstance(wire, str):
        return ProviderFault(code="error", message=wire)
    return ProviderFault(
        code=wire.code or wire.type or "error", type=wire.type, message=wire.message or "no reason given"
    )
