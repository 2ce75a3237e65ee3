"""Responses of Replicate: statuses, outputs in many forms, refusals and pages, valid and invalid."""

from datetime import UTC, datetime

import httpx
import pytest

from prefect_video import HeldForReview, InvalidInput
from prefect_video.errors import (
    AuthenticationFailed,
    InvalidResponse,
    NotFound,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Status
from prefect_video.providers.replicate.provider import ReplicateProvider
from tests.support.providers.replicate import BASE, HASH, SHOT, mock_replicate, submit


@pytest.mark.parametrize(
    ("string", "status"),
    [
        ("starting", Status.QUEUED),
        ("processing", Status.PROCESSING),
        ("failed", Status.FAILED),
        ("canceled", Status.CANCELLED),
        ("aborted", Status.CANCELLED),
        ("moderating", Status.PROCESSING),
    ],
)
async def test_statuses(string: str, status: Status) -> None:
    provider, _ = mock_replicate(httpx.Response(200, json={"id": "p", "status": string}))
    assert (await provider.retrieve("p")).status is status


@pytest.mark.parametrize(("string", "cost_usd"), [("aborted", 0), ("canceled", None), ("failed", None)])
async def test_only_what_never_started_is_known_to_be_free(string: str, cost_usd: int | None) -> None:
    provider, _ = mock_replicate(httpx.Response(200, json={"id": "p", "status": string}))
    assert (await provider.retrieve("p")).cost_usd == cost_usd


@pytest.mark.parametrize(
    "output",
    [
        "https://cdn.example/v.mp4",
        ["https://cdn.example/v.mp4", "https://cdn.example/w.mp4"],
        {"thumbnail": "https://cdn.example/t.jpg", "video": "https://cdn.example/v.mp4"},
        {"frames": 81, "file": ["https://cdn.example/v.mp4"]},
    ],
)
async def test_outputs_of_the_shapes_that_models_have(output: object) -> None:
    provider, _ = mock_replicate(httpx.Response(200, json={"id": "p", "status": "succeeded", "output": output}))
    seen = await provider.retrieve("p")
    assert seen.result is not None
    assert seen.result.video_url == "https://cdn.example/v.mp4"


async def test_a_file_on_the_api_itself_is_fetched_with_the_key() -> None:
    provider, _ = mock_replicate(
        httpx.Response(200, json={"id": "p", "status": "succeeded", "output": f"{BASE}/files/x"})
    )
    assert provider.download_source(await provider.retrieve("p")).headers == {"Authorization": "Bearer r8"}


async def test_success_without_a_video_is_no_verdict() -> None:
    provider, _ = mock_replicate(httpx.Response(200, json={"id": "p", "status": "succeeded", "output": {"text": "hm"}}))
    with pytest.raises(InvalidResponse, match="names no video"):
        await provider.retrieve("p")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(401, json={"title": "Unauthenticated", "detail": "no", "status": 401}), AuthenticationFailed),
        (httpx.Response(402, json={"title": "Insufficient credit", "status": 402}), QuotaExhausted),
        (httpx.Response(404, json={"detail": "not found", "status": 404}), NotFound),
        (httpx.Response(422, json={"title": "Invalid version", "status": 422}), RequestRejected),
        (httpx.Response(404, json={"detail": "not found"}), SubmitOutcomeUnknown),
        (httpx.Response(403, json={"type": "about:blank", "title": "Denied", "status": 403}), SubmitOutcomeUnknown),
        (httpx.Response(500), SubmitOutcomeUnknown),
        (httpx.Response(201, text="<html>"), SubmitOutcomeUnknown),
        (httpx.Response(201, json={"status": "starting"}), SubmitOutcomeUnknown),
    ],
)
async def test_answers_to_a_submit(answer: httpx.Response, kind: type[ProviderError]) -> None:
    provider, sent = mock_replicate(answer)
    with pytest.raises(kind):
        await submit(provider)
    assert len(sent) == 1


async def test_the_wait_that_a_throttle_names_is_kept() -> None:
    provider, _ = mock_replicate(
        httpx.Response(429, json={"detail": "Request was throttled. Expected available in 11 seconds."})
    )
    with pytest.raises(RateLimited) as limited:
        await submit(provider)
    assert limited.value.retry_after == 11


