"""What the Sora dialect takes in, and how strictly."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import Request

from prefect_video.emulator.generation import Generation, Status
from prefect_video.emulator.refusal import Refusal

MAX_PROMPT, MAX_DURATION, MAX_LIST = 32_000, 20, 100

Model = TypeVar("Model", bound=BaseModel)


class SubmitBody(BaseModel):
    """The body of ``POST /generations``, taken literally: no other fields, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    duration: Annotated[int, Field(ge=1, le=MAX_DURATION)] = 10
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    resolution: Literal["480p", "720p", "1080p"] = "1080p"
    webhook_url: str | None = None
    metadata: dict[str, Any] = {}

    @field_validator("model", "prompt")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text

    @field_validator("webhook_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("must be an http or https URL")
        return url


class ListQuery(BaseModel):
    """The query of ``GET /generations``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_LIST)] = 20
    offset: Annotated[int, Field(ge=0)] = 0
    status: Status | None = None
    created_after: float | None = None

    def matches(self, generation: Generation, created: float) -> bool:
        """Return whether a generation, with the time that the list shows, belongs into it.

        `created_after` excludes its own second.
        """
        return (self.status is None or generation.status == self.status) and (
            self.created_after is None or int(created) > self.created_after
        )


async def read_json(request: Request) -> Any:
    """The decoded body.

    Raises:
        Refusal: It is no JSON that could be sent back.
    """
    try:
        document = json.loads(await request.body(), parse_constant=_refuse_constant)
        json.dumps(document, ensure_ascii=False).encode()  # lone surrogates could never be sent back
    except (ValueError, RecursionError) as error:
        raise Refusal("invalid", f"The body is not JSON: {error}") from error
    return document


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def validated(model: type[Model], document: Any) -> Model:
    """The document as a model.

    Raises:
        Refusal: It does not fit; the message names the first field that is wrong.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise Refusal("invalid", f"Invalid {field}: {first['msg']}") from error
