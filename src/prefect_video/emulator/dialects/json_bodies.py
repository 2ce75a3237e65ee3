"""JSON bodies of requests, decoded and validated for any dialect."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from prefect_video.emulator.errors import ApiError

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request) -> Any:
    """Return the decoded body of a request.

    Raises:
        ApiError: It is not JSON, or JSON that could not be sent back.
    """
    try:
        document = json.loads(await request.body(), parse_constant=_reject_constant)
        # Prompts and metadata are echoed: a lone surrogate could never be encoded again.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError("invalid", f"The body is not JSON: {error}") from error
    return document


def validate(model: type[Model], document: Any) -> Model:
    """Return the document as a model.

    Raises:
        ApiError: It does not fit; the message names the first wrong field.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise ApiError("invalid", f"Invalid {field}: {first['msg']}") from error


def _reject_constant(constant: str) -> None:
    """Reject `NaN` and `Infinity`, which Python accepts and JSON does not."""
    raise ValueError(f"{constant} is no JSON number")
