"""What keeps an order out: policy, the monthly quota, and a full account."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from itertools import takewhile

from prefect_video.emulator.refusal import Refusal
from prefect_video.emulator.register import Register
from prefect_video.emulator.settings import EmulatorSettings


def check_admission(settings: EmulatorSettings, register: Register, account: str, prompt: str) -> None:
    """Let an order pass, or say why not.

    Raises:
        Refusal: The prompt is against policy, or the account's quota or capacity is used up.
    """
    if breaks_policy(settings, prompt):
        raise Refusal("policy", "Prompt violates content policy")
    check_quota(settings, register, account)
    _check_capacity(settings, register, account)


def breaks_policy(settings: EmulatorSettings, prompt: str) -> bool:
    """Whether a prompt holds a forbidden word."""
    folded = prompt.casefold()
    return any(word.casefold() in folded for word in settings.forbidden)


def check_quota(settings: EmulatorSettings, register: Register, account: str) -> None:
    """Let an order pass while the month's quota lasts.

    Raises:
        Refusal: It is used up.
    """
    if settings.monthly_quota is None:
        return
    now = datetime.now(UTC)
    start, end = month_of(now)
    this_month = takewhile(lambda g: g.created >= start.timestamp(), register.newest_first(account))
    if sum(1 for _ in this_month) >= settings.monthly_quota:
        raise Refusal(
            "quota",
            f"Monthly quota of {settings.monthly_quota} generations used up; it renews on {end:%Y-%m-%d}",
            retry_after=math.ceil((end - now).total_seconds()),
        )


def month_of(now: datetime) -> tuple[datetime, datetime]:
    """When the calendar month of ``now`` started and when the next one starts."""
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if start.month == 12:
        return start, start.replace(year=start.year + 1, month=1)
    return start, start.replace(month=start.month + 1)


def _check_capacity(settings: EmulatorSettings, register: Register, account: str) -> None:
    held = register.unfinished(account)
    if len(held) < settings.capacity:
        return
    wait = settings.retry_after_seconds
    if wait is None:
        wait = max(1, math.ceil(min((g.ends_at for g in held), default=0.0) - time.time()))
    raise Refusal("capacity", f"Maximum concurrent generations reached ({settings.capacity})", retry_after=wait)
