"""What reading any dialect's answers has in common: JSON into models, words into statuses, refusals into errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_video.errors import (
    AuthenticationFailed,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    SubmitUnknown,
    UnreadableAnswer,
)
from prefect_video.generations import Status
from prefect_video.http import retry_after_seconds

logger = logging.getLogger(__name__)

LONGEST_MESSAGE: Final = 500

_KINDS: Final[Mapping[int, type[ProviderError]]] = {
    401: AuthenticationFailed,
    402: QuotaExhausted,
    403: AuthenticationFailed,
    404: NotFound,
    408: ProviderUnavailable,
    410: NotFound,
    429: RateLimited,
    501: RequestRefused,
}


class Wire(BaseModel):
    """Base of what is read: unknown fields are ignored, as a provider may add to its answers at any time."""

    model_config = ConfigDict(extra="ignore")


Told = TypeVar("Told", bound=Wire)


def read(wire: type[Told], response: httpx.Response, *, provider: str) -> Told:
    """The answer as a model.

    Raises:
        UnreadableAnswer: It does not keep to the contract.
    """
    try:
        return wire.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise UnreadableAnswer(
            f"{provider}: the answer to {response.request.method} is not one of the contract: {where}: {first['msg']}",
            provider=provider,
            request_id=request_id(response),
        ) from error


def accepted_unread(error: UnreadableAnswer, response: httpx.Response, *, provider: str) -> SubmitUnknown:
    """The error of a submit that was answered well and whose answer names no generation."""
    return SubmitUnknown(
        f"{provider}: the submit was answered {response.status_code} and the answer names no generation",
        provider=provider,
        request_id=error.request_id,
    )


def status_of(word: str, table: Mapping[str, Status], *, provider: str, generation_id: str) -> Status:
    """The status a provider's word stands for; a word that is not known counts as processing."""
    status = table.get(word.casefold())
    if status is None:
        logger.warning("%s generation %s: unknown status %r counts as processing", provider, generation_id, word)
        return Status.PROCESSING
    return status


def kind_of(status: int) -> type[ProviderError]:
    """The error that an HTTP status means by itself."""
    return _KINDS.get(status, ProviderUnavailable if status >= 500 else RequestRefused)


def refusal(kind: type[ProviderError], message: str, response: httpx.Response, *, provider: str) -> ProviderError:
    """An error of that kind, with what the answer's headers and body say about waiting."""
    return kind(
        f"{provider}: {message[:LONGEST_MESSAGE]}",
        provider=provider,
        request_id=request_id(response),
        retry_after=retry_after_seconds(response.headers, json_of(response)),
    )


def request_id(response: httpx.Response) -> str | None:
    """The provider's id of the request, under any of the usual headers."""
    names = ("x-request-id", "x-fal-request-id", "x-generation-id", "cf-ray")
    return next((response.headers[name] for name in names if name in response.headers), None)


def json_of(response: httpx.Response) -> Any:
    """The decoded body, or None when it is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def moment(value: float | str | None) -> datetime | None:
    """A time given as Unix seconds or in ISO 8601; None for anything else."""
    if isinstance(value, str):
        try:
            read_as = datetime.fromisoformat(value)
        except ValueError:
            return None
        return read_as if read_as.tzinfo else read_as.replace(tzinfo=UTC)
    return datetime.fromtimestamp(value, UTC) if value is not None and 0 < value < 32503680000 else None