async def test_of_a_version_only_its_own_predictions_count() -> None:
    now = datetime.now(UTC)
    reported = {"input": {"prompt": SHOT.prompt, "duration": 2, "aspect_ratio": "16:9", "resolution": "480p"}}
    alike = [
        {"id": f"p{n}", "status": "starting", "version": version, "created_at": now.isoformat(), **reported}
        for n, version in enumerate(["0" * 64, HASH])
    ]
    provider, _ = mock_replicate(httpx.Response(200, json={"results": alike, "next": None}))
    shot = SHOT.model_copy(update={"model": HASH})
    found = await provider.find_unclaimed(shot, idempotency_key="k", sent_at=now, known={})
    assert found is not None
    assert found.id == "p1"


INPUT = {"prompt": "a red balloon", "duration": 2, "aspect_ratio": "16:9", "resolution": "480p"}


def mock_echo(**reported: object) -> ReplicateProvider:
    """Its only prediction is of the shot's words and was sent just now."""
    prediction = {
        "id": "p1",
        "status": "processing",
        "model": SHOT.model,
        "version": "hidden",
        "input": INPUT,
        **reported,
    }
    page = {"results": [{**prediction, "created_at": datetime.now(UTC).isoformat()}], "next": None}
    return mock_replicate(httpx.Response(200, json=page))[0]


async def find_id(provider: ReplicateProvider, **requested: object) -> str | None:
    shot = SHOT.model_copy(update=requested)
    generation = await provider.find_unclaimed(shot, idempotency_key="k", sent_at=datetime.now(UTC), known={})
    return generation.id if generation else None


@pytest.mark.parametrize(
    ("requested", "reported"),
    [
        ({"guidance_scale": 7.0}, {"input": {**INPUT, "guidance_scale": 7}}),
        ({"guidance_scale": 7.5}, {"input": {**INPUT, "guidance_scale": "7.5", "disable_safety_checker": False}}),
        ({"prompt": "a red balloon "}, {}),
        ({"model": "Emulator/Video"}, {}),
        ({"model": HASH}, {"version": HASH[:12]}),
        ({"model": f"emulator/video:{HASH[:12]}"}, {"version": HASH}),
        ({"model": f"emulator/video:{HASH}"}, {"version": None}),
    ],
)
async def test_what_was_sent_is_recognised_in_the_spelling_of_the_host(
    requested: dict[str, object], reported: dict[str, object]
) -> None:
    assert await find_id(mock_echo(**reported), **requested) == "p1"


@pytest.mark.parametrize(
    "reported",
    [
        {"input": {**INPUT, "resolution": "720p"}},
        {"input": {"prompt": "a red balloon"}},
        {"input": {**INPUT, "prompt": "a red ..."}},
        {"input": {}},
        {"input": None},
        {"input": None, "data_removed": True},
        {"input": None, "model": None, "version": None},
    ],
)
async def test_what_is_reported_otherwise_is_neither_taken_nor_taken_for_nothing(reported: dict[str, object]) -> None:
    with pytest.raises(HeldForReview, match="it is unknown whether"):
        await find_id(mock_echo(**reported))


@pytest.mark.parametrize(
    ("requested", "reported"),
    [
        ({}, {"input": {**INPUT, "prompt": "a blue balloon"}}),
        ({}, {"model": "emulator/other"}),
        ({"model": HASH}, {"version": HASH[::-1]}),
        ({"model": f"emulator/video:{HASH}"}, {"version": HASH[::-1]}),
    ],
)
async def test_other_words_and_other_models_are_neither_taken_nor_taken_for_nothing(
    requested: dict[str, object], reported: dict[str, object]
) -> None:
    """Prompts are rewritten, owners of models renamed, and versions replaced."""
    with pytest.raises(HeldForReview, match="it is unknown whether"):
        await find_id(mock_echo(**reported), **requested)


async def test_a_cursor_that_leads_nowhere_ends_the_list() -> None:
    page = {"results": [{"id": "p", "status": "starting"}], "next": "https://evil.example/v1/predictions?cursor=c"}
    provider, sent = mock_replicate(httpx.Response(200, json=page))
    assert [generation.id async for generation in provider.list()] == ["p"]
    assert {request.url.host for request in sent} == {"api.example"}
    assert len(sent) == 2


async def test_ids_cannot_leave_their_path() -> None:
    provider, sent = mock_replicate(httpx.Response(200, json={}))
    for wrong in ("", "..", "a\nb"):
        with pytest.raises(InvalidInput):
            await provider.retrieve(wrong)
    assert sent == []
    for odd in ("../x", "a/b:c", "a?b#c%2e"):
        with pytest.raises(InvalidResponse):
            await provider.retrieve(odd)
    assert {request.url.raw_path.count(b"/") for request in sent} == {3}
    assert {request.url.query for request in sent} == {b""}
