"""Lists that are partial, repeat themselves or give an id out twice never hide a generation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from prefect_video.errors import InvalidResponse
from prefect_video.generations import Generation, Status
from prefect_video.providers.openai.responses import ResponseReader
from prefect_video.providers.pages import Cursor, ListItem, ListPage, UnreadableItem, read_whole
from prefect_video.providers.replicate import responses as replicate
from prefect_video.providers.sora import responses as sora

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def build_generation(name: str, *, prompt: str = "a cat", created_at: datetime = NOON) -> Generation:
    """Build a queued generation."""
    return Generation(id=name, provider="p", status=Status.QUEUED, prompt=prompt, created_at=created_at)


async def read(everything: list[ListItem], size: int, *, limit: int = 100, **fields: Any) -> list[ListItem]:
    """Read a whole list by pages whose cursors count items."""

    async def read_page(cursor: Cursor | None) -> ListPage:
        start = int(cursor or 0)
        items = tuple(everything[start : start + size])
        cursors = tuple(start + number + 1 for number in range(len(items)))
        has_more = start + len(items) < len(everything)
        return ListPage(items, has_more=has_more, cursors=cursors, limit=limit, positional=True, **fields)

    return list((await read_whole(read_page, provider="p", unwrap_id=str)).items)


def respond(body: dict[str, Any], status: int = 200) -> httpx.Response:
    """Build the response to a request for a list."""
    return httpx.Response(status, json=body, request=httpx.Request("GET", "https://api.example/list"))


def read_response(dialect: str, response: httpx.Response) -> ListPage:
    """Read a page in the dialect."""
    if dialect == "sora":
        return sora.read_page(response, provider="p")
    if dialect == "replicate":
        return replicate.read_page(response, provider="p")
    return ResponseReader("p", "https://api.example/videos").page(response)


@pytest.mark.parametrize("dialect", ["sora", "replicate", "openai"])
def test_a_list_with_an_error_or_of_a_part_is_a_fault(dialect: str) -> None:
    body: dict[str, Any] = {"results": [], "next": None} if dialect == "replicate" else {"data": [], "has_more": False}
    assert read_response(dialect, respond({**body, "error": None})).items == ()
    with pytest.raises(InvalidResponse, match="shard 3"):
        read_response(dialect, respond({**body, "error": {"type": "server_error", "message": "shard 3 timed out"}}))
    with pytest.raises(InvalidResponse, match="206"):
        read_response(dialect, respond(body, 206))


async def test_items_without_an_id_after_the_overlap_are_kept() -> None:
    nameless = UnreadableItem()
    assert await read([build_generation("a"), build_generation("b"), nameless], 2) == [
        build_generation("a"),
        build_generation("b"),
        nameless,
    ]
    assert (await read([build_generation("a"), nameless, nameless], 2)).count(nameless) == 2


async def test_items_without_an_id_behind_the_cursor_are_not_counted_twice() -> None:
    everything = [build_generation("a"), build_generation("b"), UnreadableItem(), build_generation("c")]
    assert await read(everything, 3, total=4) == everything


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    "other",
    [
        build_generation("x", created_at=datetime(2026, 11, 26, 14, tzinfo=UTC)),
        build_generation("x", prompt="a dog"),
    ],
)
async def test_an_id_that_was_given_out_again_stands_for_two_generations(size: int, other: Generation) -> None:
    everything: list[ListItem] = [build_generation("x"), build_generation("a"), other]
    assert await read(everything, size, total=3) == everything


async def test_a_short_page_of_a_server_that_ignores_cursors_proves_no_end() -> None:
    async def read_page(cursor: Cursor | None) -> ListPage:
        return ListPage((build_generation("a"), build_generation("b")), cursors=("a", "b"), limit=100)

    with pytest.raises(InvalidResponse):
        await read_whole(read_page, provider="p", unwrap_id=str)
