"""Parsing of responses, as far as all dialects share it: JSON into models, failures into errors."""

from __future__ import annotations

import logging
import mimetypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from prefect_video._clean_text import clean_text
from prefect_video._redaction import redaction_for
from prefect_video.errors import (
    AuthenticationFailed,
    InvalidInput,
    InvalidResponse,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Generation
from prefect_video.providers.http import retry_after_seconds
from prefect_video.providers.http_bodies import decode_json, usable_number
from prefect_video.providers.pages import ListItem, UnreadableItem

logger = logging.getLogger(__name__)

LONGEST_MESSAGE: Final = 500
_LONGEST_REQUEST_ID: Final = 200

_ERRORS: Final[Mapping[int, type[ProviderError]]] = {
    401: AuthenticationFailed,
    402: QuotaExhausted,
    403: AuthenticationFailed,
    404: NotFound,
    408: ProviderUnavailable,
    410: NotFound,
    429: RateLimited,
    501: RequestRejected,
}

_WRAPPERS: Final = ("data", "result", "job", "task", "video", "generation", "prediction", "response", "output")
"""Names under which relays put the whole response of another server."""
_WRAPPER_DEPTH: Final = 2

_ID_FIELDS: Final = ("id", "generation_id", "job_id", "video_id", "prediction_id", "task_id")
"""Fields that name a generation. Inside an error `id` comes last, as it may be the error's own."""
_GENERATION_ID: Final = re.compile(r"\S{1,200}")
_LONGEST_ID: Final = 1000
"""Ids of proxies hold the names of a model and of another provider."""
_OTHER_ID: Final = re.compile(r"(?:req|request|err|error|trace)[_-]", re.IGNORECASE)
"""Beginning of ids of requests and errors."""

_EARLIEST_TIMESTAMP: Final = 1420070400.0
"""The year 2015, before all text-to-video services: an earlier one is a clock that was never set."""
_LATEST_TIMESTAMP: Final = 32503680000.0
"""The year 3000: a later one is no time, but milliseconds or nonsense."""


class ResponseModel(BaseModel):
    """Base of response models: unknown fields are ignored, as a provider may add some at any time."""

    model_config = ConfigDict(extra="ignore")


class LenientModel(ResponseModel):
    """Base of responses that must not be lost over an odd field, such as the only one that has a paid generation's id.

    An optional field of an unexpected type counts as missing.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    @model_validator(mode="wrap")
    @classmethod
    def _parse_leniently(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(data)
        except ValidationError as error:
            odd = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
            required = {name for name, field in cls.model_fields.items() if field.is_required()}
            if not isinstance(data, Mapping) or not odd or odd & required:
                raise
            logger.warning("a response has fields of an unexpected type, which are ignored: %s", ", ".join(sorted(odd)))
            return validate({name: value for name, value in data.items() if name not in odd})


ModelT = TypeVar("ModelT", bound=ResponseModel)


def parse(model: type[ModelT], response: httpx.Response, *, provider: str) -> ModelT:
    """Parse a response into a model, also out of what relays wrap around it.

    Raises:
        InvalidResponse: The response does not keep to the contract.
    """
    try:
        return parse_document(model, decode_json(response.content))
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(str(part) for part in first['loc']) or 'the body'}: {first['msg']}"
        # Without its cause, whose message shows parts of the response: a server may quote the key anywhere.
        raise _invalid_response(response, provider, reason) from None
    except ValueError as error:
        raise _invalid_response(response, provider, f"the body: {error}") from None


def parse_page(model: type[ModelT], response: httpx.Response, *, provider: str) -> ModelT:
    """Parse one page of a list, which must be whole: a part of a page proves nothing about what it leaves out.

    Raises:
        InvalidResponse: It does not keep to the contract, is partial (HTTP 206), or reports an error beside the items.
    """
    if response.status_code != httpx.codes.OK:
        raise _invalid_response(response, provider, f"HTTP {response.status_code} in place of a whole list")
    page = parse(model, response, provider=provider)
    for document in unwrap(decode_body(response)):
        error = (document.get("error") or document.get("errors")) if isinstance(document, Mapping) else None
        if error:
            raise _invalid_response(response, provider, f"a list with an error beside it: {error}")
    return page


def parse_document(model: type[ModelT], document: Any) -> ModelT:
    """Parse a decoded response into a model, also out of what relays wrap around it.

    Raises:
        ValidationError: The response does not keep to the contract.
    """
    failure: ValidationError | None = None
    for candidate in unwrap(document):
        try:
            return model.model_validate(candidate)
        except ValidationError as error:
            # The outermost one is reported: it is what the server sent.
            failure = failure or error
    assert failure is not None
    raise failure


def unwrap(document: Any) -> Iterator[Any]:
    """Yield a document, and what is inside of up to two wrappers around it, from the outside in."""
    yield document
    for _ in range(_WRAPPER_DEPTH):
        inner = [document[name] for name in _WRAPPERS if name in document] if isinstance(document, Mapping) else []
        document = next((candidate for candidate in inner if isinstance(candidate, Mapping)), None)
        if document is None:
            return
        yield document


def find_named_generation(document: Any) -> str | None:
    """Return the id of the generation that a decoded response names, whatever else it says; None for none.

    It is beside `error` or inside it. A `request_id` is the id of a request, as is an id that begins like one.
    """
    error = document.get("error") if isinstance(document, Mapping) else None
    for root, names in ((document, _ID_FIELDS), (error, (*_ID_FIELDS[1:], _ID_FIELDS[0]))):
        for candidate in unwrap(root):
            fields = candidate if isinstance(candidate, Mapping) else {}
            ids = (_read_id(fields.get(name)) for name in names)
            if (generation_id := next(filter(None, ids), None)) is not None:
                return generation_id
    return None


def _read_id(value: Any) -> str | None:
    """Return a field as the id of a generation; None where it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if _GENERATION_ID.fullmatch(text) and not _OTHER_ID.match(text) else None


def read_item(item: Any, model: type[ModelT], build: Callable[[ModelT], Generation]) -> ListItem:
    """Read one item of a list; an item that breaks the contract counts as a generation that may be any.

    Args:
        item: The decoded JSON.
        model: The model of an item.
        build: Builds the generation from the model.
    """
    try:
        return build(model.model_validate(item))
    except ValidationError:
        fields: Mapping[str, Any] = item if isinstance(item, Mapping) else {}
        item_id = fields.get("id")
        created = fields.get("created_at", fields.get("created"))
        is_timestamp = isinstance(created, int | float | str) and not isinstance(created, bool)
        logger.warning("an item of a list cannot be read: %s", item_id)
        return UnreadableItem(
            id=item_id if isinstance(item_id, str) and item_id else None,
            created_at=parse_timestamp(created) if is_timestamp else None,
        )


def path_part(generation_id: str) -> str:
    """Quote an id as one part of a path: some contain slashes, colons and other signs that lead elsewhere.

    Raises:
        InvalidInput: It cannot be requested in any spelling.
    """
    if not _can_be_requested(generation_id):
        raise InvalidInput(f"generation id {generation_id!r} is not one that can be requested")
    return quote(generation_id, safe="")


def _can_be_requested(generation_id: str) -> bool:
    is_text = generation_id.isascii() and generation_id.isprintable()
    return is_text and len(generation_id) <= _LONGEST_ID and generation_id.strip(".") != ""


def _check_id(generation_id: str) -> str:
    if not _can_be_requested(generation_id):
        raise ValueError("not an id that can be requested")
    return generation_id


GenerationId = Annotated[str, Field(min_length=1), AfterValidator(_check_id)]
"""Id of a generation that can be requested; a submit that is answered with any other one is held at once."""


def choose_video(links: Iterable[str]) -> str | None:
    """Return the link of the video among those of a result, which may begin with a preview; None where there is none.

    A name that ends like a video's comes first, then one that does not end like another file's.
    """
    return min(links, key=_rank_link, default=None)


def _rank_link(link: str) -> int:
    kind, _ = mimetypes.guess_type(urlsplit(link).path)
    return 0 if (kind or "").startswith("video/") else 1 if kind is None else 2


def unreadable_submit(error: InvalidResponse, response: httpx.Response, *, provider: str) -> SubmitOutcomeUnknown:
    """Build the error of a submit whose response is a success and has no readable generation."""
    generation_id = find_named_generation(decode_body(response))
    defect = "breaks the contract" if generation_id else "names no generation"
    return SubmitOutcomeUnknown(
        f"{provider}: the submit was answered {response.status_code} and the answer {defect}",
        provider=provider,
        generation_id=generation_id,
        request_id=error.request_id,
    )


def error_for_status(status: int) -> type[ProviderError]:
    """Return the class of error that an HTTP status means by itself."""
    return _ERRORS.get(status, ProviderUnavailable if status >= 500 else RequestRejected)


def build_error(kind: type[ProviderError], message: str, response: httpx.Response, *, provider: str) -> ProviderError:
    """Build an error from a response, with the delay that its headers and body request.

    It leaves open whether a submit was accepted, as anything between here and the provider may have sent the response;
    a `RefusalTable` decides that nothing was.
    """
    error = kind(
        f"{provider}: {clean_text(message[:LONGEST_MESSAGE])}",
        provider=provider,
        request_id=request_id(response),
        retry_after=retry_after_seconds(response.headers, decode_body(response)),
    )
    if isinstance(error, RequestRejected):
        error.accepted = None
    return error


def request_id(response: httpx.Response) -> str | None:
    """Return the provider's id of the request, from any of the usual headers."""
    names = ("x-request-id", "x-fal-request-id", "x-generation-id", "cf-ray")
    return next(
        (clean_text(response.headers[name][:_LONGEST_REQUEST_ID]) for name in names if name in response.headers), None
    )


def decode_body(response: httpx.Response) -> Any:
    """Return the decoded body, or None when it is not JSON."""
    try:
        return decode_json(response.content)
    except ValueError:
        return None


def parse_timestamp(value: float | str | None) -> datetime | None:
    """Parse a time in Unix seconds or ISO 8601; None for anything else, and for times that no clock shows."""
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            return None
        parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        return parsed if _EARLIEST_TIMESTAMP < parsed.timestamp() < _LATEST_TIMESTAMP else None
    is_time = value is not None and _EARLIEST_TIMESTAMP < value < _LATEST_TIMESTAMP
    return datetime.fromtimestamp(value, UTC) if value is not None and is_time else None


def compute_seconds_taken(
    created_at: datetime | None, completed_at: datetime | None, run_seconds: object = None
) -> float | None:
    """Return how long a completed generation took by the provider's times, else its run time; None for neither."""
    if created_at is not None and completed_at is not None and completed_at >= created_at:
        return (completed_at - created_at).total_seconds()
    run = usable_number(run_seconds)
    return run if run is not None and run > 0 else None


def parse_progress(percent: float | None) -> float | None:
    """Parse a progress in percent into a share from 0 to 1; None where none is reported."""
    number = usable_number(percent)
    return None if number is None else min(number / 100, 1.0)


def _invalid_response(response: httpx.Response, provider: str, reason: str) -> InvalidResponse:
    reason = redaction_for(response.request.headers.get("Authorization")).text(reason)
    reason = clean_text(reason[:LONGEST_MESSAGE])
    return InvalidResponse(
        f"{provider}: the answer to {response.request.method} is not one of the contract: {reason}",
        provider=provider,
        request_id=request_id(response),
    )
