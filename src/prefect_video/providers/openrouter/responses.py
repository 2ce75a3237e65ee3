"""Responses of OpenRouter: jobs, models with their prices, events and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import httpx

from prefect_video.errors import ProviderError
from prefect_video.frame_sizes import AspectRatio, Resolution
from prefect_video.generations import Cost, Generation, ProviderFault, VideoResult, WebhookEvent
from prefect_video.providers.base import Capabilities
from prefect_video.providers.moderation import is_moderation
from prefect_video.providers.refusals import ACCOUNT, ErrorBody, RefusalRule, RefusalTable, to_text
from prefect_video.providers.responses import (
    GenerationId,
    LenientModel,
    ResponseModel,
    choose_video,
    parse,
    parse_progress,
    parse_timestamp,
)
from prefect_video.providers.statuses import Evidence, build_fault, parse_status, reports_error

_USD_PER_SECOND_SKUS: Final[tuple[tuple[str, Decimal], ...]] = (
    ("text_to_video_duration_seconds_{resolution}", Decimal(1)),
    ("duration_seconds_with_audio_{resolution}", Decimal(1)),
    ("duration_seconds_{resolution}", Decimal(1)),
    ("per-video-second-{resolution}", Decimal(1)),
    ("cents_per_video_output_second_{resolution}", Decimal("0.01")),
    ("cents_per_second_output_{resolution}", Decimal("0.01")),
    ("duration_seconds_with_audio", Decimal(1)),
    ("duration_seconds", Decimal(1)),
    ("per-video-second", Decimal(1)),
    ("cents_per_second_output", Decimal("0.01")),
)
"""SKUs under which upstream providers list a second of video, the most exact first, and the USD of one unit.

The price with sound counts where there is one: models that can make sound do so by default. Other SKUs (tokens,
reference images) do not give the price of a second.
"""


RESOLUTION_NAMES: Final[Mapping[Resolution, str]] = {"2160p": "4K"}
"""OpenRouter's names of resolutions, where they are not ours."""


class _Usage(LenientModel):
    cost: Cost = None


class _Job(LenientModel):
    id: GenerationId
    status: str
    polling_url: str | None = None
    model: str | None = None
    urls: list[str] | None = None
    unsigned_urls: list[str] | None = None
    expires_at: float | str | None = None
    created_at: float | str | None = None
    usage: _Usage | None = None
    error: str | dict[str, Any] | None = None
    progress: float | None = None


class _Key(ResponseModel):
    data: dict[str, Any]


class _Model(LenientModel):
    id: str
    supported_resolutions: list[str] | None = None
    supported_aspect_ratios: list[str] | None = None
    supported_durations: list[int] | None = None
    supported_frame_images: list[str] | None = None
    generate_audio: bool | None = None
    seed: bool | None = None
    pricing_skus: dict[str, str | float] | None = None


class _Models(ResponseModel):
    data: list[_Model]


@dataclass(frozen=True)
class VideoJob:
    """Generation with the address at which OpenRouter wants it to be polled."""

    generation: Generation
    polling_url: str | None


@dataclass(frozen=True)
class Model:
    """Capabilities of one model, and its USD per second of video by resolution, where known."""

    capabilities: Capabilities
    usd_per_second: Mapping[Resolution, Decimal]


def read_job(response: httpx.Response, *, provider: str) -> VideoJob:
    """Read the job in a successful response.

    Raises:
        InvalidResponse: It breaks the contract.
    """
    wire = parse(_Job, response, provider=provider)
    # A signed link needs no key; the other kind leads to the API and needs it.
    link = choose_video([*(wire.urls or ()), *(wire.unsigned_urls or ())])
    is_signed = link is not None and link in (wire.urls or ())
    evidence = Evidence(link is not None, parse_progress(wire.progress), reports_error(wire.error))
    status = parse_status(wire.status, provider=provider, generation_id=wire.id, evidence=evidence)
    generation = Generation(
        id=wire.id,
        provider=provider,
        status=status,
        model=wire.model,
        created_at=parse_timestamp(wire.created_at),
        result=VideoResult(video_url=link, expires_at=parse_timestamp(wire.expires_at) if is_signed else None)
        if link
        else None,
        cost_usd=wire.usage.cost if wire.usage else None,
        fault=build_fault(wire.status, _build_reported_fault(wire.error), status),
    )
    return VideoJob(generation, wire.polling_url)


