"""`doctor`: checks of everything that a run needs, with a fix for each that fails."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

from cyclopts import Parameter

from prefect_video import __version__
from prefect_video._counted import counted
from prefect_video.cli.check_result import Check, describe_fault, run_checks
from prefect_video.cli.key_checks import check_keys
from prefect_video.cli.operation_checks import check_operation
from prefect_video.cli.options import JsonFlag, SessionOptions
from prefect_video.cli.output import DONE, FAILED, escape, print_json, stdout
from prefect_video.cli.prefect_startup import PrefectUnavailable, ensure_api
from prefect_video.cli.sessions import open_ledger, use_provider, use_session, use_store
from prefect_video.errors import AuthenticationFailed, InvalidInput, InvalidResponse, RequestRejected, VideoError
from prefect_video.providers import Provider
from prefect_video.session import DEFAULT_IN_FLIGHT, Session, SessionRef
from prefect_video.storage import Store

FASTAPI_LIMIT: Final = (0, 151)
PREFECT_NEEDED: Final = (3, 8, 6)
PYTHON_NEEDED: Final = (3, 11)


FixFlag = Annotated[
    bool,
    Parameter(
        negative="", show_default=False, help="Create what is missing: the concurrency limit that the settings name."
    ),
]


_ADVICE: Final = {
    "litellm": (
        "set `router_settings: {num_retries: 0}` in the proxy's configuration: its router sends a submit again by"
        " itself, and each may be paid at the server behind it, unseen"
    )
}
"""What an operator has to set at a provider, by its name."""
_LEDGER_FIX: Final = "give another with --ledger or PREFECT_VIDEO_LEDGER_URL"
_STORE_FIX: Final = "give another with --store or PREFECT_VIDEO_STORE"


def doctor(
    *,
    session: SessionOptions = SessionOptions(),  # noqa: B008 -- frozen
    fix: FixFlag = False,
    json: JsonFlag = False,
) -> int:
    """Check versions, provider, store, ledger and Prefect's API, and say what to fix. Spends nothing.

    Exit status 1 when something must be fixed.

    Try:

        prefect-video doctor

        prefect-video doctor --provider sora --store s3://films/ads
    """
    ref = session.ref()
    api = _check_prefect_api()
    checks = [*_check_versions(), api, *asyncio.run(_check_session(ref, fix=fix))]
    if api.ok:
        checks += _check_fleet()
    healthy = all(check.ok for check in checks)
    if json:
        print_json({"ok": healthy, "checks": [check.model_dump() for check in checks]})
    else:
        _show(checks)
    return DONE if healthy else FAILED


def _show(checks: list[Check]) -> None:
    console = stdout()
    for check in checks:
        mark = "[green]✓[/]" if check.ok else "[red]✗[/]"
        console.print(f"{mark} [bold]{check.name}[/]: {escape(check.detail)}", soft_wrap=True)
        if not check.ok and check.fix:
            console.print(f"  → {escape(check.fix)}", soft_wrap=True)


def _check_versions() -> list[Check]:
    python = sys.version_info[:2]
    return [
        Check(name="prefect-video", ok=True, detail=__version__),
        Check(
            name="python",
            ok=python >= PYTHON_NEEDED,
            detail=platform.python_version(),
            fix="use Python 3.11 or newer",
        ),
        _check_package("prefect", lambda found: PREFECT_NEEDED <= found < (4,), "pip install 'prefect>=3.8.6,<4'"),
        _check_package(
            "fastapi", lambda found: found < FASTAPI_LIMIT, "pip install 'fastapi<0.151': Prefect's server needs it"
        ),
    ]


def _check_package(name: str, fits: Callable[[tuple[int, ...]], bool], fix: str) -> Check:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name=name, ok=False, detail="not installed", fix=fix)
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    return Check(name=name, ok=fits(numbers), detail=found, fix=fix)


def _check_prefect_api() -> Check:
    try:
        ensure_api()
    except InvalidInput as error:
        return Check(name="prefect API", ok=False, detail="not called", fix=str(error))
    except PrefectUnavailable as error:
        return Check(name="prefect API", ok=False, detail="no answer", fix=str(error))
    except Exception as error:  # noqa: BLE001 -- Prefect is broken or set wrongly; the other findings are shown
        return Check(name="prefect API", ok=False, detail="Prefect cannot be used", fix=describe_fault(error))
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    return Check(name="prefect API", ok=True, detail=url or "embedded server, started when needed")


def _check_fleet() -> list[Check]:
    """Check what is deployed; nothing is deployed on the embedded server, which no worker reaches."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return []
    from prefect_video.cli.fleet_checks import check_fleet

    return asyncio.run(check_fleet())


