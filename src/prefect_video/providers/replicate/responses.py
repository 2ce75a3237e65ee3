"""How Replicate's JSON is read: predictions, pages, events and errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
from pydantic import Field

from prefect_video.errors import InvalidResponse, ProviderError
from prefect_video.generations import Generation, ProviderFault, Status, VideoResult, WebhookEvent
from prefect_video.providers.http_bodies import LONGEST_WAIT_SECONDS
from prefect_video.providers.pages import ListPage
from prefect_video.providers.refusals import ACCOUNT, ErrorBody, RefusalRule, RefusalTable, text_of
from prefect_video.providers.responses import (
    Evidence,
    LenientModel,
    ResponseModel,
    fault_of,
    parse,
    parse_status,
    parse_timestamp,
    read_item,
    share_of,
)

FILES_KEPT: Final = timedelta(hours=1)
"""How long after its end a prediction's input and output can be had."""

_CODE: Final = re.compile(r"\b(E\d{3,5})\b")
_AVAILABLE_IN: Final = re.compile(r"available in (\d+(?:\.\d+)?) ?s")


class _Prediction(LenientModel):
    id: str = Field(min_length=1)
    status: str
    model: str | None = None
    version: str | None = None
    input: dict[str, Any] | None = None
    output: Any = None
    error: Any = None
    data_removed: bool = False
    created_at: str | None = None
    completed_at: str | None = None
    progress: float | None = None


class _Account(ResponseModel):
    username: str


class _Page(ResponseModel):
    results: list[Any]
    next: str | None = None


class Prediction(Generation):
    """A generation of Replicate's.

    Attributes:
        version: Id of the model's version.
        removed: Whether input and output are gone.
    """

    version: str | None = None
    removed: bool = False


def read_prediction(response: httpx.Response, *, provider: str) -> Prediction:
    """The prediction in a successful answer.

    Raises:
        InvalidResponse: It is not one of the contract, or it has succeeded and names no video.
    """
    generation = _told(parse(_Prediction, response, provider=provider), provider)
    if generation.status is Status.COMPLETED and generation.result is None:
        raise InvalidResponse(
            f"{provider}: prediction {generation.id} has succeeded and its output names no video",
            provider=provider,
            generation_id=generation.id,
        )
    return generation


def read_account(response: httpx.Response, *, provider: str) -> None:
    """Demands that an answer is an account.

    Raises:
        InvalidResponse: It is not one of the contract.
    """
    parse(_Account, response, provider=provider)


def read_page(response: httpx.Response, *, provider: str) -> ListPage:
    """Read one page of a list of predictions, each by itself: an odd one hides no others.

    Raises:
        InvalidResponse: It is no page of the contract.
    """
    wire = parse(_Page, response, provider=provider)
    cursor = next(iter(parse_qs(urlsplit(wire.next or "").query).get("cursor", [])), None)
    items = tuple(read_item(item, _Prediction, lambda one: _told(one, provider)) for item in wire.results)
    # The last page says that nothing is next; one that says nothing is no last page.
    has_more = wire.next is not None if "next" in wire.model_fields_set else None
    return ListPage(items, has_more=has_more, next_cursor=cursor)


def read_event(body: Any, *, event_id: str, sent_at: datetime) -> WebhookEvent:
    """The event of a delivery; raises what reading a wrong mapping raises when it is none."""
    return WebhookEvent(
        event_id=event_id,
        event_type=f"prediction.{body['status']}",
        generation_id=str(body["id"]),
        sent_at=sent_at,
    )


def read_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """The error that an unsuccessful answer means."""
    error = REFUSALS.read_error(response, provider=provider)
    if error.retry_after is None and (wait := _AVAILABLE_IN.search(error.message)):
        error.retry_after = min(float(wait[1]), LONGEST_WAIT_SECONDS)
    return error


def _error_body(document: Any, status: int) -> ErrorBody | None:
    """Replicate's `{title, detail, status}`, whose status is that of HTTP; a throttle may come without it.

    A firewall's problem document has the same names, and a `type` besides.
    """
    if not isinstance(document, Mapping) or "type" in document:
        return None
    message = text_of(document.get("detail")) or text_of(document.get("title"))
    is_throttle = status == 429 and _AVAILABLE_IN.search(message) is not None
    return ErrorBody(message=message) if message and (document.get("status") == status or is_throttle) else None


REFUSALS: Final = RefusalTable(_error_body, (ACCOUNT, RefusalRule((400, 404, 422))))
"""By Replicate's reference of its HTTP API."""


def _told(wire: _Prediction, provider: str) -> Prediction:
    link = next(_links(wire.output), None)
    evidence = Evidence(link is not None, share_of(wire.progress), bool(wire.error))
    status = parse_status(wire.status, provider=provider, generation_id=wire.id, evidence=evidence)
    if status is Status.COMPLETED and link is None and wire.data_removed:
        status = Status.EXPIRED
    ended = parse_timestamp(wire.completed_at)
    asked = wire.input or {}
    prompt = asked.get("prompt")
    return Prediction(
        id=wire.id,
        provider=provider,
        status=status,
        model=wire.model,
        created_at=parse_timestamp(wire.created_at),
        prompt=prompt if isinstance(prompt, str) else None,
        parameters={name: value for name, value in asked.items() if name != "prompt"},
        result=VideoResult(video_url=link, expires_at=ended + FILES_KEPT if ended else None) if link else None,
        # One that was aborted had not started; any other end may be charged.
        cost_usd=Decimal(0) if wire.status == "aborted" else None,
        fault=fault_of(wire.status, _fault(wire.error)),
        version=wire.version,
        removed=wire.data_removed,
    )


def _links(output: Any) -> Iterator[str]:
    """The links in an output, which is one, a list, or an object with some."""
    if isinstance(output, str) and output.startswith(("https://", "http://")):
        yield output
    elif isinstance(output, Mapping):
        first = [output[name] for name in ("video", "url", "output") if name in output]
        for value in [*first, *output.values()]:
            yield from _links(value)
    elif isinstance(output, list):
        for value in output:
            yield from _links(value)


def _fault(error: Any) -> ProviderFault | None:
    if not error:
        return None
    message = str(error)
    code = _CODE.search(message)
    return ProviderFault(code=code[1] if code else "error", message=message)
