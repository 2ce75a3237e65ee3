"""Evidence about an unanswered submit, on every provider: by the emulator's usage, nothing is bought twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import update

from prefect_video.emulator import Emulator
from prefect_video.errors import HeldForReview, InvalidResponse, SubmitOutcomeUnknown
from prefect_video.generations import Generation, RecordedGeneration
from prefect_video.ledger import Job, State
from prefect_video.ledger.tables import jobs_table
from prefect_video.projects import Project
from prefect_video.providers.base import Provider
from tests.integration.providers.test_projects import SessionOpener, made, open_session, statuses
from tests.support.accounts import TestAccount
from tests.unit.providers.known import known

__all__ = ["open_session"]

PROMPT = "a cafe\u0301  by the   Sea, seen from the roof of a house"
USUAL = {"echo_prompt": "exact", "echo_metadata": True, "clock_offset_seconds": 0.0, "ids": "random"}


@pytest.fixture(autouse=True)
def usual_habits(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.change_settings(**USUAL)


def one_shot(account: TestAccount, **changes: Any) -> Project:
    return Project(name="film", shots=(account.a_shot(**{"prompt": PROMPT, **changes}),))


async def run_twice(open_session: SessionOpener, project: Project, emulator: Emulator) -> tuple[str, int]:
    """Run a project, and once more; return how its shot ended and how many generations were accepted."""
    await made(open_session, project)
    (status,) = statuses(await made(open_session, project))
    emulator.wait_until_idle()
    return status, emulator.usage()["accepted"]


def echoes_key(provider: Provider) -> bool:
    return provider.capabilities.lookup == "key"


@pytest.mark.parametrize("echo", ["collapsed", "nfc", "lower", "cut", "rewritten", "none"])
async def test_a_prompt_that_is_respelled_is_not_bought_again(
    open_session: SessionOpener, account: TestAccount, emulator: Emulator, provider: Provider, echo: str
) -> None:
    emulator.change_settings(echo_prompt=echo)
    emulator.add_fault(operation="submit", kind="error_after")
    status, accepted = await run_twice(open_session, one_shot(account), emulator)
    assert accepted == 1
    is_same = echo in ("collapsed", "nfc", "lower") and provider.capabilities.lookup == "similarity"
    assert status == ("stored" if echoes_key(provider) or is_same else "held")


@pytest.mark.parametrize("echo_metadata", [True, False])
@pytest.mark.parametrize("seconds", [-3 * 3600, -600, 600])
async def test_a_clock_that_is_wrong_hides_nothing(
    open_session: SessionOpener,
    account: TestAccount,
    emulator: Emulator,
    provider: Provider,
    seconds: float,
    echo_metadata: bool,
) -> None:
    emulator.change_settings(clock_offset_seconds=seconds, echo_metadata=echo_metadata)
    emulator.add_fault(operation="submit", kind="error_after")
    status, accepted = await run_twice(open_session, one_shot(account), emulator)
    assert accepted == 1
    if echoes_key(provider) and echo_metadata:
        assert status == "stored"


@pytest.mark.parametrize(("seconds", "is_learned_from_list"), [(-3 * 3600, True), (-3 * 3600, False), (3600, False)])
async def test_a_clock_that_is_known_to_be_wrong_is_allowed_for(
    account: TestAccount, emulator: Emulator, provider: Provider, seconds: float, is_learned_from_list: bool
) -> None:
    if not provider.capabilities.can_list:
        pytest.skip(f"{provider.name} lists nothing")
    emulator.change_settings(clock_offset_seconds=seconds, echo_metadata=False)
    shot = account.a_shot(prompt="a dog in the rain")
    other = await provider.submit(shot, idempotency_key="o1", project="film")
    emulator.add_fault(operation="submit", kind="error_after")
    with pytest.raises(SubmitOutcomeUnknown):
        await provider.submit(account.a_shot(prompt=PROMPT), idempotency_key="k1", project="film")
    reader = account.open(emulator) if is_learned_from_list else provider
    found = await look(reader, account, known(other.id))
    assert found is not None
    again = await look(reader, account, known(other.id, found.id))
    assert again is None or (echoes_key(provider) and again.id == found.id)
    if is_learned_from_list:
        await reader.aclose()


@pytest.mark.parametrize("kind", [None, "error_after", "generation_error"])
async def test_an_answer_that_names_a_known_generation_is_held_and_counts_as_spent(
    open_session: SessionOpener, account: TestAccount, emulator: Emulator, kind: str | None
) -> None:
    """The server was restarted, and its ids begin anew."""
    emulator.change_settings(ids="counting", echo_metadata=False)
    await made(open_session, one_shot(account, id="known", prompt="a dog in the rain"))
    emulator.restart()
    await backdate_records(open_session)
    if kind is not None:
        emulator.add_fault(operation="submit", kind=kind)
    for _ in range(2):
        status, accepted = await run_twice(open_session, one_shot(account), emulator)
        assert accepted == 2
        assert status == "held"
    async with open_session() as session:
        rows = {job.shot.id: job for job in await session.ledger.jobs.find(limit=None)}
        (spend,) = await session.ledger.spend.report(by="project")
    assert spend.videos == 2
    job, other = rows["roof"], rows["known"]
    if kind is None:
        assert job.state is State.LOST
        assert_names_both(job, other)


async def backdate_records(open_session: SessionOpener) -> None:
    """What was made so far was made an hour ago."""
    async with open_session() as session, session.ledger._database.writing() as connection:
        await connection.execute(update(jobs_table).values(submitted_at=datetime.now(UTC) - timedelta(hours=1)))


def assert_names_both(job: Job, other: Job) -> None:
    message = str(job.hold_reason)
    assert job.id in message
    assert other.id in message
    assert str(other.generation_id) in message
    assert "prefect-video resolve" in message


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("providers.sora.provider", "providers.openai.provider", "emulator.dialects.replicate"):
        monkeypatch.setattr(f"prefect_video.{module}.PAGE_SIZE", 2)


async def unanswered_behind_others(
    provider: Provider, account: TestAccount, emulator: Emulator
) -> dict[str, RecordedGeneration]:
    """An accepted submit without an answer, of which the list tells on its last page; returns the other ones."""
    emulator.add_fault(operation="submit", kind="error_after")
    with pytest.raises(SubmitOutcomeUnknown):
        await provider.submit(account.a_shot(prompt=PROMPT), idempotency_key="k1", project="film")
    others = []
    for number in range(4):
        shot = account.a_shot(prompt=f"a dog, scene {number}")
        others.append((await provider.submit(shot, idempotency_key=f"o{number}", project="film")).id)
    return known(*others)


async def look(provider: Provider, account: TestAccount, others: dict[str, RecordedGeneration]) -> Generation | None:
    shot = account.a_shot(prompt=PROMPT)
    return await provider.find_unclaimed(shot, idempotency_key="k1", sent_at=datetime.now(UTC), known=others)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("kind", ["empty_page", "silent_list", "odd_item", "shifted_page"])
async def test_a_list_that_does_not_hold_together_proves_nothing(
    account: TestAccount, emulator: Emulator, provider: Provider, kind: str
) -> None:
    others = await unanswered_behind_others(provider, account, emulator)
    for times, after in product((1, None), (0, 1, 2)):
        emulator.clear_faults()
        emulator.add_fault(operation="list", kind=kind, times=times, after=after)
        try:
            found = await look(provider, account, others)
        except (HeldForReview, InvalidResponse):
            assert times is None or kind == "odd_item" or not provider.capabilities.can_list, (times, after)
        else:
            assert found is not None, (times, after)
            assert found.id not in others, (times, after)


@pytest.mark.parametrize("kind", ["empty_page", "silent_list", "odd_item"])
async def test_a_project_on_such_a_list_is_paid_once(
    open_session: SessionOpener,
    account: TestAccount,
    emulator: Emulator,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_VIDEO_SUBMIT_PATIENCE_SECONDS", "0")
    emulator.change_settings(echo_metadata=False)
    emulator.add_fault(operation="submit", kind="error_after")
    emulator.add_fault(operation="list", kind=kind, times=None)
    assert (await run_twice(open_session, one_shot(account), emulator))[1] == 1


async def test_a_list_without_words_proves_absence_where_nothing_is_unclaimed(
    open_session: SessionOpener, account: TestAccount, emulator: Emulator, provider: Provider
) -> None:
    emulator.change_settings(echo_prompt="none", echo_metadata=False)
    emulator.add_fault(operation="submit", kind="error_before")
    status, accepted = await run_twice(open_session, one_shot(account), emulator)
    if provider.capabilities.can_list:
        assert (status, accepted) == ("stored", 1)
    else:
        assert (status, accepted) == ("held", 0)
