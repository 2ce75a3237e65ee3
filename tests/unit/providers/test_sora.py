"""The Sora provider against a real server of its dialect, and against invalid responses."""

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime

import httpx
import pytest

from prefect_video import ContentPolicyError, HeldForReview, InvalidInput, Shot
from prefect_video.emulator import Emulator
from prefect_video.errors import (
    AuthenticationFailed,
    GenerationFailed,
    InvalidResponse,
    NotFound,
    RateLimited,
    SubmitOutcomeUnknown,
    Unsupported,
)
from prefect_video.generations import Generation, RecordedGeneration, Status
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.matching import Match
from prefect_video.providers.sora import responses
from prefect_video.providers.sora.provider import SoraProvider
from tests.unit.providers.known import known

FAST = HttpSettings(backoff_seconds=0.01, backoff_limit_seconds=0.05)
SHOT = Shot(id="a", prompt="a red balloon", duration=2, resolution="480p")


@pytest.fixture
async def provider(emulator: Emulator) -> AsyncIterator[SoraProvider]:
    opened = SoraProvider(
        api_key=emulator.key,
        endpoint=emulator.endpoint,
        plan="emulator",
        webhook_secrets=("old", emulator.webhook_secret),
        settings=FAST,
    )
    yield opened
    await opened.aclose()


def mock_sora(*answers: httpx.Response) -> SoraProvider:
    left = list(answers)
    return SoraProvider(
        api_key="sk-1",
        endpoint="https://api.example/v1/sora",
        settings=FAST,
        transport=httpx.MockTransport(lambda _: left.pop(0) if len(left) > 1 else left[0]),
    )


async def submit(provider: SoraProvider, key: str = "k1", shot: Shot = SHOT) -> str:
    return (await provider.submit(shot, idempotency_key=key, project="film")).id


async def test_a_generation_from_submit_to_link(provider: SoraProvider, emulator: Emulator) -> None:
    accepted = await provider.submit(SHOT, idempotency_key="k1", project="film")
    assert accepted.status is Status.QUEUED
    assert accepted.estimated_completion_at is not None
    emulator.wait_until_idle()
    done = await provider.retrieve(accepted.id)
    assert done.status is Status.COMPLETED
    assert done.metadata == {"project_id": "film", "shot_number": "a", "idempotency_key": "k1"}
    assert done.result is not None
    assert (done.result.width, done.result.height) == (854, 480)
    assert done.result.expires_at is not None
    assert done.cost_usd == Decimal("0.6")
    assert done.result.video_url not in repr(done)


async def test_all_generations_are_listed_newest_first_over_pages(
    provider: SoraProvider, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_video.providers.sora.provider.PAGE_SIZE", 2)
    made = [await submit(provider, f"k{n}") for n in range(5)]
    assert [generation.id async for generation in provider.list()] == made[::-1]
    emulator.wait_until_idle()
    assert len([generation async for generation in provider.list(status=Status.COMPLETED)]) == 5
    assert [
        generation async for generation in provider.list(created_after=datetime.now(UTC) + timedelta(hours=1))
    ] == []


async def test_cancel_is_idempotent_and_tells_the_truth(provider: SoraProvider, emulator: Emulator) -> None:
    long = SHOT.model_copy(update={"duration": 20})
    first = await submit(provider, shot=long)
    assert (await provider.cancel(first)).status is Status.CANCELLED
    assert (await provider.cancel(first)).status is Status.CANCELLED
    done = await submit(provider, "k2")
    emulator.wait_until_idle()
    assert (await provider.cancel(done)).status is Status.COMPLETED
    with pytest.raises(NotFound):
        await provider.cancel("gen_unknown")


async def test_the_answered_generation_is_found_again_by_our_key(provider: SoraProvider) -> None:
    ids = [await submit(provider, key) for key in ("k1", "k2", "k3")]
    since = datetime.now(UTC)
    found = await provider.find_unclaimed(SHOT, idempotency_key="k2", sent_at=since, known={})
    assert found is not None
    assert found.id == ids[1]
    again = await provider.find_unclaimed(SHOT, idempotency_key="k2", sent_at=since, known=known(*ids))
    # Whose it is, the ledger settles; it is never "absent".
    assert again is not None
    assert again.id == ids[1]
    assert await provider.find_unclaimed(SHOT, idempotency_key="other", sent_at=since, known={}) is None


async def test_a_provider_that_does_not_list_cannot_tell(provider: SoraProvider, emulator: Emulator) -> None:
    emulator.add_fault(operation="list", kind="list_off")
    with pytest.raises(HeldForReview, match="does not list"):
        await provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known={})


