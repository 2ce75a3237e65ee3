"""What reading any dialect's answers has in common: JSON into models, refusals into errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from prefect_video.errors import (
    AuthenticationFailed,
    InvalidResponse,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Generation, ProviderFault, Status
from prefect_video.providers.http import retry_after_seconds
from prefect_video.providers.http_bodies import decode_json, usable_number
from prefect_video.providers.moderation import is_moderation
from prefect_video.providers.pages import ListItem, UnreadableItem

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
    501: RequestRejected,
}


class ResponseModel(BaseModel):
    """Base of what is read: unknown fields are ignored, as a provider may add to its answers at any time."""

    model_config = ConfigDict(extra="ignore")


class LenientModel(ResponseModel):
    """Base of what must not be thrown away for an oddity, such as the one answer that names a paid generation.

    A field that may be left out and is not of its form counts as left out.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    @model_validator(mode="wrap")
    @classmethod
    def _parse_leniently(cls, data: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return read(data)
        except ValidationError as error:
            odd = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
            needed = {name for name, field in cls.model_fields.items() if field.is_required()}
            if not isinstance(data, Mapping) or not odd or odd & needed:
                raise
            logger.warning("an answer tells %s in a form that is not known; read without", ", ".join(sorted(odd)))
            return read({name: value for name, value in data.items() if name not in odd})


ModelT = TypeVar("ModelT", bound=ResponseModel)

_WRAPPERS: Final = ("data", "result", "job", "task", "video", "generation", "prediction", "response", "output")
"""Names under which relays put the whole of what another server had answered."""


def parse(wire: type[ModelT], response: httpx.Response, *, provider: str) -> ModelT:
    """The answer as a model, taken out of what relays wrap around it.

    Raises:
        InvalidResponse: It does not keep to the contract.
    """
    try:
        return read_document(wire, decode_json(response.content))
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(str(part) for part in first['loc']) or 'the body'}: {first['msg']}"
        raise _unreadable(response, provider, reason) from error
    except ValueError as error:
        raise _unreadable(response, provider, f"the body: {error}") from error


def read_document(wire: type[ModelT], document: Any) -> ModelT:
    """A decoded answer as a model, taken out of what relays wrap around it.

    Raises:
        ValidationError: It does not keep to the contract.
    """
    failure: ValidationError | None = None
    for candidate in unwrapped(document):
        try:
            return wire.model_validate(candidate)
        except ValidationError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def unwrapped(document: Any) -> Iterator[Any]:
    """A document, and what is inside of up to two wrappers around it, from the outside in."""
    yield document
    for _ in range(2):
        inner = [document[name] for name in _WRAPPERS if name in document] if isinstance(document, Mapping) else []
        document = next((one for one in inner if isinstance(one, Mapping)), None)
        if document is None:
            return
        yield document


def _unreadable(response: httpx.Response, provider: str, reason: str) -> InvalidResponse:
    return InvalidResponse(
        f"{provider}: the answer to {response.request.method} is not one of the contract: {reason[:LONGEST_MESSAGE]}",
        provider=provider,
        request_id=request_id(response),
    )


def read_item(item: Any, wire: type[ModelT], told: Callable[[ModelT], Generation]) -> ListItem:
    """Read one item of a list; one that does not keep to the contract counts as a generation that may be any.

    Args:
        item: The decoded JSON.
        wire: What it should be.
        told: Makes the generation of it.
    """
    try:
        return told(wire.model_validate(item))
    except ValidationError:
        fields: Mapping[str, Any] = item if isinstance(item, Mapping) else {}
        name = fields.get("id")
        made = fields.get("created_at", fields.get("created"))
        logger.warning("an item of a list cannot be read: %s", name)
        return UnreadableItem(
            id=name if isinstance(name, str) and name else None,
            created_at=parse_timestamp(made)
            if isinstance(made, int | float | str) and not isinstance(made, bool)
            else None,
        )


def unreadable_submit(error: InvalidResponse, response: httpx.Response, *, provider: str) -> SubmitOutcomeUnknown:
    """The error of a submit that was answered well and whose answer names no generation."""
    return SubmitOutcomeUnknown(
        f"{provider}: the submit was answered {response.status_code} and the answer names no generation",
        provider=provider,
        request_id=error.request_id,
    )


def error_for_status(status: int) -> type[ProviderError]:
    """The error that an HTTP status means by itself."""
    return _KINDS.get(status, ProviderUnavailable if status >= 500 else RequestRejected)


def build_error(kind: type[ProviderError], message: str, response: httpx.Response, *, provider: str) -> ProviderError:
    """An error of that kind, with what the answer's headers and body say about waiting.

    It leaves open whether a submit was accepted, as anything between here and the provider may have made the answer;
    a `RefusalTable` tells that nothing was.
    """
    error = kind(
        f"{provider}: {message[:LONGEST_MESSAGE]}",
        provider=provider,
        request_id=request_id(response),
        retry_after=retry_after_seconds(response.headers, decode_body(response)),
    )
    if isinstance(error, RequestRejected):
        error.accepted = None
    return error


