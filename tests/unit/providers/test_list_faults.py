"""Whatever becomes of a list, an accepted generation on it is never taken for absent.

The lists are generated: foreign, known and own items in any order and on pages of any size, with fields that are
missing, changed or misdated.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_video.errors import HeldForReview, InvalidResponse
from prefect_video.generations import Generation, RecordedGeneration
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.replicate.provider import ReplicateProvider
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.shots import Shot

QUICK = HttpSettings(attempts=1, backoff_seconds=0, backoff_limit_seconds=0)
PROMPT = "a café by the sea, scene 1"
SHOT = Shot(id="sea", prompt=PROMPT, duration=2, resolution="480p", model="emulator/video")
KEY = "0b7f3a52-9a55-4b61-8f0e-9d0f2f1f6f10"
SENT_AT = datetime.now(UTC).replace(microsecond=0)
OWN = "gen_own"

Item = dict[str, Any]

PROMPTS = st.sampled_from(
    [PROMPT, PROMPT.upper(), "a cafÃ© by the sea", "[redacted]", "", "un café au bord de la mer", "a zebra", None, 7]
)
SKEWS = st.floats(-20 * 3600, 20 * 3600) | st.sampled_from([0.0, -600.0, -10 * 3600.0])
KEYS = st.sampled_from([KEY, KEY.upper(), KEY[:8], "********", "", None, {"value": KEY}])
READS = st.sampled_from([200, 200, 200, 403, 404, 500])


@st.composite
def own_items(draw: st.DrawFn) -> Item:
    """Draw the accepted generation as a server may report it."""
    item: Item = {
        "id": draw(st.sampled_from([OWN, OWN, "a/b:c==", "", None, 17])),
        "status": draw(st.sampled_from(["queued", "processing", "completed", "ready?", None])),
        "prompt": draw(PROMPTS),
        "model": draw(st.sampled_from(["emulator/video", "renamed/video", None])),
        "created": SENT_AT.timestamp() + 1 + draw(SKEWS),
        "metadata": {"idempotency_key": draw(KEYS)},
    }
    for name in draw(st.lists(st.sampled_from([*item]), max_size=2)):
        item.pop(name, None)
    return item


@st.composite
def other_items(draw: st.DrawFn) -> Item:
    """Draw a generation of another job or program, made days before or just now."""
    item: Item = {
        "id": f"gen_{draw(st.integers(0, 9))}",
        "status": draw(st.sampled_from(["queued", "completed"])),
        "prompt": draw(st.sampled_from(["a zebra", "a dog in the rain", PROMPT])),
        "created": SENT_AT.timestamp() + draw(st.sampled_from([-30 * 86400, -3600, 5])) + draw(st.integers(0, 100)),
    }
    for name in draw(st.lists(st.sampled_from(["created", "prompt"]), max_size=1)):
        item.pop(name, None)
    return item


def to_prediction(item: Item) -> Item:
    """Return an item as Replicate reports it."""
    names = {"id": "id", "status": "status", "model": "model"}
    prediction = {name: item[field] for name, field in names.items() if field in item}
    if "created" in item:
        prediction["created_at"] = datetime.fromtimestamp(item["created"], UTC).isoformat()
    return {**prediction, "input": {"prompt": item.get("prompt")}}


def record_of(item: Item) -> RecordedGeneration:
    """Return the ledger's record of an item, written a second after it was accepted."""
    recorded_at = datetime.fromtimestamp(item.get("created", SENT_AT.timestamp()) + 1, UTC)
    return RecordedGeneration(recorded_at, item.get("prompt"), None)


