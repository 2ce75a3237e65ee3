"""Conformance of every provider to the contract, whatever its dialect; a new one joins by a line in `accounts.py`."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_video.downloads.media import check_media, probe
from prefect_video.downloads.transfer import Downloaded, download, open_download_client
from prefect_video.downloads.url_safety import LinkPolicy
from prefect_video.emulator import Emulator
from prefect_video.errors import (
    AuthenticationFailed,
    ContentPolicyError,
    HeldForReview,
    InvalidInput,
    InvalidResponse,
    NotFound,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Generation, Status
from prefect_video.polling.completion import CompletionEstimate
from prefect_video.polling.poller import Poller
from prefect_video.polling.schedule import PollSchedule
from prefect_video.providers.base import Provider
from prefect_video.providers.search import UnclaimedFound
from prefect_video.shots import Shot
from tests.support.accounts import TestAccount
from tests.support.webhook_receiver import Received, WebhookReceiver
from tests.unit.providers.known import known

SOON = CompletionEstimate(earliest=0.0, likely=0.02)


async def submit(provider: Provider, shot: Shot, key: str = "k1", webhook_url: str | None = None) -> Generation:
    provider.check(shot)
    return await provider.submit(shot, idempotency_key=key, project="film", webhook_url=webhook_url)


async def wait_for_end(provider: Provider, generation: Generation) -> Generation:
    poller = Poller(provider, schedule=PollSchedule(shortest_seconds=0.005), lost_after=2)
    try:
        return await poller.wait_for_end(generation.id, submitted_at=datetime.now(UTC), expected=SOON)
    finally:
        await poller.aclose()


async def fetch_video(provider: Provider, generation: Generation, folder: Path) -> Downloaded:
    async def refresh() -> str:
        return provider.download_source(await provider.retrieve(generation.id)).url

    async with open_download_client(trust_env=False) as client:
        return await download(
            provider.download_source(generation),
            folder / "video.mp4",
            client=client,
            policy=LinkPolicy(trusted_host="127.0.0.1"),
            refresh=refresh,
        )


async def test_a_shot_from_submit_to_a_whole_video(
    provider: Provider, account: TestAccount, emulator: Emulator, tmp_path: Path
) -> None:
    shot = account.a_shot()
    accepted = await submit(provider, shot)
    assert accepted.id
    assert accepted.provider == provider.name
    assert accepted.status in (Status.QUEUED, Status.PROCESSING)
    done = await wait_for_end(provider, accepted)
    assert (done.id, done.status, done.fault) == (accepted.id, Status.COMPLETED, None)
    assert done.result is not None
    assert done.result.video_url not in repr(done)
    file = await fetch_video(provider, done, tmp_path)
    check_media(probe(file.path), shot)
    usage = emulator.usage()
    assert (usage["submitted"], usage["accepted"], usage["billed"], usage["downloaded"]) == (1, 1, 1, 1)
    assert usage["leaked_keys"] == 0


async def test_a_failed_generation_says_why(provider: Provider, account: TestAccount) -> None:
    failed = await wait_for_end(provider, await submit(provider, account.a_shot(prompt="[fail] a cat")))
    assert failed.status is Status.FAILED
    assert failed.fault is not None
    assert "gave up on this prompt" in failed.fault.message
    assert failed.result is None


async def test_a_prompt_against_policy_is_recognised(provider: Provider, account: TestAccount) -> None:
    shot = account.a_shot(prompt="[policy] a cat")
    if account.refuses_by_policy:
        with pytest.raises(ContentPolicyError) as refused:
            await submit(provider, shot)
        assert refused.value.accepted is False
        return
    failed = await wait_for_end(provider, await submit(provider, shot))
    assert failed.status is Status.FAILED
    assert failed.fault is not None
    assert account.policy_fault in f"{failed.fault.code} {failed.fault.message}"


async def test_an_unknown_status_is_no_end(provider: Provider, account: TestAccount, emulator: Emulator) -> None:
    accepted = await submit(provider, account.a_shot())
    emulator.wait_until_idle()
    emulator.add_fault(operation="retrieve", kind="unknown_status", status="moderating")
    status = (await provider.retrieve(accepted.id)).status
    # With a link and progress 100 beside it, the word does not matter.
    assert status is (Status.COMPLETED if account.tells_link_with_progress else Status.PROCESSING)
    assert (await provider.retrieve(accepted.id)).status is Status.COMPLETED


async def test_webhooks_genuine_forged_and_stale(
    provider: Provider, account: TestAccount, emulator: Emulator, receiver: WebhookReceiver
) -> None:
    if not account.delivers:
        with pytest.raises(InvalidInput, match="sends none"):
            provider.parse_webhook({}, b"{}")
        return
    accepted, genuine = await last_delivery(provider, account, receiver)
    event = provider.parse_webhook(genuine.headers, genuine.body)
    assert event.event_id
    assert abs(event.sent_at - datetime.now(UTC)) < timedelta(minutes=1)
    # Some name the last part only of what names a generation at their address.
    assert f"/{accepted.id}".endswith(f"/{event.generation_id}")
    assert (await provider.retrieve(accepted.id)).status is Status.COMPLETED
    assert provider.parse_webhook(genuine.headers, genuine.body) == event
    emulator.add_fault(operation="webhook", kind="late", times=None, seconds=0, backdate_seconds=600)
    _, stale = await last_delivery(provider, account, receiver)
    for headers, body in (
        ({}, genuine.body),
        (genuine.headers, genuine.body + b" "),
        (stale.headers, genuine.body),
        (stale.headers, stale.body),
    ):
        with pytest.raises(InvalidInput, match="webhook"):
            provider.parse_webhook(headers, body)


async def last_delivery(
    provider: Provider, account: TestAccount, receiver: WebhookReceiver
) -> tuple[Generation, Received]:
    """A new generation and the delivery that tells of its completion; there may be others before it."""
    accepted = await submit(provider, account.a_shot(), webhook_url=receiver.url)
    name = accepted.id.rpartition("/")[2].encode()
    while True:
        (delivery,) = await asyncio.to_thread(receiver.take, 1)
        if name in delivery.body and re.search(rb"complete|succe|OK", delivery.body):
            return accepted, delivery


async def test_cancelling_ends_work_or_leaves_it_alone(
    provider: Provider, account: TestAccount, emulator: Emulator
) -> None:
    accepted = await submit(provider, account.a_shot(duration=20))
    generation = await provider.cancel(accepted.id)
    if not provider.capabilities.can_cancel:
        assert generation.status in (Status.QUEUED, Status.PROCESSING)
        assert (await wait_for_end(provider, accepted)).status is Status.COMPLETED
        return
    if account.cancels_queued_only and generation.status is not Status.CANCELLED:
        assert (await wait_for_end(provider, accepted)).status is Status.COMPLETED
        return
    assert generation.status is Status.CANCELLED
    assert emulator.usage()["cancelled"] == 1
    if account.forgets_cancelled:
        with pytest.raises(NotFound):
            await provider.cancel(accepted.id)
    else:
        assert (await provider.cancel(accepted.id)).status is Status.CANCELLED


async def test_cancelling_a_finished_generation_loses_nothing(
    provider: Provider, account: TestAccount, emulator: Emulator, tmp_path: Path
) -> None:
    accepted = await submit(provider, account.a_shot())
    emulator.wait_until_idle()
    generation = await provider.cancel(accepted.id)
    assert generation.status is Status.COMPLETED
    assert (await fetch_video(provider, generation, tmp_path)).bytes > 1000


async def test_all_generations_are_listed_newest_first(
    provider: Provider, account: TestAccount, emulator: Emulator
) -> None:
    if not provider.capabilities.can_list:
        pytest.skip(f"{provider.name} lists nothing")
    made = [(await submit(provider, account.a_shot(prompt=f"scene {n}"), f"k{n}")).id for n in range(3)]
    emulator.wait_until_idle()
    listed = [generation async for generation in provider.list()]
    assert {generation.status for generation in listed} == {Status.COMPLETED}
    assert len(listed) == len({generation.id for generation in listed}) == 3
    assert [generation.id for generation in listed] == made[::-1]
    assert [generation async for generation in provider.list(status=Status.FAILED)] == []
    assert [
        generation async for generation in provider.list(created_after=datetime.now(UTC) + timedelta(hours=1))
    ] == []


async def test_refusals_by_kind(provider: Provider, account: TestAccount, emulator: Emulator) -> None:
    emulator.add_fault(operation="submit", kind="rate_limited", retry_after=7)
    with pytest.raises(RateLimited) as limited:
        await submit(provider, account.a_shot())
    assert limited.value.retry_after == pytest.approx(7)
    with pytest.raises(RequestRejected) as refused:
        await submit(provider, account.a_shot().model_copy(update={"prompt": ""}))
    for error in (limited.value, refused.value):
        assert error.accepted is False
        assert error.provider == provider.name
    assert type(refused.value) is RequestRejected
    assert emulator.usage()["accepted"] == 0


async def test_a_quota_that_is_used_up_stops_buying_and_gives_up_nothing_that_was_bought(
    provider: Provider, account: TestAccount, emulator: Emulator
) -> None:
    accepted = await submit(provider, account.a_shot(prompt="another cat"))
    emulator.add_fault(operation="submit", kind="quota_exhausted")
    with pytest.raises(QuotaExhausted if account.has_quota else RateLimited) as used_up:
        await submit(provider, account.a_shot())
    assert used_up.value.accepted is False
    emulator.add_fault(operation="retrieve", kind="quota_exhausted")
    assert (await wait_for_end(provider, accepted)).status is Status.COMPLETED
    assert emulator.usage()["accepted"] == 1


async def test_an_answer_that_cannot_be_read_is_no_verdict(
    provider: Provider, account: TestAccount, emulator: Emulator
) -> None:
    accepted = await submit(provider, account.a_shot())
    emulator.wait_until_idle()
    emulator.add_fault(operation="retrieve", kind="wrong_content")
    with pytest.raises(InvalidResponse) as unreadable:
        await provider.retrieve(accepted.id)
    assert unreadable.value.accepted is None
    assert (await provider.retrieve(accepted.id)).status is Status.COMPLETED
    if provider.capabilities.can_list:
        emulator.add_fault(operation="list", kind="wrong_content")
        with pytest.raises(InvalidResponse):
            _ = [generation async for generation in provider.list()]


async def test_what_has_expired_is_over(provider: Provider, account: TestAccount, emulator: Emulator) -> None:
    accepted = await submit(provider, account.a_shot())
    emulator.wait_until_idle()
    emulator.add_fault(operation="retrieve", kind="unknown_status", status="expired")
    assert (await wait_for_end(provider, accepted)).status is Status.EXPIRED


async def test_a_wrong_key_is_refused_and_never_shown(account: TestAccount, emulator: Emulator) -> None:
    stranger = account.open(emulator, key="sk-not-the-right-one")
    for asking in (submit(stranger, account.a_shot()), stranger.retrieve(account.an_id)):
        with pytest.raises(AuthenticationFailed) as refused:
            await asking
        assert "sk-not-the-right-one" not in f"{refused.value!r} {refused.value.__dict__} {vars(stranger.account)}"
    await stranger.aclose()


async def test_a_generation_that_the_server_has_forgotten_is_not_found(
    provider: Provider, account: TestAccount, emulator: Emulator
) -> None:
    accepted = await submit(provider, account.a_shot())
    emulator.reset()
    for asking in (provider.retrieve, provider.cancel):
        with pytest.raises(NotFound):
            await asking(accepted.id)
    assert (await wait_for_end(provider, accepted)).status is Status.LOST


async def test_reading_is_repeated_on_trouble(provider: Provider, account: TestAccount, emulator: Emulator) -> None:
    accepted = await submit(provider, account.a_shot())
    for kind in ("error_before", "reset_before", "rate_limited"):
        emulator.add_fault(operation="retrieve", kind=kind, retry_after=0)
    assert (await provider.retrieve(accepted.id)).id == accepted.id
    emulator.add_fault(operation="retrieve", kind="error_before", times=None)
    with pytest.raises(ProviderUnavailable):
        await provider.retrieve(accepted.id)


@pytest.mark.parametrize("kind", ["error_after", "reset_after", "wrong_content"])
async def test_an_unanswered_submit_is_sent_once_and_found_if_that_can_be(
    provider: Provider, account: TestAccount, emulator: Emulator, kind: str
) -> None:
    shot, sent_at = account.a_shot(), datetime.now(UTC)
    other = await submit(provider, account.a_shot(prompt="another cat"), "k0")
    twin = await submit(provider, shot, "k00")
    emulator.add_fault(operation="submit", kind=kind)
    with pytest.raises(SubmitOutcomeUnknown) as unknown:
        await submit(provider, shot)
    assert unknown.value.accepted is None
    assert emulator.usage()["submitted"] == 3

    async def search(*others: str) -> Generation | None:
        return await provider.find_unclaimed(shot, idempotency_key="k1", sent_at=sent_at, known=known(*others))

    if provider.capabilities.lookup == "none":
        with pytest.raises(HeldForReview):
            await search(twin.id)
        return
    if kind == "wrong_content":
        assert await search(twin.id, other.id) is None
        if provider.capabilities.lookup == "similarity":
            # Other words do not show whose it is, as servers change them.
            with pytest.raises(UnclaimedFound):
                await search(twin.id)
        return
    found = await search(twin.id)
    assert found is not None
    assert found.id not in (other.id, twin.id)
    assert (await wait_for_end(provider, found)).status is Status.COMPLETED


@pytest.mark.parametrize("http_status", [404, 405, 501])
async def test_where_the_list_is_off_nothing_is_proven_absent(
    provider: Provider, account: TestAccount, emulator: Emulator, http_status: int
) -> None:
    shot, sent_at = account.a_shot(), datetime.now(UTC)
    emulator.add_fault(operation="submit", kind="error_after")
    emulator.add_fault(operation="list", kind="list_off", http_status=http_status, times=None)
    with pytest.raises(SubmitOutcomeUnknown):
        await submit(provider, shot)
    with pytest.raises((HeldForReview, RequestRejected)):
        await provider.find_unclaimed(shot, idempotency_key="k1", sent_at=sent_at, known={})


async def test_a_link_that_has_died_is_replaced(
    provider: Provider, account: TestAccount, emulator: Emulator, tmp_path: Path
) -> None:
    done = await wait_for_end(provider, await submit(provider, account.a_shot()))
    emulator.add_fault(operation="content", kind="expired_link")
    assert (await fetch_video(provider, done, tmp_path)).bytes > 1000
    assert emulator.faults()[-1]["fired"] == 1
    assert emulator.usage()["leaked_keys"] == 0
