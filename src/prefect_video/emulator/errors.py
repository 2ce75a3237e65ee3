"""A request turned down, before a dialect gives the refusal its words."""

from __future__ import annotations

from typing import Literal

ErrorKind = Literal[
    "invalid", "policy", "authentication", "not_found", "conflict", "capacity", "quota", "rate", "generation",
    "server", "unavailable",
]  # fmt: skip

_STATUS: dict[ErrorKind, int] = {
    "invalid": 400,
    "policy": 400,
    "authentication": 401,
    "not_found": 404,
    "conflict": 409,
    "capacity": 429,
    "quota": 429,
    "rate": 429,
    "generation": 500,
    "server": 500,
    "unavailable": 404,
}


class ApiError(Exception):
    """The request ends with an error answer.

    Attributes:
        cause: Why, in the engine's words.
        status: HTTP status.
        retry_after: Seconds to wait before asking again, where that helps.
        generation_id: The generation that failed, for the cause ``generation``.
    """

    def __init__(
        self,
        cause: ErrorKind,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        generation_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.status = status if status is not None else _STATUS[cause]
        self.retry_after = retry_after
        self.generation_id = generation_id
