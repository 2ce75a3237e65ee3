"""The record of one check of `doctor`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Check(BaseModel):
    """The result of one check.

    Attributes:
        name: The part that was checked.
        ok: True if it is as a run needs it.
        detail: The finding.
        fix: The next step if it is not.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    ok: bool
    detail: str
    fix: str | None = None
