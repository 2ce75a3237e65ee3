"""Marker file at a store's root; it distinguishes a store from an empty mount point and from any other store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from prefect_video.errors import StoreError

STORE_MARKER: Final = ".prefect-video-store.json"
"""Name of the marker, directly below the store's root."""


class StoreMarker(BaseModel):
    """Content of the marker.

    Attributes:
        schema_version: Version of this format.
        store_id: UUID of the store; it stays with the files, wherever they are mounted.
        created_at: Time at which the marker was written.
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
        StoreError: It is not a marker of this version, so the store cannot be identified.
    """
    try:
        return StoreMarker.model_validate_json(content).store_id
    except ValidationError as error:
        invalid_marker = StoreError(
            f"store {url}: its marker {STORE_MARKER} cannot be read, so it is unknown whether this is the store that"
            " the ledger knows: restore the marker from a backup, or remove it and run with --rebuy-missing"
        )
        invalid_marker.retryable = False
        raise invalid_marker from error
