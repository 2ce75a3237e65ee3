"""Checks of `doctor` that look at a running operation: clocks, the address of webhooks, what waits for a human."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import httpx

from prefect_video._counted import counted
from prefect_video._tls import trusted_certificates
from prefect_video.cli.check_result import Check
from prefect_video.ledger import HoldReason, Ledger, command_line
from prefect_video.session import Session

_LEDGER_OFFSET: Final = timedelta(seconds=5)
"""Leases, queues and deadlines of several machines go by their own clocks."""
_PROVIDER_OFFSET: Final = timedelta(seconds=60)
"""Providers' clocks need only be near: dates are whole seconds, and their servers differ."""
_WEBHOOK_SECONDS: Final = 10.0
_DEGRADED_LIMIT: Final = 100


async def check_operation(session: Session) -> list[Check]:
    """Check what an open session shows of the operation that it is part of."""
    return [
        await _check_held(session.ledger),
        await _check_degraded(session.ledger),
        await _check_ledger_clock(session.ledger),
        *await _check_connections(session.ledger),
        *_check_provider_clock(session),
        *await _check_webhook_address(session),
    ]


async def _check_held(ledger: Ledger) -> Check:
    held = (await ledger.measurements.read()).held
    # What was given up is decided, and is held only so that no run buys it again.
    waiting = {reason: number for reason, number in held.items() if reason != HoldReason.GIVEN_UP}
    if not waiting:
        return Check(name="held jobs", ok=True, detail="none waits for a decision")
    reasons = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in sorted(waiting.items()))
    fix = f"decide each: {command_line('jobs', '--held', ledger=ledger.command_option)}"
    return Check(name="held jobs", ok=False, detail=f"{sum(waiting.values())} wait for a decision: {reasons}", fix=fix)


async def _check_degraded(ledger: Ledger) -> Check:
    """Say what fallbacks and adaptations have given up this month; a project that allows them is no fault."""
    found = await ledger.jobs.find_degraded(limit=_DEGRADED_LIMIT)
    detail = "no video of this month differs from its request"
    if found:
        newest = found[0]
        more = " or more" if len(found) == _DEGRADED_LIMIT else ""
        detail = (
            f"{counted(len(found), 'video')}{more} of this month made otherwise than requested,"
            f" the newest {newest.project}/{newest.shot.id}: {newest.degraded}"
        )
    return Check(name="degraded videos", ok=True, detail=detail)


async def _check_ledger_clock(ledger: Ledger) -> Check:
    before = datetime.now(UTC)
    there = await ledger.now()
    after = datetime.now(UTC)
    # Half of the way is the best guess of when the ledger has looked at its clock, and may be wrong by half.
    offset = there - (before + (after - before) / 2)
    return _check_offset("clock of the ledger", offset, _LEDGER_OFFSET + (after - before) / 2)


async def _check_connections(ledger: Ledger) -> list[Check]:
    usage = await ledger.connection_usage()
    if usage is None:
        return []
    detail = (
        f"{usage.open} of {usage.allowed} open ({usage.own} of prefect-video);"
        f" each process with this ledger, {usage.processes} now, may open {usage.each}"
    )
    fix = f"{usage.needed} may be needed: raise max_connections, or add ?pool_size=2 (5 by default) to the ledger's URL"
    return [Check(name="connections", ok=usage.fits, detail=detail, fix=fix)]


def _check_provider_clock(session: Session) -> list[Check]:
    """Compare this machine's clock with the date of the provider's last response, where it has sent one."""
    # Not of the contract: a provider need not be a server.
    offset: timedelta | None = getattr(session.provider, "clock_offset", None)
    return [] if offset is None else [_check_offset(f"clock of {session.provider.name}", offset, _PROVIDER_OFFSET)]


def _check_offset(name: str, offset: timedelta, allowed: timedelta) -> Check:
    seconds = offset.total_seconds()
    detail = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    fix = "let time synchronisation (NTP) run on this machine and on the other one"
    return Check(name=name, ok=abs(offset) <= allowed, detail=detail, fix=fix)


async def _check_webhook_address(session: Session) -> list[Check]:
    """Send to the address what `serve` must refuse: only it answers an unsigned delivery with 401."""
    if session.settings.webhook_url is None:
        return []
    address = f"{session.settings.webhook_url.rstrip('/')}/webhooks/{session.provider.name}"
    try:
        async with httpx.AsyncClient(verify=trusted_certificates(), timeout=_WEBHOOK_SECONDS) as client:
            response = await client.post(address, content=b"{}")
    except httpx.HTTPError as error:
        detail = f"{address}: no answer ({str(error) or type(error).__name__})"
        fix = "run prefect-video serve there, or correct PREFECT_VIDEO_WEBHOOK_URL"
        return [Check(name="webhook address", ok=False, detail=detail, fix=fix)]
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return [Check(name="webhook address", ok=True, detail=f"{address} answers, and refuses what is not signed")]
    detail = f"{address}: HTTP {response.status_code} to an unsigned delivery, where serve answers 401"
    fix = f"let the address lead to a prefect-video serve that has the account {session.account_name}"
    return [Check(name="webhook address", ok=False, detail=detail, fix=fix)]
