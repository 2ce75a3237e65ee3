"""Keys that are replaced while jobs are in flight; money is what the provider's books say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prefect_video.ledger import Budget, State
from prefect_video.pipeline.cancel import cancel_each
from prefect_video.providers import Provider, with_previous_key
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.recovery import RecoveryHarness, a_shot, collect_with, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness

OLD, NEW, FOREIGN = "sk-emulator", "sk-the-new-one", "sk-of-another-tenant"


@pytest.fixture
def harness(open_harness: OpenHarness) -> RecoveryHarness:
    """An account with an old and a new key, and another tenant at the same address."""
    return open_harness(keys=(OLD, NEW, FOREIGN), shared_accounts={NEW: OLD})


def account(key: str, previous: str | None = None, name: str | None = "main") -> Callable[..., Provider]:
    """Open an account by its key, and by the one that is being replaced."""

    def open_with(**options: Any) -> Provider:
        before = SoraProvider(**{**options, "api_key": previous}) if previous else None
        return with_previous_key(SoraProvider(**{**options, "api_key": key}), before, name=name)

    return open_with


async def test_a_rotation_keeps_rows_budgets_and_breaker(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(1), "submitted", kind=account(OLD))
    await harness.interrupt(a_shot(2), "claimed", kind=account(OLD))
    async with harness.session(kind=account(OLD)) as session:
        await session.ledger.accounts.record_failure(session.provider.account.id, threshold=1, open_seconds=60)
    harness.emulator.revoke_key(OLD)
    async with harness.session(kind=account(NEW)) as session:
        status = await session.ledger.accounts.status(session.provider.account.id)
        assert status.occupied == 1
        assert status.breaker == "open"
        await session.ledger.accounts.record_success(session.provider.account.id)
    two_videos = [Budget(scope="account", limit_videos=2)]
    assert statuses(await harness.run(a_shot(1), kind=account(NEW), budgets=two_videos)) == ["stored"]
    assert statuses(await harness.run(a_shot(2), kind=account(NEW), budgets=two_videos)) == ["stored"]
    third = film(a_shot(3), over_budget="fit")
    assert statuses(await harness.run(third, kind=account(NEW), budgets=two_videos)) == ["over_budget"]
    rows = await harness.rows()
    assert len({row.account for row in rows}) == 1
    assert len({row.key_fingerprint for row in rows}) == 2
    assert harness.paid == (2, 2)


async def test_what_was_sent_without_a_name_is_of_the_account_that_has_its_key(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted", kind=account(OLD, name=None))
    assert statuses(await harness.run(a_shot(), kind=account(NEW, OLD))) == ["stored"]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("on_lost", ["hold", "resubmit"])
async def test_what_another_tenants_key_does_not_know_is_not_lost(harness: RecoveryHarness, on_lost: str) -> None:
    await harness.run(a_shot(9), kind=account(FOREIGN))
    await harness.interrupt(a_shot(), "submitted", kind=account(OLD))
    report = await harness.run(a_shot(), kind=account(FOREIGN), on_lost=on_lost)
    assert statuses(report) == ["held"]
    assert "previous_api_key" in str(report.shots[0].error)
    _, held = await harness.rows()
    assert held.state is State.SUBMITTED
    async with harness.session(kind=account(FOREIGN, OLD)) as session:
        await session.ledger.jobs.unhold(held.id)
        assert [line.outcome for line in await collect_with(session)] == ["stored"]
    assert harness.paid == (2, 2)


async def test_a_stored_video_that_another_tenants_key_does_not_know_is_not_bought_again(
    harness: RecoveryHarness,
) -> None:
    assert statuses(await harness.run(a_shot(), kind=account(OLD))) == ["stored"]
    for video in harness.videos:
        video.unlink()
    assert statuses(await harness.run(a_shot(), kind=account(FOREIGN))) == ["held"]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("on_unknown", ["hold", "resubmit"])
async def test_another_tenants_list_does_not_prove_that_nothing_was_accepted(
    open_harness: OpenHarness, on_unknown: str
) -> None:
    harness = open_harness(keys=(OLD, NEW, FOREIGN), echo_metadata=False)
    await harness.run(a_shot(9), kind=account(FOREIGN))
    harness.emulator.add_fault(operation="submit", kind="error_after")
    await harness.interrupt(a_shot(), "unanswered", kind=account(OLD))
    options = {"settle_seconds": 0.05, "on_unknown": on_unknown}
    assert statuses(await harness.run(a_shot(), kind=account(FOREIGN), **options)) == ["held"]
    assert harness.paid == (2, 2)


async def test_another_tenants_generation_of_the_same_prompt_is_not_taken(open_harness: OpenHarness) -> None:
    harness = open_harness(keys=(OLD, FOREIGN), echo_metadata=False)
    harness.emulator.add_fault(operation="submit", kind="error_after")
    await harness.interrupt(a_shot(), "unanswered", kind=account(OLD))
    other = RecoveryHarness(harness.emulator, harness.folder / "other", f"sqlite:///{harness.folder / 'other.db'}")
    await other.run(a_shot(), kind=account(FOREIGN))
    options = {"settle_seconds": 0.05}
    assert statuses(await harness.run(a_shot(), kind=account(FOREIGN), **options)) == ["held"]
    assert statuses(await harness.run(a_shot(), kind=account(FOREIGN, OLD), **options)) == ["held"]
    async with harness.session(kind=account(FOREIGN, OLD), **options) as session:
        await session.ledger.jobs.unhold((await harness.row()).id)
        assert [line.outcome for line in await collect_with(session)] == ["stored"]
    assert harness.paid == (2, 2)


async def test_a_new_keys_list_proves_absence_once_it_shows_what_the_old_key_has_sent(
    harness: RecoveryHarness,
) -> None:
    harness.emulator.add_fault(operation="submit", kind="error_before", match={"prompt": "scene 1"})
    await harness.interrupt(a_shot(1), "unanswered", kind=account(OLD))
    harness.emulator.revoke_key(OLD)
    options = {"settle_seconds": 0.05}
    assert statuses(await harness.run(a_shot(1), kind=account(NEW), **options)) == ["held"]
    harness.emulator.issue_key(OLD, same_account_as=NEW)
    assert statuses(await harness.run(a_shot(2), kind=account(OLD))) == ["stored"]
    harness.emulator.revoke_key(OLD)
    async with harness.ledger() as ledger:
        await ledger.jobs.unhold((await harness.rows())[0].id)
    assert statuses(await harness.run(a_shot(1), kind=account(NEW), **options)) == ["stored"]
    assert harness.paid == (2, 2)


@pytest.mark.parametrize("refused", [False, True])
async def test_what_the_previous_key_has_sent_is_asked_about_with_it(open_harness: OpenHarness, refused: bool) -> None:
    """The new key is another project's, or does not work yet: it pays for what is new, and the old one for nothing."""
    harness = open_harness(keys=(OLD, FOREIGN), **SLOW)
    await harness.interrupt(a_shot(1), "submitted", kind=account(OLD))
    await harness.interrupt(a_shot(2), "submitted", kind=account(OLD))
    if refused:
        harness.emulator.revoke_key(FOREIGN)
    async with harness.session(kind=account(FOREIGN, OLD), check_access=False) as session:
        await cancel_each(session, [(await harness.rows())[1]])
        assert harness.emulator.usage()["cancelled"] == 1
    harness.emulator.change_speed(500)
    kind = account(FOREIGN, OLD)
    assert statuses(await harness.run(a_shot(1), kind=kind, check_access=False)) == ["stored"]
    report = await harness.run(a_shot(3), kind=kind, check_access=False)
    assert statuses(report) == ["failed" if refused else "stored"]
    by_key = harness.emulator.usage()["by_key"]
    assert by_key[OLD[-4:]]["accepted"] == 2
    assert by_key.get(FOREIGN[-4:], {"accepted": 0})["accepted"] == (0 if refused else 1)


async def test_one_name_at_two_addresses_is_two_accounts(harness: RecoveryHarness, open_harness: OpenHarness) -> None:
    await harness.interrupt(a_shot(), "submitted", kind=account(OLD))
    elsewhere = open_harness(keys=(OLD,))
    moved = RecoveryHarness(elsewhere.emulator, harness.folder, harness.ledger_url)
    assert statuses(await moved.run(a_shot(), kind=account(OLD), on_lost="resubmit")) == ["held"]
    assert moved.paid == (0, 0)
    assert harness.paid == (1, 1)


async def test_one_key_under_two_names_takes_no_generation_twice(open_harness: OpenHarness) -> None:
    harness = open_harness(echo_metadata=False)
    prompt = {"prompt": "a cat, twice", "seed": None}
    assert statuses(await harness.run(a_shot(1, **prompt), kind=account(OLD, name="one"))) == ["stored"]
    harness.emulator.add_fault(operation="submit", kind="error_before")
    report = await harness.run(
        a_shot(1, **prompt), kind=account(OLD, name="two"), environment="staging", settle_seconds=0.05
    )
    assert statuses(report) == ["stored"]
    assert harness.paid == (2, 2)