async def test_refusals_by_the_contracts_table(provider: SoraProvider, emulator: Emulator) -> None:
    with pytest.raises(ContentPolicyError) as refused:
        await submit(provider, shot=SHOT.model_copy(update={"prompt": "[policy] x"}))
    assert refused.value.accepted is False
    with pytest.raises(NotFound):
        await provider.retrieve("gen_unknown")
    emulator.add_fault(operation="submit", kind="rate_limited", retry_after=7, times=1)
    with pytest.raises(RateLimited) as limited:
        await submit(provider)
    assert limited.value.retry_after == 7
    emulator.add_fault(operation="submit", kind="generation_error", times=1)
    with pytest.raises(GenerationFailed) as failed:
        await submit(provider)
    assert failed.value.accepted is True
    assert failed.value.generation_id
    emulator.add_fault(operation="submit", kind="error_after", times=1)
    with pytest.raises(SubmitOutcomeUnknown):
        await submit(provider)
    wrong = SoraProvider(api_key="sk-wrong", endpoint=emulator.endpoint, plan="emulator", settings=FAST)
    with pytest.raises(AuthenticationFailed):
        await submit(wrong)
    await wrong.aclose()


async def test_a_key_stays_with_its_host(provider: SoraProvider, emulator: Emulator) -> None:
    generation_id = await submit(provider)
    emulator.wait_until_idle()
    result = (await provider.retrieve(generation_id)).result
    assert result is not None
    async with httpx.AsyncClient() as bare:
        assert (await bare.get(result.video_url)).status_code == 200
    assert emulator.usage()["leaked_keys"] == 0


@pytest.mark.parametrize(
    ("plan", "given", "message"),
    [
        (
            "plus",
            {"resolution": "1080p", "duration": 5},
            "resolution: sora plan 'plus' has no 1080p; it has 480p, 720p",
        ),
        ("plus", {"resolution": "720p", "duration": 8}, "at most 5 s at 720p, not 8 s"),
        ("plus", {"resolution": "480p", "duration": 11}, "at most 10 s at 480p"),
        ("api-tier-1", {"resolution": "480p"}, "has no 480p"),
        ("pro", {"seed": 7, "resolution": "1080p"}, "seed: sora plan 'pro' takes none"),
        ("pro", {"references": ("a.png",), "resolution": "1080p"}, "references: sora plan 'pro' takes none"),
    ],
)
def test_a_plan_refuses_what_it_cannot_make(plan: str, given: dict[str, object], message: str) -> None:
    provider = SoraProvider(api_key="k", endpoint="https://x", plan=plan)
    with pytest.raises(Unsupported) as caught:
        provider.check(SHOT.model_copy(update=given))
    assert message in str(caught.value)
    assert "shot 'a'" in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "usd"),
    [(1, "0.30"), (5, "1.50"), (9, "2.70"), (10, "2.50"), (15, "3.30"), (19, "4.18"), (20, "4.00")],
)
def test_prices_are_those_of_the_guide(seconds: int, usd: str) -> None:
    provider = SoraProvider(api_key="k", endpoint="https://x")
    assert provider.estimate(SHOT.model_copy(update={"duration": seconds})) == Decimal(usd)


def test_plans_and_endpoints_that_do_not_exist() -> None:
    with pytest.raises(InvalidInput, match="choose one of plus, pro"):
        SoraProvider(api_key="k", endpoint="https://x", plan="gold")
    with pytest.raises(InvalidInput, match="not an http"):
        SoraProvider(api_key="k", endpoint="x")


