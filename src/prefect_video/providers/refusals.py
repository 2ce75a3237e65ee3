"""What counts as a refusal: only the error body of a dialect's contract, with a type that the dialect's table lists.

A gateway, a proxy or a firewall answers in words of its own, and may do so after the provider has accepted. Whatever is
not in the table leaves it open whether a submit was accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from prefect_video.errors import ContentPolicyError, ProviderError, RequestRejected
from prefect_video.providers.moderation import is_moderation
from prefect_video.providers.responses import build_error, decode_body, error_for_status

_MAY_BE_MODERATION: Final = frozenset({400, 403, 422})


@dataclass(frozen=True)
class ErrorBody:
    """An error body that has the shape of its dialect's contract.

    Attributes:
        type: The contract's type of the error, where it has one.
        code: Its code, where it has one.
        message: What it says.
        is_moderated: Whether the body says by its shape that a content policy was applied.
    """

    type: str = ""
    code: str = ""
    message: str = ""
    is_moderated: bool = False

    @property
    def is_of_policy(self) -> bool:
        """Whether a content policy is the reason."""
        return self.is_moderated or is_moderation(self.code, self.type, self.message)


@dataclass(frozen=True)
class RefusalRule:
    """One line of a dialect's table.

    Attributes:
        statuses: HTTP statuses that it is for.
        types: Types or codes that it is for, in small letters; empty for any.
        error: What it means; None for what the status means.
        applies: What else must hold of the body.
    """

    statuses: Collection[int]
    types: Collection[str] = ()
    error: type[ProviderError] | None = None
    applies: Callable[[ErrorBody], bool] | None = None

    def matches(self, status: int, body: ErrorBody) -> bool:
        """Whether an answer is meant."""
        if status not in self.statuses or (self.applies is not None and not self.applies(body)):
            return False
        return not self.types or bool({body.type.casefold(), body.code.casefold()} & set(self.types))


ACCOUNT: Final = RefusalRule((401, 402, 403, 429))
"""Key, permission, credit and rate: in the contract's shape a refusal whatever its type."""


@dataclass(frozen=True)
class RefusalTable:
    """A dialect's words for turning a request down.

    Attributes:
        read_body: Reads a decoded error body with its HTTP status; None for one that has not the contract's shape.
        rules: The table, the most exact line first.
    """

    read_body: Callable[[Any, int], ErrorBody | None]
    rules: Sequence[RefusalRule]

    def read_error(
        self, response: httpx.Response, *, provider: str, otherwise: type[ProviderError] | None = None
    ) -> ProviderError:
        """Reads what an unsuccessful answer means.

        Of a refusal, `accepted` is False where the table lists the answer, and None where it does not.

        Args:
            response: The answer.
            provider: Name for the error.
            otherwise: What it means where the table does not list it; None for what its HTTP status means.
        """
        status = response.status_code
        document = decode_body(response)
        body = self.read_body(document, status)
        rule = next((one for one in self.rules if body and one.matches(status, body)), None)
        kind = otherwise or error_for_status(status)
        if rule is not None and body is not None:
            kind = rule.error or error_for_status(status)
            if status in _MAY_BE_MODERATION and (
                body.is_moderated or is_moderation(body.code, body.type, body.message)
            ):
                kind = ContentPolicyError
        error = build_error(kind, _message(body, document) or f"HTTP {status}", response, provider=provider)
        error.follows_contract = body is not None
        if rule is not None and isinstance(error, RequestRejected):
            error.accepted = False
        return error


def to_text(value: Any) -> str:
    """A word of an error body: a text as it is, a number as text, anything else as nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)


def fastapi_message(detail: Any) -> str | None:
    """What the `detail` of a FastAPI server says; None where it has neither of its two shapes."""
    if isinstance(detail, str):
        return detail
    if not isinstance(detail, list) or not detail or not all(isinstance(one, dict) and "msg" in one for one in detail):
        return None
    return "; ".join(_complaint(one) for one in detail)


def _complaint(item: dict[str, Any]) -> str:
    place = item.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list | tuple) else ""
    return f"{where}: {item['msg']}" if where else str(item["msg"])


def _message(body: ErrorBody | None, document: Any) -> str:
    """What the contract's body says, or what a foreign one seems to say."""
    if body is not None:
        return body.message or body.type or body.code
    if not isinstance(document, dict):
        return ""
    told = document.get("error") or document.get("message") or document.get("detail") or document.get("title")
    return to_text(told.get("message")) if isinstance(told, dict) else to_text(told)