def request_id(response: httpx.Response) -> str | None:
    """The provider's id of the request, under any of the usual headers."""
    names = ("x-request-id", "x-fal-request-id", "x-generation-id", "cf-ray")
    return next((response.headers[name] for name in names if name in response.headers), None)


def decode_body(response: httpx.Response) -> Any:
    """The decoded body, or None when it is no JSON."""
    try:
        return decode_json(response.content)
    except ValueError:
        return None


_LATEST: Final = 32503680000.0


def parse_timestamp(value: float | str | None) -> datetime | None:
    """A time given as Unix seconds or in ISO 8601; None for anything else, and for what no clock has ever shown."""
    if isinstance(value, str):
        try:
            read_as = datetime.fromisoformat(value)
        except ValueError:
            return None
        read_as = read_as if read_as.tzinfo else read_as.replace(tzinfo=UTC)
        return read_as if 0 < read_as.timestamp() < _LATEST else None
    return datetime.fromtimestamp(value, UTC) if value is not None and 0 < value < _LATEST else None


def share_of(percent: float | None) -> float | None:
    """A share from 0 to 1, of a progress in percent; None where none is told."""
    number = usable_number(percent)
    return None if number is None else min(number / 100, 1.0)


_WORDS: Final[Mapping[Status, str]] = {
    Status.QUEUED: (
        "queued queue queueing queuing in_queue waiting wait pending in_pending not_started starting created submitted"
        " accepted received scheduled throttled preparing initializing initialized"
    ),
    Status.PROCESSING: (
        "processing process in_progress progress in_process running run started active working generating rendering"
        " encoding uploading preprocessing postprocessing finalizing executing busy dreaming ongoing doing"
    ),
    Status.COMPLETED: "completed complete succeeded succeed success successful finished finish done ready ok fulfilled",
    Status.FAILED: (
        "failed fail failure failing error errored exception crashed rejected refused denied invalid timeout timed_out"
        " incomplete budget_exceeded requires_action requires_continuation nsfw moderated blocked flagged"
        " content_filtered moderation_blocked content_moderated banned failed_with_error"
    ),
    Status.CANCELLED: "cancelled canceled cancel aborted abort stopped terminated revoked deleted",
    Status.EXPIRED: "expired",
}
STATUSES: Final[Mapping[str, Status]] = MappingProxyType(
    {word: status for status, words in _WORDS.items() for word in words.split()}
)
"""What a word means, in small letters with underscores."""

_BY_POLICY: Final = frozenset({"nsfw", "moderated", "flagged", "banned", "content_filtered", "content_moderated"})
"""Words for a failure that tell its reason."""

_BEFORE: Final = re.compile(r"^(?:(?:task|job|video|generation|prediction|request|status|state)_)+(?=.)")
_DONE: Final = 1.0
_MOST_WARNINGS: Final = 1000
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Evidence:
    """What else an answer tells of where a generation stands.

    Attributes:
        has_link: Whether it names a video.
        progress: 0 to 1, where it says.
        has_error: Whether it names an error.
    """

    has_link: bool = False
    progress: float | None = None
    has_error: bool = False

    @property
    def status(self) -> Status | None:
        """The end that the evidence proves; None where it proves none."""
        if self.has_error:
            return Status.FAILED
        if self.has_link and self.progress is not None and self.progress >= _DONE:
            return Status.COMPLETED
        return None


def parse_status(
    word: str,
    own: Mapping[str, Status] = MappingProxyType({}),
    *,
    provider: str,
    generation_id: str,
    evidence: Evidence | None = None,
) -> Status:
    """The status that a provider's word stands for.

    One that is not known is decided by the evidence beside it, else counts as processing; of that a warning is logged,
    once for each provider and word.

    Args:
        word: In any case and spelling.
        own: Words of this dialect alone, or ones that mean something else there; in small letters with underscores.
        provider: For the warning about an unknown word.
        generation_id: Likewise.
        evidence: What else the answer tells.
    """
    spelled = _transliterate(word)
    status = own.get(spelled) or STATUSES.get(spelled) or STATUSES.get(_BEFORE.sub("", spelled))
    if status is None and is_moderation(word):
        status = Status.FAILED
    if status is not None:
        return status
    status = (evidence.status if evidence else None) or Status.PROCESSING
    _warn(word, status, provider, generation_id)
    return status


def fault_of(word: str, told: ProviderFault | None) -> ProviderFault | None:
    """Why a generation failed: what the answer tells, and what its status word tells besides, such as `NSFW`."""
    if _BEFORE.sub("", _transliterate(word)) not in _BY_POLICY and not is_moderation(word):
        return told
    if told is None:
        return ProviderFault(code="moderation", type=word, message=f"its status is {word[:200]!r}")
    return told.model_copy(update={"type": "moderation"})


def _transliterate(word: str) -> str:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word.strip()[:200])
    return re.sub(r"[\W_]+", "_", parted.casefold()).strip("_")


def _warn(word: str, status: Status, provider: str, generation_id: str) -> None:
    if (provider, word) in _warned:
        return
    if len(_warned) < _MOST_WARNINGS:
        _warned.add((provider, word[:200]))
    logger.warning("%s generation %s: unknown status %r counts as %s", provider, generation_id, word[:200], status)
