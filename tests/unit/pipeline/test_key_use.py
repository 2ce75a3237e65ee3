"""Age and last use of keys, spending by key, and environments side by side."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import update

from prefect_video.cli import main
from prefect_video.cli.key_checks import check_keys
from prefect_video.ledger import Budget, KeyUse
from prefect_video.ledger.tables import account_keys
from prefect_video.pipeline.entry_points import run_project
from prefect_video.session import Session
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness
from tests.unit.pipeline.test_key_rotation import NEW, OLD, account


@pytest.fixture
def harness(open_harness: OpenHarness) -> RecoveryHarness:
    """An account with an old and a new key."""
    return open_harness(keys=(OLD, NEW), shared_accounts={NEW: OLD})


async def make_old(session: Session, days: int) -> None:
    """Let all keys have been used for the first time so many days ago."""
    began = datetime.now(UTC) - timedelta(days=days)
    async with session.ledger.keys._database.writing() as connection:
        await connection.execute(update(account_keys).values(first_used_at=began))


async def make_unused_for(session: Session, hours: int) -> None:
    """Let all keys have been used for the last time so many hours ago."""
    last = datetime.now(UTC) - timedelta(hours=hours)
    async with session.ledger.keys._database.writing() as connection:
        await connection.execute(update(account_keys).values(last_used_at=last))


async def test_spending_is_known_by_key(harness: RecoveryHarness) -> None:
    await harness.run(a_shot(1), kind=account(OLD))
    await harness.run(film(a_shot(2), a_shot(3)), kind=account(NEW))
    async with harness.session(kind=account(NEW, OLD)) as session:
        keys = session.provider.account
        lines = {line.key: line for line in await session.ledger.spend.report(by="key")}
        assert lines.keys() == {keys.key_fingerprint, keys.previous_key_fingerprint}
        assert lines[keys.key_fingerprint].videos == 2
        billed = Decimal(harness.emulator.usage()["billed_usd"])
        assert sum(line.spent_usd for line in lines.values()) == billed
        for key in (OLD, NEW):
            assert key not in repr([*lines, await session.ledger.keys.uses(keys.id), keys])


async def test_the_command_shows_spending_by_key(harness: RecoveryHarness, capsys: pytest.CaptureFixture[str]) -> None:
    await harness.run(a_shot(1), kind=account(OLD))
    await harness.run(film(a_shot(2), a_shot(3)), kind=account(NEW))
    async with harness.session(kind=account(NEW, OLD)) as session:
        keys = session.provider.account
    # A command runs an event loop of its own.
    command = ["spend", "--by", "key", "--ledger", harness.ledger_url, "--json"]
    assert await asyncio.to_thread(main, command) == 0
    answer = json.loads(capsys.readouterr().out)
    spent = {line["key"]: Decimal(str(line["spent_usd"])) for line in answer["lines"]}
    usage = harness.emulator.usage()
    first, second, third = (Decimal(usage["by_prompt"][a_shot(number).prompt]["billed_usd"]) for number in (1, 2, 3))
    assert spent == {keys.previous_key_fingerprint: first, keys.key_fingerprint: second + third}
    assert Decimal(str(answer["spent_usd"])) == Decimal(usage["billed_usd"]) > 0


async def test_the_last_use_of_a_key_is_noted_and_the_first_one_stays(harness: RecoveryHarness) -> None:
    await harness.run(a_shot(1), kind=account(OLD))
    async with harness.session(kind=account(OLD)) as session:
        await make_old(session, 3)
        await make_unused_for(session, 2)
        (before,) = await session.ledger.keys.uses(session.provider.account.id)
    await harness.run(a_shot(2), kind=account(OLD))
    async with harness.session(kind=account(OLD)) as session:
        (after,) = await session.ledger.keys.uses(session.provider.account.id)
    assert datetime.now(UTC) - before.last_used_at >= timedelta(hours=2)
    assert datetime.now(UTC) - after.last_used_at < timedelta(minutes=1)
    assert after.first_used_at == before.first_used_at


async def test_an_old_key_is_reminded_of_once_a_day_by_all_processes(harness: RecoveryHarness) -> None:
    reminded: list[KeyUse] = []
    assert statuses(await harness.run(a_shot(1), kind=account(OLD))) == ["stored"]
    async with harness.session(kind=account(OLD)) as session:
        await make_old(session, 89)
        session.on_old_key = reminded.append
        await run_project(session, film(a_shot(2)))
        (age,) = await check_keys(session)
        assert (age.ok, "89 days" in age.detail) == (True, True)
        assert reminded == [], "it is not old yet"
        await make_old(session, 91)
    for number in (3, 4):
        async with harness.session(kind=account(OLD)) as session:
            session.on_old_key = reminded.append
            await run_project(session, film(a_shot(number)))
            (age,) = await check_keys(session)
            assert (age.ok, "91 days" in age.detail) == (False, True)
            assert "; used last " in age.detail
    assert [use.age.days for use in reminded] == [91]
    async with harness.session(kind=account(NEW)) as session:
        (age,) = await check_keys(session)
        assert age.ok


async def test_doctor_sees_what_a_former_key_has_in_progress(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(1), "submitted", kind=account(OLD))
    async with harness.session(kind=account(NEW)) as session:
        _, former = await check_keys(session)
        assert (former.ok, "1 job in progress" in former.detail) == (False, True)
    async with harness.session(kind=account(NEW, OLD)) as session:
        _, former = await check_keys(session)
        assert former.ok


async def test_environments_side_by_side_have_budgets_and_accounts_of_their_own(harness: RecoveryHarness) -> None:
    one_video = [Budget(scope="environment", limit_videos=1)]
    for environment in ("development", "staging", "production"):
        options = {"kind": account(OLD, name=environment), "environment": environment, "budgets": one_video}
        assert statuses(await harness.run(a_shot(1), **options)) == ["stored"]
        second = film(a_shot(2), over_budget="fit")
        assert statuses(await harness.run(second, **options)) == ["over_budget"]
    assert len({row.account for row in await harness.rows()}) == 3
    async with harness.ledger() as ledger:
        assert [line.videos for line in await ledger.spend.report(by="environment")] == [1, 1, 1]
    assert harness.paid == (3, 3)