async def _check_session(ref: SessionRef, *, fix: bool) -> list[Check]:
    ledger = await _attempt("ledger", lambda: _check_ledger(ref), _LEDGER_FIX)
    try:
        async with use_session(ref) as session:
            return [*await _check_open_session(ref, session, fix=fix), ledger]
    except Exception as error:  # noqa: BLE001 -- whatever is wrong, the other findings are shown
        fault = Check(name="session", ok=False, detail="cannot be opened", fix=describe_fault(error))
    parts = [*await _check_parts(ref), ledger]
    return [*parts, fault] if all(part.ok for part in parts) else parts


async def _check_open_session(ref: SessionRef, session: Session, *, fix: bool) -> list[Check]:
    async def check_store() -> list[Check]:
        return [await _attempt("store", lambda: _check_store(session.store, session.store_name), _STORE_FIX)]

    checks: dict[str, Callable[[], Awaitable[list[Check]]]] = {
        "provider": lambda: _check_provider(ref, session.provider),
        "account": lambda: _check_account(session),
        "key age": lambda: check_keys(session),
        "quota": lambda: _check_quota(session),
        "concurrency limit": lambda: _check_concurrency_limit(session, create=fix),
        "operation": lambda: check_operation(session),
        "store": check_store,
    }
    return await run_checks(checks)


async def _check_parts(ref: SessionRef) -> list[Check]:
    """Check each part by itself where they cannot be opened together: the first fault hides no other."""

    async def open_store() -> str:
        async with use_store(ref.store) as store:
            return await _check_store(store, ref.store)

    try:
        async with use_provider(ref.provider) as opened:
            provider = await _check_provider(ref, opened)
    except Exception as error:  # noqa: BLE001 -- whatever is wrong, the other findings are shown
        fix = describe_fault(error)
        # What cannot be opened gives no key.
        key = Check(name="key", ok=False, detail=f"none that can be used, {_key_source(ref)}", fix=fix)
        provider = [key, Check(name="provider", ok=False, detail=ref.provider, fix=fix)]
    return [*provider, await _attempt("store", open_store, _STORE_FIX)]


def _key_source(ref: SessionRef) -> str:
    return f"from the block {ref.provider}" if "/" in ref.provider else "from the environment"


async def _check_provider(ref: SessionRef, provider: Provider) -> list[Check]:
    """Check the key of a provider that can be opened, and that the provider answers and accepts it."""
    address = f"{provider.name} at {provider.account.base_url} (account {provider.account.id})"
    source = _key_source(ref)
    if ref.provider == "emulator":
        source = "none needed: the emulator makes test pictures, at no cost"
    key = Check(name="key", ok=True, detail=source)
    try:
        access = await _check_access(provider, address)
        if not access.ok:
            key = Check(name="key", ok=True, detail=f"{source}, not checked")
    except AuthenticationFailed as error:
        fix = f"{error}; correct the key"
        key = Check(name="key", ok=False, detail=f"refused, {source}", fix=fix)
        access = Check(name="provider", ok=False, detail=address, fix=fix)
    return [key, access, *_advise(provider)]


async def _check_access(provider: Provider, address: str) -> Check:
    try:
        # What a run reads before its first claim, and what it needs where a submit has had no answer.
        await provider.check_access()
        if provider.capabilities.can_list:
            async for _ in provider.list():
                break
    except AuthenticationFailed:
        raise
    except (RequestRejected, InvalidResponse) as error:
        if not error.follows_contract:
            # Another server, or one in between: a run would be refused too.
            return Check(name="provider", ok=False, detail=address, fix=f"{error}; check the endpoint")
        # Some servers do not list; that they answered is what matters.
        return Check(name="provider", ok=True, detail=f"{address}; it does not list generations ({error})")
    except VideoError as error:
        return Check(name="provider", ok=False, detail=address, fix=f"{error}; check the endpoint")
    return Check(name="provider", ok=True, detail=address)