def serve(
    dialect: str, items: list[Item], page_size: int, read_status: int, server_date: datetime
) -> httpx.MockTransport:
    """Serve a list in pages, and each of its items by itself."""

    def respond(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        headers = {"date": format_datetime(server_date, usegmt=True)}
        if name not in ("generations", "predictions"):
            found = next((item for item in items if str(item.get("id")) == name), None)
            if found is None or read_status != 200:
                return httpx.Response(404 if found is None else read_status, json={"error": "?"}, headers=headers)
            return httpx.Response(200, json=found, headers=headers)
        start = int(request.url.params.get("offset" if dialect == "sora" else "cursor", 0))
        page, left = items[start : start + page_size], len(items) - start - page_size
        if dialect == "sora":
            listed = [{name: value for name, value in item.items() if name != "metadata"} for item in page]
            body: Item = {"data": listed, "has_more": left > 0}
        else:
            link = f"https://x/predictions?cursor={start + page_size}" if left > 0 else None
            body = {"results": [to_prediction(item) for item in page], "next": link}
        return httpx.Response(200, content=json.dumps(body), headers=headers)

    return httpx.MockTransport(respond)


@pytest.mark.parametrize("dialect", ["sora", "replicate"])
@settings(max_examples=100)
@given(
    own=own_items(),
    others=st.lists(other_items(), max_size=5, unique_by=lambda item: item["id"]),
    known_count=st.integers(0, 5),
    place=st.integers(0, 5),
    page_size=st.integers(1, 4),
    read_status=READS,
    clock=SKEWS,
)
async def test_an_accepted_generation_on_a_list_is_never_absent(
    dialect: str,
    own: Item,
    others: list[Item],
    known_count: int,
    place: int,
    page_size: int,
    read_status: int,
    clock: float,
) -> None:
    items = list(others)
    items.insert(min(place, len(items)), own)
    shift = timedelta(seconds=clock)
    # The whole server's clock may be wrong as well, which its known generations show.
    served = [{**item, **({"created": item["created"] + clock} if "created" in item else {})} for item in items]
    known = {item["id"]: record_of(item) for item in others[:known_count]}
    transport = serve(dialect, served, page_size, read_status, SENT_AT + shift)
    provider: SoraProvider | ReplicateProvider
    if dialect == "sora":
        provider = SoraProvider(api_key="k", endpoint="https://x/v1", settings=QUICK, transport=transport)
    else:
        provider = ReplicateProvider(api_key="k", base_url="https://x", settings=QUICK, transport=transport)
    try:
        found = await provider.find_unclaimed(SHOT, idempotency_key=KEY, sent_at=SENT_AT, known=known)
    except (HeldForReview, InvalidResponse):
        return
    finally:
        await provider.aclose()
    # Another one with the same prompt may be taken in its place: it is billed to no job.
    assert isinstance(found, Generation)
    assert found.id not in known or own.get("id") == found.id


@pytest.mark.parametrize("in_progress", [True, False, None])
async def test_a_list_must_have_what_is_in_progress(in_progress: bool | None) -> None:
    record = RecordedGeneration(SENT_AT - timedelta(hours=1), "a dog", in_progress)
    transport = serve("sora", [], 2, 200, datetime.now(UTC))
    provider = SoraProvider(api_key="k", endpoint="https://x/v1", settings=QUICK, transport=transport)

    async def search(known: RecordedGeneration) -> Generation | None:
        return await provider.find_unclaimed(SHOT, idempotency_key=KEY, sent_at=SENT_AT, known={"gen_1": known})

    if in_progress:
        with pytest.raises(InvalidResponse, match="leaves out generation gen_1"):
            await search(record)
    else:
        assert await search(record) is None
    # One that was recorded just now may be missing still.
    assert await search(replace(record, recorded_at=datetime.now(UTC))) is None
    await provider.aclose()


@pytest.mark.parametrize("headers", [{"age": "30"}, {"date": "Thu, 26 Nov 2026 10:00:00 GMT"}])
async def test_a_list_from_a_cache_finds_and_proves_no_absence(headers: dict[str, str]) -> None:
    listed = [{"id": OWN, "status": "queued", "metadata": {"idempotency_key": KEY}}]

    def respond(request: httpx.Request) -> httpx.Response:
        assert request.headers["cache-control"] == "no-cache"
        if "limit=1&" in f"{request.url.query.decode()}&":
            return httpx.Response(200, json={"data": []}, headers={"date": "Thu, 26 Nov 2026 10:00:06 GMT"})
        return httpx.Response(200, json={"data": listed, "has_more": False}, headers=headers)

    provider = SoraProvider(
        api_key="k", endpoint="https://x/v1", settings=QUICK, transport=httpx.MockTransport(respond)
    )
    await provider.check_access()
    found = await provider.find_unclaimed(SHOT, idempotency_key=KEY, sent_at=SENT_AT, known={})
    assert found is not None
    listed.clear()
    with pytest.raises(InvalidResponse, match="comes from a cache"):
        await provider.find_unclaimed(SHOT, idempotency_key=KEY, sent_at=SENT_AT, known={})
    await provider.aclose()
