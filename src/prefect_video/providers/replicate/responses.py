"""Responses of Replicate: predictions, pages, events and errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx

from prefect_video.errors import InvalidResponse, ProviderError
from prefect_video.generations import Generation, ProviderFault, Status, VideoResult, WebhookEvent
from prefect_video.providers.http import is_stale
from prefect_video.providers.http_bodies import MAX_RETRY_AFTER_SECONDS
from prefect_video.providers.pages import ListPage
from prefect_video.providers.refusals import ACCOUNT, ErrorBody, RefusalRule, RefusalTable, to_text
from prefect_video.providers.responses import (
    GenerationId,
    LenientModel,
    ResponseModel,
    choose_video,
    compute_seconds_taken,
    parse,
    parse_page,
    parse_progress,
    parse_timestamp,
    read_item,
)
from prefect_video.providers.statuses import Evidence, build_fault, parse_status, reports_error

FILES_KEPT: Final = timedelta(hours=1)
"""Time after its end for which a prediction's input and output can be fetched."""

_CODE: Final = re.compile(r"\b(E\d{3,5})\b")
_AVAILABLE_IN: Final = re.compile(r"available in (\d+(?:\.\d+)?) ?s")


class _Prediction(LenientModel):
    id: GenerationId
    status: str
    model: str | None = None
    version: str | None = None
    input: dict[str, Any] | None = None
    output: Any = None
    error: Any = None
    data_removed: bool = False
    created_at: str | None = None
    completed_at: str | None = None
    metrics: dict[str, Any] | None = None
    progress: float | None = None


class _Account(ResponseModel):
    username: str


class _Page(ResponseModel):
    results: list[Any]
    next: str | None = None


class Prediction(Generation):
    """Generation of Replicate, with the fields that only Replicate reports.

    Attributes:
        version: Id of the model's version.
        removed: Whether input and output were deleted.
    """

    version: str | None = None
    removed: bool = False


def read_prediction(response: httpx.Response, *, provider: str) -> Prediction:
    """Read the prediction in a successful response.

    Raises:
        InvalidResponse: It breaks the contract, or it has succeeded without a video.
    """
    generation = _build_prediction(parse(_Prediction, response, provider=provider), provider)
    if generation.status is Status.COMPLETED and generation.result is None:
        raise InvalidResponse(
            f"{provider}: prediction {generation.id} has succeeded and its output names no video",
            provider=provider,
            generation_id=generation.id,
        )
    return generation


def read_account(response: httpx.Response, *, provider: str) -> None:
    """Check that a response is an account.

    Raises:
        InvalidResponse: It breaks the contract.
    """
    parse(_Account, response, provider=provider)


def read_page(response: httpx.Response, *, provider: str) -> ListPage:
    """Read one page of a list of predictions, each by itself: an odd one hides no others.

    Raises:
        InvalidResponse: It is no page of the contract.
    """
    wire = parse_page(_Page, response, provider=provider)
    cursor = next(iter(parse_qs(urlsplit(wire.next or "").query).get("cursor", [])), None)
    items = tuple(
        read_item(item, _Prediction, lambda prediction: _build_prediction(prediction, provider))
        for item in wire.results
    )
    # The last page has `next: null`; a page without the field is no proof that it is the last.
    has_more = wire.next is not None if "next" in wire.model_fields_set else None
    return ListPage(items, has_more=has_more, next_cursor=cursor, is_stale=is_stale(response))


def read_event(body: Any, *, event_id: str, sent_at: datetime) -> WebhookEvent:
    """Read the event of a delivery.

    Raises:
        TypeError: The body is no mapping.
        KeyError: A field is missing.
    """
    return WebhookEvent(
        event_id=event_id,
        event_type=f"prediction.{body['status']}",
        generation_id=str(body["id"]),
        sent_at=sent_at,
    )


def read_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """Build the error of an unsuccessful response."""
    error = REFUSALS.read_error(response, provider=provider)
    if error.retry_after is None and (wait := _AVAILABLE_IN.search(error.message)):
        error.retry_after = min(float(wait[1]), MAX_RETRY_AFTER_SECONDS)
    return error


def _error_body(document: Any, status: int) -> ErrorBody | None:
    """Read Replicate's `{title, detail, status}`, whose status is that of HTTP; a throttle may come without it.

    A firewall's problem document has the same fields and also a `type`.
    """
    if not isinstance(document, Mapping) or "type" in document:
        return None
    message = to_text(document.get("detail")) or to_text(document.get("title"))
    is_throttle = status == 429 and _AVAILABLE_IN.search(message) is not None
    return ErrorBody(message=message) if message and (document.get("status") == status or is_throttle) else None


REFUSALS: Final = RefusalTable(_error_body, (ACCOUNT, RefusalRule((400, 404, 422))))
"""Rejections by Replicate's reference of its HTTP API."""


def _build_prediction(wire: _Prediction, provider: str) -> Prediction:
    link = choose_video(_find_links(wire.output))
    evidence = Evidence(link is not None, parse_progress(wire.progress), reports_error(wire.error))
    status = parse_status(wire.status, provider=provider, generation_id=wire.id, evidence=evidence)
    if status is Status.COMPLETED and link is None and wire.data_removed:
        status = Status.EXPIRED
    ended = parse_timestamp(wire.completed_at)
    created = parse_timestamp(wire.created_at)
    taken = compute_seconds_taken(created, ended, (wire.metrics or {}).get("predict_time"))
    requested = wire.input or {}
    prompt = requested.get("prompt")
    return Prediction(
        id=wire.id,
        provider=provider,
        status=status,
        model=wire.model,
        created_at=created,
        prompt=prompt if isinstance(prompt, str) else None,
        parameters={name: value for name, value in requested.items() if name != "prompt"},
        result=VideoResult(video_url=link, expires_at=ended + FILES_KEPT if ended else None) if link else None,
        # An aborted prediction had not started; any other end may be charged.
        cost_usd=Decimal(0) if wire.status == "aborted" else None,
        fault=build_fault(wire.status, _build_reported_fault(wire.error), status),
        seconds_taken=taken if status is Status.COMPLETED else None,
        version=wire.version,
        removed=wire.data_removed,
    )


def _find_links(output: Any) -> Iterator[str]:
    """Yield the links in an output, which is a link, a list, or an object with some."""
    if isinstance(output, str) and output.startswith(("https://", "http://")):
        yield output
    elif isinstance(output, Mapping):
        first = [output[name] for name in ("video", "url", "output") if name in output]
        for value in [*first, *output.values()]:
            yield from _find_links(value)
    elif isinstance(output, list):
        for value in output:
            yield from _find_links(value)


def _build_reported_fault(error: Any) -> ProviderFault | None:
    if not error:
        return None
    message = str(error)
    code = _CODE.search(message)
    return ProviderFault(code=code[1] if code else "error", message=message)