async def test_an_accepted_submit_without_an_id_is_unknown_not_failed() -> None:
    for answer in (httpx.Response(202, json={"object": "x"}), httpx.Response(200, text="<html>")):
        with pytest.raises(SubmitOutcomeUnknown):
            await submit(mock_sora(answer))


async def test_an_unknown_status_counts_as_processing(caplog: pytest.LogCaptureFixture) -> None:
    provider = mock_sora(httpx.Response(200, json={"id": "gen_1", "status": "pondering"}))
    assert (await provider.retrieve("gen_1")).status is Status.PROCESSING
    assert "unknown status 'pondering'" in caplog.text


async def test_a_generation_that_is_no_object_is_unreadable() -> None:
    with pytest.raises(InvalidResponse, match="not one of the contract"):
        await mock_sora(httpx.Response(200, json=[])).retrieve("gen_1")


async def test_ids_cannot_leave_their_path() -> None:
    provider = mock_sora(httpx.Response(200, json={}))
    for wrong in ("", "..", "a\nb"):
        with pytest.raises(InvalidInput):
            await provider.retrieve(wrong)


def test_a_shortened_prompt_in_a_list_may_be_ours() -> None:
    def listed(prompt: str | None) -> bool:
        body = {"id": "g", "status": "queued", "created": time.time() + 5, "prompt": prompt}
        page = responses.read_page(httpx.Response(200, json={"data": [body]}), provider="sora")
        (generation,) = page.items
        assert isinstance(generation, Generation)
        return responses.compare(generation, SHOT) is not Match.DIFFERENT

    assert listed("a red balloon")
    assert listed("a red...")
    assert listed("a re…")
    assert listed(None)
    assert not listed("a blue...")
    # Providers cut words off without saying so.
    assert listed("a red")
    assert not listed("a blue balloon")


async def test_without_an_echo_of_our_key_the_oldest_like_it_is_taken() -> None:
    now = time.time()
    alike = {"prompt": SHOT.prompt, "model": "sora-2", "status": "queued"}
    parameters = {"duration": 2, "aspect_ratio": "16:9", "resolution": "480p"}
    bodies = {
        "gen_new": {**alike, "id": "gen_new", "created": now + 2, "parameters": parameters},
        "gen_old": {**alike, "id": "gen_old", "created": now + 1, "parameters": parameters},
        "gen_other": {**alike, "id": "gen_other", "created": now, "parameters": {**parameters, "duration": 5}},
    }

    def answer(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        page = {"data": list(bodies.values()), "has_more": False}
        return httpx.Response(200, json=bodies.get(name, page))

    provider = SoraProvider(
        api_key="k", endpoint="https://x/v1/sora", settings=FAST, transport=httpx.MockTransport(answer)
    )
    found = await provider.find_unclaimed(
        SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known=known("gen_known")
    )
    assert found is not None
    assert found.id == "gen_old"
    for ids in ({"gen_new", "gen_old"}, {*bodies}):
        looking = provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known=known(*ids))
        if ids == {*bodies}:
            assert await looking is None
            continue
        # The same words with other parameters may be ours, told otherwise.
        with pytest.raises(HeldForReview, match="gen_other, which may or may not"):
            await looking


@pytest.mark.parametrize("minutes", [-10, -3, 0, 3, 10])
@pytest.mark.parametrize("echoed", ["our key", "another key", "no key"])
async def test_a_clock_that_is_wrong_hides_no_generation(minutes: int, echoed: str) -> None:
    """This machine's clock is ahead of the provider's, or behind it."""
    server_time = datetime.now(UTC) - timedelta(minutes=minutes)
    item: dict[str, object] = {
        "id": "gen_1",
        "status": "queued",
        "prompt": SHOT.prompt,
        "created": server_time.timestamp(),
    }
    if echoed != "no key":
        item["metadata"] = {"idempotency_key": "k" if echoed == "our key" else "k2"}

    def answer(request: httpx.Request) -> httpx.Response:
        single = request.url.path.endswith("gen_1")
        body = item if single else {"data": [{**item, "metadata": None}], "has_more": False}
        return httpx.Response(200, json=body, headers={"date": format_datetime(server_time, usegmt=True)})

    provider = SoraProvider(
        api_key="k", endpoint="https://x/v1/sora", settings=FAST, transport=httpx.MockTransport(answer)
    )
    found = await provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known={})
    assert (found is not None) is (echoed != "another key")


