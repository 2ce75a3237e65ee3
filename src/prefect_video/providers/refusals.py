"""Refusals: error bodies of a dialect's contract, listed in the dialect's table, which prove that nothing was accepted.

A gateway, a proxy or a firewall has error bodies of its own, and may send one after the provider has accepted. Any
response that is not in the table leaves open whether a submit was accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from prefect_video.errors import ContentPolicyError, ProviderError, RequestRejected
from prefect_video.providers.moderation import is_moderation
from prefect_video.providers.responses import build_error, decode_body, error_for_status, find_named_generation

_MAY_BE_MODERATION: Final = frozenset({400, 403, 422})


@dataclass(frozen=True)
class ErrorBody:
    """Error body that has the form of its dialect's contract.

    Attributes:
        type: Type of the error, where the contract has one.
        code: Code of the error, where the contract has one.
        message: Text of the error.
        is_moderated: Whether the form of the body shows that a content policy was applied.
    """

    type: str = ""
    code: str = ""
    message: str = ""
    is_moderated: bool = False

    @property
    def is_of_policy(self) -> bool:
        """True where a content policy is the reason for the error."""
        return self.is_moderated or is_moderation(self.code, self.type, self.message)


@dataclass(frozen=True)
class RefusalRule:
    """One line of a dialect's table.

    Attributes:
        statuses: HTTP statuses to which it applies.
        types: Types or codes to which it applies, in small letters; empty for any.
        error: Class of the error; None for the class that the status means.
        applies: Further condition on the body.
    """

    statuses: Collection[int]
    types: Collection[str] = ()
    error: type[ProviderError] | None = None
    applies: Callable[[ErrorBody], bool] | None = None

    def matches(self, status: int, body: ErrorBody) -> bool:
        """Return whether the rule applies to a response."""
        if status not in self.statuses or (self.applies is not None and not self.applies(body)):
            return False
        return not self.types or bool({body.type.casefold(), body.code.casefold()} & set(self.types))


ACCOUNT: Final = RefusalRule((401, 402, 403, 429))
"""Key, permission, credit and rate: in the contract's form a refusal whatever its type."""


@dataclass(frozen=True)
class RefusalTable:
    """Table of the error bodies with which a dialect rejects a request.

    Attributes:
        read_body: Reads a decoded error body with its HTTP status; None for one without the contract's form.
        rules: The lines, the most exact first.
    """

    read_body: Callable[[Any, int], ErrorBody | None]
    rules: Sequence[RefusalRule]

    def read_error(
        self, response: httpx.Response, *, provider: str, otherwise: type[ProviderError] | None = None
    ) -> ProviderError:
        """Build the error of an unsuccessful response.

        A rejection has `accepted` False where the table lists the response, and None where it does not. A response
        that names a generation proves no rejection of a submit, whatever else it says: the error carries the id.

        Args:
            response: The response.
            provider: Name of the provider, for the error.
            otherwise: Class of the error where the table does not list the response; None for that of its HTTP status.
        """
        status = response.status_code
        document = decode_body(response)
        body = self.read_body(document, status)
        rule = next((rule for rule in self.rules if body and rule.matches(status, body)), None)
        kind = otherwise or error_for_status(status)
        if rule is not None and body is not None:
            kind = rule.error or error_for_status(status)
            if status in _MAY_BE_MODERATION and body.is_of_policy:
                kind = ContentPolicyError
        error = build_error(kind, _find_message(body, document) or f"HTTP {status}", response, provider=provider)
        error.follows_contract = body is not None
        error.generation_id = find_named_generation(document)
        if rule is not None and isinstance(error, RequestRejected) and error.generation_id is None:
            error.accepted = False
        return error


def to_text(value: Any) -> str:
    """Return a field of an error body as text: a number is converted, anything else counts as empty."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)


def fastapi_message(detail: Any) -> str | None:
    """Return the message in the `detail` of a FastAPI server; None where it has neither of its two forms."""
    if isinstance(detail, str):
        return detail
    if not isinstance(detail, list) or not detail:
        return None
    if not all(isinstance(item, dict) and "msg" in item for item in detail):
        return None
    return "; ".join(_format_validation_error(item) for item in detail)


def _format_validation_error(item: dict[str, Any]) -> str:
    loc = item.get("loc")
    location = ".".join(map(str, loc)) if isinstance(loc, list | tuple) else ""
    return f"{location}: {item['msg']}" if location else str(item["msg"])


def _find_message(body: ErrorBody | None, document: Any) -> str:
    """Return the message of the contract's body, or of a foreign one under the usual names."""
    if body is not None:
        return body.message or body.type or body.code
    if not isinstance(document, dict):
        return ""
    message = document.get("error") or document.get("message") or document.get("detail") or document.get("title")
    return to_text(message.get("message")) if isinstance(message, dict) else to_text(message)
