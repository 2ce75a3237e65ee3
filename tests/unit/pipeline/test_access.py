"""What can be checked for free shows before anything is claimed, once a session; what is stored needs no provider."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_video.errors import AuthenticationFailed, RequestRejected, StoreError
from prefect_video.pipeline.entry_points import run_project
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.storage.local import LocalStore
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses


class WrongKey(SoraProvider):
    """The right server, with a key that it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "api_key": "sk-not-the-right-one"})


class WrongEndpoint(SoraProvider):
    """A server that has no such dialect at this path."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "endpoint": f"{options['endpoint']}/nowhere"})


async def test_a_wrong_key_is_reported_before_anything_is_claimed(harness: RecoveryHarness) -> None:
    with pytest.raises(AuthenticationFailed, match="PREFECT_VIDEO_EMULATOR_KEY") as refused:
        await harness.run(film(a_shot(1), a_shot(2)), kind=WrongKey)
    assert "sk-not-the-right-one" not in str(refused.value)
    assert harness.emulator.usage()["submitted"] == 0
    assert await harness.rows() == []


@pytest.mark.parametrize("status", [301, 403, 404, 409])
@pytest.mark.parametrize("foreign", ["html", "json", "empty"])
async def test_a_wrong_endpoint_is_reported_before_anything_is_claimed(
    harness: RecoveryHarness, status: int, foreign: str
) -> None:
    harness.emulator.add_fault(
        operation="list", kind="foreign_answer", foreign=foreign, foreign_status=status, times=None
    )
    with pytest.raises(RequestRejected, match="ENDPOINT"):
        await harness.run(a_shot())
    assert harness.emulator.usage()["submitted"] == 0
    assert await harness.rows() == []


async def test_a_page_that_is_no_list_is_no_provider(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="list", kind="wrong_content", times=None)
    with pytest.raises(RequestRejected, match="ENDPOINT"):
        await harness.run(a_shot())
    assert await harness.rows() == []


@pytest.mark.parametrize("kind", ["error_before", "reset_before", "rate_limited", "list_off"])
async def test_a_trouble_that_may_pass_does_not_fail_a_run(harness: RecoveryHarness, kind: str) -> None:
    harness.emulator.add_fault(operation="list", kind=kind, times=None, retry_after=0)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_lapse_of_a_gateway_does_not_fail_a_run(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="list", kind="foreign_answer", foreign_status=403)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_it_is_checked_once_a_session_and_not_for_what_is_stored(harness: RecoveryHarness) -> None:
    shots = film(*(a_shot(number) for number in range(3)))
    assert statuses(await harness.run(shots)) == ["stored"] * 3
    listed = harness.emulator.usage()["requests"]["list"]
    assert statuses(await harness.run(shots, kind=WrongKey)) == ["stored"] * 3
    assert harness.emulator.usage()["requests"]["list"] == listed


async def test_the_store_is_checked_once_a_session(harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[LocalStore] = []

    async def check(store: LocalStore) -> None:
        await real(store)
        checks.append(store)

    real = LocalStore.check
    monkeypatch.setattr(LocalStore, "check", check)
    async with harness.session() as session:
        for number in (1, 2):
            assert statuses(await run_project(session, film(a_shot(number)))) == ["stored"]
        assert checks == [session.store]


async def test_a_spool_that_others_may_write_to_is_reported_before_anything_is_claimed(
    harness: RecoveryHarness,
) -> None:
    spool = harness.folder / "spool"
    spool.mkdir()
    spool.chmod(0o777)
    with pytest.raises(StoreError, match=r"cannot use the spool folder .*others may write to it"):
        await harness.run(a_shot())
    assert harness.emulator.usage()["submitted"] == 0
    assert await harness.rows() == []


async def test_it_can_be_switched_off(harness: RecoveryHarness) -> None:
    report = await harness.run(a_shot(), kind=WrongKey, check_access=False)
    assert statuses(report) == ["failed"]
    assert harness.emulator.usage()["accepted"] == 0