@pytest.mark.parametrize(("is_clock_known", "hours"), [(True, 48), (True, 1), (False, 48)])
async def test_what_is_like_it_and_was_made_long_before_is_not_taken(is_clock_known: bool, hours: int) -> None:
    """A time that a wrong clock may show proves nothing: nothing is bought or taken."""
    now = datetime.now(UTC)
    item = {"id": "gen_1", "status": "queued", "prompt": SHOT.prompt, "created": now.timestamp() - 3600 * hours}
    recent = {"id": "gen_2", "status": "queued", "prompt": "a dog", "created": now.timestamp()}
    listed = [recent, item] if is_clock_known else [item]

    def answer(request: httpx.Request) -> httpx.Response:
        single = {"gen_1": item, "gen_2": recent}.get(request.url.path.rpartition("/")[2])
        return httpx.Response(200, json=single or {"data": listed, "has_more": False})

    provider = SoraProvider(
        api_key="k", endpoint="https://x/v1/sora", settings=FAST, transport=httpx.MockTransport(answer)
    )
    looking = provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=now, known={"gen_2": RecordedGeneration(now)})
    if is_clock_known and hours > 24:
        assert await looking is None
        return
    with pytest.raises(HeldForReview, match="gen_1, which may or may not"):
        await looking


@pytest.mark.parametrize("cost", [-5, "NaN", "Infinity", "much", True])
async def test_a_cost_that_is_nonsense_counts_as_unknown(cost: object, caplog: pytest.LogCaptureFixture) -> None:
    item = {"id": "gen_1", "status": "completed", "usage": {"cost_usd": cost}}
    assert (await mock_sora(httpx.Response(200, json=item)).retrieve("gen_1")).cost_usd is None
    assert "ignored, as it is no amount" in caplog.text


@pytest.mark.parametrize("cost", [0, 2.4, "0.300000", 1e6])
async def test_a_cost_is_taken_as_it_is_reported(cost: object) -> None:
    item = {"id": "gen_1", "status": "completed", "usage": {"cost_usd": cost}}
    assert (await mock_sora(httpx.Response(200, json=item)).retrieve("gen_1")).cost_usd == Decimal(str(cost))


def event(at: float, **data: object) -> bytes:
    body = {"event_type": "generation.completed", "event_id": "evt_1", "timestamp": at, "data": data}
    return json.dumps(body, separators=(",", ":")).encode()


def sign(body: bytes, secret: str = "old") -> dict[str, str]:
    return {"X-Sora-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def test_webhooks_are_verified_with_any_secret_of_the_account(provider: SoraProvider) -> None:
    body = event(time.time(), generation_id="gen_1", status="completed")
    read = provider.parse_webhook(sign(body), body)
    assert (read.event_id, read.event_type, read.generation_id) == ("evt_1", "generation.completed", "gen_1")
    assert provider.parse_webhook(sign(body, "whsec_emulator"), body) == read


def test_webhooks_that_are_forged_stale_or_nonsense_are_refused(provider: SoraProvider) -> None:
    good = event(time.time(), generation_id="gen_1")
    refused = [
        ({}, good),
        (sign(good, "wrong"), good),
        ({"X-Sora-Signature": "é"}, good),
        (sign(good), good + b" "),
        (sign(old := event(time.time() - 301, generation_id="gen_1")), old),
        (sign(bad := b"[]"), bad),
        (sign(bad := event(time.time())), bad),
        (sign(bad := b'{"event_id":1,"event_type":"x","timestamp":"inf","data":{"generation_id":"g"}}'), bad),
    ]
    for headers, body in refused:
        with pytest.raises(InvalidInput, match="webhook"):
            provider.parse_webhook(headers, body)
