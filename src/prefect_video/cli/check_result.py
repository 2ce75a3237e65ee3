"""The record of one check of `doctor`, and running checks so that a fault of one hides no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from pydantic import BaseModel, ConfigDict

from prefect_video.errors import VideoError


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


async def run_checks(checks: Mapping[str, Callable[[], Awaitable[list[Check]]]]) -> list[Check]:
    """Run checks one after the other; one that cannot be done is a finding of its own, by its name."""
    found: list[Check] = []
    for name, check in checks.items():
        try:
            found += await check()
        except Exception as error:  # noqa: BLE001 -- whatever is wrong, the other findings are shown
            found.append(Check(name=name, ok=False, detail="cannot be checked", fix=describe_fault(error)))
    return found


def describe_fault(error: Exception) -> str:
    """Describe an error for a check; of one that is not expected, its type too."""
    return str(error) if isinstance(error, VideoError) else f"{type(error).__name__}: {error}".rstrip(": ")
