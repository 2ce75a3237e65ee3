"""A wrong endpoint or key shows before anything is claimed, in a free read; what is stored needs no provider."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_video.errors import AuthenticationFailed, RequestRefused
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.recovery import Workshop, a_shot, film, statuses


class WrongKey(SoraProvider):
    """The right server, with a key that it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "api_key": "sk-not-the-right-one"})


class WrongEndpoint(SoraProvider):
    """A server that has no such dialect at this path."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "endpoint": f"{options['endpoint']}/nowhere"})


async def test_a_wrong_key_is_told_before_anything_is_claimed(workshop: Workshop) -> None:
    with pytest.raises(AuthenticationFailed, match="PREFECT_VIDEO_EMULATOR_KEY") as refused:
        await workshop.run(film(a_shot(1), a_shot(2)), kind=WrongKey)
    assert "sk-not-the-right-one" not in str(refused.value)
    assert workshop.emulator.books()["submitted"] == 0
    assert await workshop.rows() == []


@pytest.mark.parametrize("status", [301, 403, 404, 409])
@pytest.mark.parametrize("foreign", ["html", "json", "empty"])
async def test_a_wrong_endpoint_is_told_before_anything_is_claimed(
    workshop: Workshop, status: int, foreign: str
) -> None:
    workshop.emulator.add_fault(
        operation="list", kind="foreign_answer", foreign=foreign, foreign_status=status, times=None
    )
    with pytest.raises(RequestRefused, match="ENDPOINT"):
        await workshop.run(a_shot())
    assert workshop.emulator.books()["submitted"] == 0
    assert await workshop.rows() == []


async def test_a_page_that_is_no_list_is_no_provider(workshop: Workshop) -> None:
    workshop.emulator.add_fault(operation="list", kind="wrong_content", times=None)
    with pytest.raises(RequestRefused, match="ENDPOINT"):
        await workshop.run(a_shot())
    assert await workshop.rows() == []


@pytest.mark.parametrize("kind", ["error_before", "reset_before", "rate_limited", "list_off"])
async def test_a_trouble_that_may_pass_does_not_fail_a_run(workshop: Workshop, kind: str) -> None:
    workshop.emulator.add_fault(operation="list", kind=kind, times=None, retry_after=0)
    assert statuses(await workshop.run(a_shot())) == ["stored"]
    assert workshop.paid == (1, 1)


async def test_a_lapse_of_a_gateway_does_not_fail_a_run(workshop: Workshop) -> None:
    workshop.emulator.add_fault(operation="list", kind="foreign_answer", foreign_status=403)
    assert statuses(await workshop.run(a_shot())) == ["stored"]
    assert workshop.paid == (1, 1)


async def test_it_is_asked_once_a_session_and_not_for_what_is_stored(workshop: Workshop) -> None:
    shots = film(*(a_shot(number) for number in range(3)))
    assert statuses(await workshop.run(shots)) == ["stored"] * 3
    listed = workshop.emulator.books()["requests"]["list"]
    assert statuses(await workshop.run(shots, kind=WrongKey)) == ["stored"] * 3
    assert workshop.emulator.books()["requests"]["list"] == listed


async def test_it_can_be_switched_off(workshop: Workshop) -> None:
    report = await workshop.run(a_shot(), kind=WrongKey, check_access=False)
    assert statuses(report) == ["failed"]
    assert workshop.emulator.books()["accepted"] == 0
