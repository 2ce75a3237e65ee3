"""Checks of `doctor` that look at an account's keys: their age, and what was sent with a former one."""

from __future__ import annotations

from prefect_video._counted import counted
from prefect_video.cli.check_result import Check
from prefect_video.ledger import KeyUse
from prefect_video.session import Session


async def check_keys(session: Session) -> list[Check]:
    """Check the age of the key in use, and that the keys of what is in progress are at hand."""
    account, ledger = session.provider.account, session.ledger
    if account.key_fingerprint == account.id:
        # A provider without keys, such as the embedded emulator.
        return []
    uses = {use.key_fingerprint: use for use in await ledger.keys.uses(account.id)}
    in_progress = await ledger.keys.unfinished_by_key(account.id)
    others = await ledger.keys.other_accounts(account.id, account.key_fingerprint)
    age = _check_age(account.key_fingerprint, uses.get(account.key_fingerprint), session, others)
    former = (key for key in in_progress if key is not None and key != account.key_fingerprint)
    return [age, *(_check_former(key, in_progress[key], session) for key in sorted(former))]


def _check_age(key_fingerprint: str, use: KeyUse | None, session: Session, others: list[str]) -> Check:
    shared = f"; it is used as {', '.join(others)} too, with slots and limits of its own" if others else ""
    if use is None:
        return Check(name="key age", ok=True, detail=f"key {key_fingerprint} has sent nothing yet{shared}")
    detail = (
        f"key {key_fingerprint} is in use for {counted(use.age.days, 'day')}, since {use.first_used_at:%Y-%m-%d};"
        f" used last {use.last_used_at:%Y-%m-%d %H:%M} UTC{shared}"
    )
    if use.age.days < session.settings.key_reminder_days:
        return Check(name="key age", ok=True, detail=detail)
    fix = "replace it: make a new key at the provider, save it, and keep the former one as previous_api_key for a while"
    return Check(name="key age", ok=False, detail=detail, fix=fix)


def _check_former(key_fingerprint: str, jobs: int, session: Session) -> Check:
    detail = f"{counted(jobs, 'job')} in progress sent with key {key_fingerprint}"
    if session.provider.account.has_key(key_fingerprint):
        return Check(
            name="previous key", ok=True, detail=f"{detail}: keep it as previous_api_key until they are stored"
        )
    fix = "where the new key does not know them, set that key as previous_api_key until they are stored"
    return Check(name="previous key", ok=False, detail=f"{detail}, which is not at hand", fix=fix)