def _advise(provider: Provider) -> list[Check]:
    """Return what is to be set on the provider's side, and cannot be seen from here."""
    advice = _ADVICE.get(provider.name)
    return [] if advice is None else [Check(name="advice", ok=True, detail=advice)]


async def _check_account(session: Session) -> list[Check]:
    status = await session.ledger.accounts.status(session.provider.account.id, slots=session.account_slots)
    slots = f"{status.occupied} of {status.slots or 'unlimited'} slots taken"
    if status.quota_until:
        detail = f"{slots}; the quota is used up until {status.quota_until:%Y-%m-%d %H:%M} UTC"
        fix = "wait for the next period, or use another account"
        return [Check(name="account", ok=False, detail=detail, fix=fix)]
    if status.breaker != "closed":
        detail = (
            f"{slots}; breaker {status.breaker.replace('_', ' ')} after {counted(status.failures, 'failure')} in a row"
        )
        fix = f"the provider fails repeatedly; the next submit is tried at {status.open_until:%H:%M:%S} UTC"
        return [Check(name="account", ok=False, detail=detail, fix=fix)]
    return [Check(name="account", ok=True, detail=f"{slots}, breaker closed")]


async def _check_quota(session: Session) -> list[Check]:
    """Show what the plan leaves of the month, and who waits for a slot at which priority."""
    monthly_videos = session.provider.capabilities.monthly_videos
    account = session.provider.account.id
    queue = await session.ledger.queues.read(account, slots=session.account_slots, monthly_videos=monthly_videos)
    limit = "" if monthly_videos is None else f" of {monthly_videos:,}"
    waiting = ", ".join(f"{number:,} {priority}" for priority, number in queue.queued.items() if number)
    detail = f"{queue.used_videos:,}{limit} this month; waiting to be sent: {waiting or 'none'}"
    fix = (
        f"wait until {queue.resets_at:%Y-%m-%d}, use another account, or name what to give up under `fallbacks:` in the"
        " project"
    )
    return [Check(name="quota", ok=queue.left_videos != 0, detail=detail, fix=fix)]


async def _check_concurrency_limit(session: Session, *, create: bool) -> list[Check]:
    name = session.settings.concurrency_limit
    if name is None:
        return []
    import httpx
    from prefect.exceptions import PrefectException

    try:
        found = await _read_limit(name, create_with=session.account_slots or DEFAULT_IN_FLIGHT if create else None)
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        # The client raises RuntimeError when no server answers at all.
        detail = f"{name!r} cannot be read: {error or type(error).__name__}"
        return [Check(name="concurrency limit", ok=False, detail=detail, fix="make sure that Prefect's API answers")]
    if found is None:
        fix = "run the same command with --fix, which creates it; runs fail without it"
        return [Check(name="concurrency limit", ok=False, detail=f"{name!r} does not exist", fix=fix)]
    return [Check(name="concurrency limit", ok=True, detail=f"{name!r}: {found.active_slots} of {found.limit} taken")]


async def _read_limit(name: str, *, create_with: int | None) -> Any:
    """Return Prefect's limit of a name, None when there is none; one that an operator has set is left as it is."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            return await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            if create_with is None:
                return None
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=create_with))
        return await client.read_global_concurrency_limit_by_name(name)


async def _check_store(store: Store, name: str) -> str:
    await store.check()
    return f"{name} can be written"


async def _check_ledger(ref: SessionRef) -> str:
    async with open_ledger(ref.ledger) as ledger:
        await ledger.check()
        return f"{ledger.url_label} can be written"


async def _attempt(name: str, work: Callable[[], Awaitable[str]], fix: str) -> Check:
    try:
        return Check(name=name, ok=True, detail=await work())
    except Exception as error:  # noqa: BLE001 -- whatever is wrong, the other findings are shown
        return Check(name=name, ok=False, detail=describe_fault(error), fix=fix)
