"""The status page of the service: what it reads from the ledger, and who may see it."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from prefect_video import __version__
from prefect_video.gallery import AccountLine, JobLine, LimitLine, ServiceStatus, render_status
from prefect_video.ledger import BudgetUsage, Job, Requester, SpendRow, usd_sum
from prefect_video.service.api_tokens import ApiTokens
from prefect_video.service.jobs import Guard
from prefect_video.service.problems import translate_errors
from prefect_video.service.sessions import Sessions
from prefect_video.session import Session

_JOB_LINES: Final = 20
_HEADERS: Final = {
    # The page names its own style and script by their digests; what only a header can say is said here.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_CHALLENGE: Final = 'Basic realm="prefect-video", charset="UTF-8"'
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class StatusPage:
    """Status page of a service.

    Args:
        sessions: The open sessions, one per account.
        guard: Checks tokens.
        tokens: The tokens, whose budgets are shown.
        has_tokens: False where the service has none: the page is then for this machine only.
    """

    def __init__(self, sessions: Sessions, guard: Guard, tokens: ApiTokens, *, has_tokens: bool) -> None:
        self._sessions = sessions
        self._guard = guard
        self._tokens = tokens
        self._has_tokens = has_tokens

    async def show(self, request: Request) -> Response:
        """Answer with the page; a browser asks for a token as the password of any user name.

        Raises:
            HTTPException: The token is missing or does not allow reading; or there is none, and the request comes from
                elsewhere.
        """
        self._require_reader(request)
        status = await translate_errors(self.read())
        return Response(render_status(status), media_type="text/html", headers=_HEADERS)

    async def read(self) -> ServiceStatus:
        """Read the state of the service.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        ledger = self._sessions.sessions[0].ledger
        now = datetime.now(UTC)
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        measured = await ledger.measurements.read()
        month = await ledger.spend.report(by="month", since=today.replace(day=1))
        lags = [item.oldest_event_at for item in measured.accounts if item.oldest_event_at]
        held = await ledger.jobs.find(hold_reason=True, limit=_JOB_LINES + 1)
        degraded = await ledger.jobs.find_degraded(limit=_JOB_LINES + 1)
        return ServiceStatus(
            made_at=now,
            version=__version__,
            today=_describe_spent(await ledger.spend.report(by="day", since=today)),
            month=_describe_spent(month),
            reserved=usd_sum(sum((item.reserved_usd for item in measured.accounts), Decimal(0)), 0),
            webhook_lag_seconds=max(0.0, (now - min(lags)) / timedelta(seconds=1)) if lags else None,
            accounts=tuple([await _read_account(session) for session in self._sessions.sessions]),
            states=await ledger.measurements.count_states(since=today.replace(day=1)),
            limits=await self._read_limits(),
            held=tuple(_list_job(job, job.hold_reason) for job in held[:_JOB_LINES]),
            has_more_held=len(held) > _JOB_LINES,
            degraded=tuple(_list_job(job, job.degraded) for job in degraded[:_JOB_LINES]),
            has_more_degraded=len(degraded) > _JOB_LINES,
        )

    async def _read_limits(self) -> tuple[LimitLine, ...]:
        """Read the budgets of the ledger for each account, and those of tokens."""
        usages: dict[str, BudgetUsage] = {}
        for session in self._sessions.sessions:
            account = session.provider.account.id
            budgets = [budget for budget in session.budgets if budget.limit_usd is not None]
            for usage in await session.ledger.spend.budget_usage(budgets, project="", account=account):
                name = f"account {session.account_name}" if usage.budget.scope == "account" else usage.name
                usages[name] = usage
        ledger = self._sessions.sessions[0].ledger
        for token in self._tokens.all():
            # A limit of its own is needed to count; one without is shown without.
            requester = Requester(name=token.name, monthly_usd=token.monthly_usd or Decimal(0))
            (usage,) = await ledger.spend.budget_usage((), project="", account="", requester=requester)
            usages[f"token {token.name}"] = (
                usage
                if token.monthly_usd is not None
                else usage.model_copy(update={"budget": usage.budget.model_copy(update={"limit_usd": None})})
            )
        return tuple(
            LimitLine(
                name=name,
                spent=usage.describe_spent(),
                reserved=usage.describe_reserved(),
                committed_usd=usage.committed_usd,
                limit_usd=usage.budget.limit_usd,
            )
            for name, usage in usages.items()
        )

    def _require_reader(self, request: Request) -> None:
        if not self._has_tokens:
            if not _is_local(request):
                raise HTTPException(
                    403, "the status page needs a token here: set PREFECT_VIDEO_SERVICE_TOKENS_FILE, or look locally"
                )
            return
        try:
            self._guard.authorize(_read_token(request), "read")
        except HTTPException as refusal:
            if refusal.status_code == 401:
                raise HTTPException(401, "a token with scope `read` is needed", {"WWW-Authenticate": _CHALLENGE}) from (
                    refusal
                )
            raise


async def _read_account(session: Session) -> AccountLine:
    capabilities = session.provider.capabilities
    queue = await session.ledger.queues.read(
        session.provider.account.id, slots=session.account_slots, monthly_videos=capabilities.monthly_videos
    )
    status = queue.status
    health = {
        "closed": "in use",
        "half_open": "in trouble: one submit may try",
        "open": f"in trouble: nothing is sent until {status.open_until:%H:%M} UTC"
        if status.open_until
        else "in trouble",
    }[status.breaker]
    if status.quota_until is not None:
        health = f"quota used up until {status.quota_until:%Y-%m-%d %H:%M} UTC"
    return AccountLine(
        name=session.account_name,
        health=health,
        breaker=status.breaker,
        quota_until=status.quota_until,
        occupied=status.occupied,
        slots=status.slots,
        queued=(queue.queued["high"], queue.queued["normal"], queue.queued["low"]),
        used_videos=queue.used_videos,
        monthly_videos=queue.monthly_videos,
        left_videos=queue.left_videos,
    )


def _list_job(job: Job, detail: str | None) -> JobLine:
    return JobLine(id=job.id, project=job.project, shot=job.shot.id, detail=detail or "")


def _describe_spent(rows: list[SpendRow]) -> str:
    return usd_sum(sum((row.spent_usd for row in rows), Decimal(0)), sum(row.unpriced for row in rows))


def _read_token(request: Request) -> str | None:
    """Return the token of a request: as a bearer token, or as the password that a browser asks for."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None


def _is_local(request: Request) -> bool:
    """Tell whether a request comes from this machine, to this machine's own name, and through no proxy.

    The name counts as that of a page elsewhere may be made to lead here.
    """
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        addresses = [request.client.host if request.client else "", (request.scope.get("server") or ("",))[0]]
        return host in _LOCAL_NAMES and all(ipaddress.ip_address(address).is_loopback for address in addresses)
    except ValueError:
        return False