def read_key(response: httpx.Response, *, provider: str) -> None:
    """Check that a response is the record of a key.

    Raises:
        InvalidResponse: It breaks the contract.
    """
    parse(_Key, response, provider=provider)


def read_models(response: httpx.Response, *, provider: str, host: Capabilities) -> Mapping[str, Model]:
    """Read all models by name; limits that a model does not list are taken from `host`.

    Raises:
        InvalidResponse: It is not a list of models.
    """
    wire = parse(_Models, response, provider=provider)
    return {model.id: Model(_build_capabilities(model, host), _find_prices(model, host)) for model in wire.data}


def read_event(body: Any, *, sent_at: datetime) -> WebhookEvent:
    """Read the event of a callback.

    Raises:
        TypeError: The body is no mapping.
        KeyError: A field is missing.
    """
    event_type, job_id = str(body["type"]), str(body["data"]["id"])
    return WebhookEvent(event_id=f"{job_id}:{event_type}", event_type=event_type, generation_id=job_id, sent_at=sent_at)


def read_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """Build the error of an unsuccessful response."""
    return REFUSALS.read_error(response, provider=provider)


def _error_body(document: Any, status: int) -> ErrorBody | None:
    """Read OpenRouter's `{"error": {code, message, metadata?}}`, whose code is the HTTP status."""
    error = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(error, Mapping) or error.get("code") != status or "status" in error:
        return None
    return ErrorBody(to_text(error.get("type")), "", to_text(error.get("message")), is_moderated=_is_moderated(error))


REFUSALS: Final = RefusalTable(_error_body, (ACCOUNT, RefusalRule((400, 404, 413, 422))))
"""Rejections by OpenRouter's page on errors; its 408 and 5xx are about upstream providers."""


def _build_reported_fault(error: str | dict[str, Any] | None) -> ProviderFault | None:
    if not error:
        return None
    if isinstance(error, str):
        return ProviderFault(code="moderation" if is_moderation(None, None, error) else "error", message=error)
    message = to_text(error.get("message")) or str(error)
    code, kind = to_text(error.get("code")), to_text(error.get("type"))
    moderated = _is_moderated(error) or is_moderation(code, kind, message)
    return ProviderFault(code="moderation" if moderated else code or "error", type=kind or None, message=message)


def _is_moderated(error: Mapping[str, Any]) -> bool:
    metadata = error.get("metadata")
    return isinstance(metadata, Mapping) and ("reasons" in metadata or "flagged_input" in metadata)


def _build_capabilities(wire: _Model, host: Capabilities) -> Capabilities:
    durations = tuple(sorted(wire.supported_durations or ()))
    sizes: dict[Resolution, int] = {
        size: max(durations, default=longest)
        for size, longest in host.sizes.items()
        if wire.supported_resolutions is None
        or not {size, RESOLUTION_NAMES.get(size, size)}.isdisjoint(wire.supported_resolutions)
    }
    ratios: list[AspectRatio] = [
        ratio
        for ratio in host.aspect_ratios
        if wire.supported_aspect_ratios is None or ratio in wire.supported_aspect_ratios
    ]
    listed = {
        "seed": bool(wire.seed),
        "audio": bool(wire.generate_audio),
        **{frame: frame in (wire.supported_frame_images or ()) for frame in ("first_frame", "last_frame")},
    }
    fields = [name for name in host.optional_fields if listed.get(name, True)]
    return replace(host, sizes=sizes, durations=durations, aspect_ratios=ratios, optional_fields=fields)


def _find_prices(wire: _Model, host: Capabilities) -> Mapping[Resolution, Decimal]:
    skus = wire.pricing_skus or {}
    prices: dict[Resolution, Decimal] = {}
    for resolution in host.sizes:
        for name, unit in _USD_PER_SECOND_SKUS:
            if (listed := skus.get(name.format(resolution=resolution))) is not None:
                prices[resolution] = Decimal(str(listed)) * unit
                break
    return prices
