"""Records of what a set-up has changed, or would change."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Outcome(StrEnum):
    """Outcome for one object in Prefect; in a dry run, the one that it would have."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    MISSING = "missing"


class Change(BaseModel):
    """One object in Prefect, and what a set-up did about it.

    Attributes:
        kind: Kind of object, such as `work pool`.
        name: Its name.
        outcome: Outcome for it; what is `missing` has to be mended by hand.
        detail: What differs, or the next step.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    outcome: Outcome
    detail: str = ""
