"""Deviations of each profile: deleting, cancelling, listing, searching, wrapped ids."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.errors import (
    HeldForReview,
    InvalidInput,
    NotFound,
    ProviderUnavailable,
    RequestRejected,
)
from prefect_video.generations import Status
from prefect_video.providers.openai.profiles import PROFILES
from prefect_video.providers.openai.responses import unwrap_id
from tests.support.providers.openai import SHOT, Open, Server, find, job, open_profile, submit

__all__ = ["open_profile"]


def test_what_was_deleted_stays_so_over_a_restart(tmp_path: Path) -> None:
    settings = EmulatorSettings(port=0, speed=500, render="plate", db=tmp_path / "emulator.db")
    headers = {"Authorization": "Bearer sk-emulator"}
    ids = []
    with Emulator(settings) as emulator, httpx.Client(base_url=f"{emulator.url}/v1", headers=headers) as client:
        for _ in range(2):
            ids.append(client.post("/videos", json={"prompt": "a cat", "seconds": "1"}).json()["id"])
        emulator.wait_until_idle()
        assert client.delete(f"/videos/{ids[0]}").json()["deleted"] is True
    with Emulator(settings) as emulator, httpx.Client(base_url=f"{emulator.url}/v1", headers=headers) as client:
        assert [client.get(f"/videos/{name}").status_code for name in ids] == [404, 200]
        assert [video["id"] for video in client.get("/videos").json()["data"]] == [ids[1]]


@pytest.mark.parametrize("profile", PROFILES)
async def test_deleting_a_finished_video_by_any_servers_answer(
    open_profile: Open, emulator: Emulator, profile: str
) -> None:
    provider = open_profile(profile)
    accepted = await submit(provider)
    emulator.wait_until_idle()
    await provider.delete(accepted.id)
    with pytest.raises(NotFound):
        await provider.delete(accepted.id)


async def test_sglangs_delete_leaves_the_gpu_working_so_cancelling_leaves_it_alone(
    open_profile: Open, emulator: Emulator
) -> None:
    provider = open_profile("sglang")
    accepted = await submit(provider, SHOT.model_copy(update={"duration": 20}))
    assert not (await provider.cancel(accepted.id)).status.ended
    await provider.delete(accepted.id)
    emulator.wait_until_idle()
    assert emulator.usage()["completed"] == 1


async def test_openai_refuses_to_delete_what_is_in_progress(open_profile: Open) -> None:
    provider = open_profile("generic")
    accepted = await submit(provider, SHOT.model_copy(update={"duration": 20}))
    with pytest.raises(RequestRejected, match="still being made"):
        await provider.delete(accepted.id)


async def test_litellm_spells_one_id_in_several_ways(open_profile: Open, emulator: Emulator) -> None:
    provider = open_profile("litellm")
    shot = SHOT.model_copy(update={"model": "sora-2?>"})
    accepted = await submit(provider, shot)
    assert "/" in accepted.id or "+" in accepted.id
    emulator.wait_until_idle()
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {emulator.key}"}) as client:
        path = f"/profiles/litellm/v1/videos/{accepted.id.replace('/', '%2F').replace('+', '%2B')}"
        spelt = (await client.get(emulator.url + path)).json()["id"]
    assert spelt != accepted.id
    assert unwrap_id(spelt) == unwrap_id(accepted.id)
    assert (await provider.retrieve(accepted.id)).id == accepted.id


async def test_a_litellm_proxy_lists_nothing_and_its_console_shows_other_ids(
    open_profile: Open, emulator: Emulator
) -> None:
    provider = open_profile("litellm")
    accepted = await submit(provider)
    await provider.check_access()
    assert not provider.capabilities.can_list
    with pytest.raises(HeldForReview, match="litellm does not list its generations"):
        await find(provider, SHOT, known=())
    shown = unwrap_id(accepted.id)
    with pytest.raises(ProviderUnavailable):
        await provider.retrieve(shown)
    wrapped = provider.qualify_id(shown, SHOT)
    assert unwrap_id((await provider.retrieve(wrapped)).id) == shown
    assert (provider.qualify_id(wrapped, SHOT), provider.qualify_id(accepted.id, SHOT)) == (wrapped, accepted.id)
    assert (await provider.retrieve(wrapped)).prompt is None


async def test_something_alike_is_neither_taken_nor_taken_for_nothing() -> None:
    now = datetime.now(UTC).timestamp()
    own = {
        "object": "video",
        "status": "queued",
        "created_at": now,
        "prompt": "a cat",
        "seconds": "2",
        "size": "854x480",
    }
    exact = {**own, "id": "video_exact"}
    for other in ({"seconds": "8"}, {"size": "480x854"}, {"prompt": None}, {"prompt": "a c..."}):
        alike = {**own, "id": "video_alike", **other}
        with pytest.raises(HeldForReview, match="may or may not"):
            await find(
                Server(httpx.Response(200, json={"data": [alike], "has_more": False})).provider(), SHOT, known=()
            )
        both = Server(httpx.Response(200, json={"data": [alike, exact], "has_more": False})).provider()
        found = await find(both, SHOT, known=())
        assert found is not None
        assert found.id == "video_exact"
    stranger = {**own, "id": "video_other", "prompt": "a dog"}
    old = {**own, "id": "video_old", "created_at": now - 90_000}
    nothing = Server(httpx.Response(200, json={"data": [stranger, old], "has_more": False})).provider()
    # A time proves something once a generation that the ledger knows has shown the server's clock.
    assert await find(nothing, SHOT, known=("video_other",)) is None
    with pytest.raises(HeldForReview, match="video_old, which may or may not"):
        await find(nothing, SHOT, known=())
    # Other words do not show that it is another's, as servers change them.
    stranger_alone = Server(httpx.Response(200, json={"data": [stranger], "has_more": False})).provider()
    with pytest.raises(HeldForReview, match="video_other, which may or may not"):
        await find(stranger_alone, SHOT, known=())


async def test_lists_with_a_cursor_without_and_in_one_piece(
    open_profile: Open, monkeypatch: pytest.MonkeyPatch, emulator: Emulator
) -> None:
    monkeypatch.setattr("prefect_video.providers.openai.provider.PAGE_SIZE", 2)
    for profile in (name for name, server in PROFILES.items() if server.lists):
        emulator.reset()
        provider = open_profile(profile)
        made = [unwrap_id((await submit(provider)).id) for _ in range(5)]
        assert [unwrap_id(generation.id) async for generation in provider.list()] == made[::-1], profile
        pages = emulator.usage()["requests"]["list"]
        assert pages == (1 if profile == "trtllm" else 3), profile


async def test_a_list_that_goes_in_circles_ends() -> None:
    page = {"data": [{"id": "video_1", "status": "queued"}], "has_more": True}
    server = Server(httpx.Response(200, json=page))
    assert [generation.id async for generation in server.provider().list()] == ["video_1"]
    assert len(server.requests) == 2


async def test_cancelling_what_is_being_cancelled_is_no_error() -> None:
    running, busy = job(status="in_progress"), httpx.Response(409, json={"error": {"message": "cancelling"}})
    server = Server(running, busy, job(status="completed"))
    assert (await server.provider("vllm_omni").cancel("video_1")).status is Status.COMPLETED
    assert [request.method for request in server.requests] == ["GET", "DELETE", "GET"]


async def test_what_is_over_is_never_deleted_by_cancelling() -> None:
    for status in ("completed", "succeeded", "failed", "expired"):
        server = Server(job(status=status))
        await server.provider("vllm_omni").cancel("video_1")
        assert [request.method for request in server.requests] == ["GET"]


@pytest.mark.parametrize(
    ("echoed", "found"),
    [
        ({"seconds": "4"}, True),
        ({"seconds": "4", "num_frames": 81, "fps": 16}, True),
        ({"seconds": "4", "num_frames": 81}, True),
        ({"seconds": "5"}, True),
        ({"seconds": "4", "num_frames": 33, "fps": 16}, False),
        ({"seconds": "4", "num_frames": 81, "fps": 24}, False),
        ({"seconds": "8"}, False),
    ],
)
async def test_a_number_of_frames_is_found_by_frames_or_by_the_dialects_default(
    echoed: dict[str, object], found: bool
) -> None:
    shot = SHOT.model_copy(update={"num_frames": 81, "fps": 16})
    listed = {
        "id": "video_1",
        "object": "video",
        "status": "in_progress",
        "prompt": "a cat",
        "size": "848x480",
        **echoed,
    }
    page = {"data": [{**listed, "created_at": int(datetime.now(UTC).timestamp())}], "has_more": False}
    looking = find(Server(httpx.Response(200, json=page)).provider("vllm_omni"), shot, known=())
    if found:
        assert (await looking) is not None
        return
    with pytest.raises(HeldForReview, match="may or may not"):
        await looking


@pytest.mark.parametrize("wrong", ["", ".", "..", "é", "a\nb"])
async def test_ids_cannot_leave_their_path(wrong: str) -> None:
    with pytest.raises(InvalidInput, match="generation id"):
        await Server(job()).provider().retrieve(wrong)


@pytest.mark.parametrize("given", ["a/../b", "a?b", "a#b", "a b", "%2e%2e"])
async def test_an_id_is_one_part_of_the_path_whatever_is_in_it(given: str) -> None:
    server = Server(job(status="completed"))
    provider = server.provider()
    done = await provider.retrieve(given)
    path = server.requests[0].url.raw_path.decode()
    assert path.startswith("/v1/videos/")
    assert path.count("/") == 3
    assert urlsplit(provider.download_source(done).url).path == f"{path}/content"
