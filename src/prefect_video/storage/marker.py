"""The marker at a store's root: what tells a store from an empty mount point and from any other store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from prefect_video.errors import StoreError

STORE_MARKER: Final = ".prefect-video-store.json"
"""The marker's name, directly below the store's root."""


class StoreMarker(BaseModel):
    """Content of the marker.

    Attributes:
        store_id: UUID of the store; it stays with the files, wherever they are mounted.
        created_at: When the first file was published there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    store_id: str = Field(min_length=1)
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


def write_marker(store_id: str) -> bytes:
    """Return the content of a marker."""
    return (StoreMarker(store_id=store_id).model_dump_json(indent=2) + "\n").encode()


def parse_marker(content: bytes, url: str) -> str:
    """Return the identity that a marker holds.

    Args:
        content: The marker's bytes.
        url: Address of the store, for the message.

    Raises:
        StoreError: It is not a marker of this version; nobody can tell which store this is.
    """
    try:
        return StoreMarker.model_validate_json(content).store_id
    except ValidationError as error:
        unreadable = StoreError(
            f"store {url}: its marker {STORE_MARKER} cannot be read, so nobody can tell whether it is the store that"
            " the ledger knows: restore the marker from a backup, or remove it and run with --rebuy-missing"
        )
        unreadable.retryable = False
        raise unreadable from error
