"""Web addresses of stored files: below a public address, signed, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_video.errors import InvalidInput
from prefect_video.storage import open_store


async def test_a_file_lies_below_the_public_address_and_has_none_without(tmp_path: Path) -> None:
    folder = tmp_path / "my films"
    store = open_store(str(folder), options={"public_base_url": "https://films.example/ads/"})
    uri = f"{store.url}/film/opening.mp4"
    assert await store.link(uri) == "https://films.example/ads/film/opening.mp4"
    assert await open_store(str(folder)).link(uri) is None
    with pytest.raises(InvalidInput, match="lies outside the store"):
        await store.link("file:///elsewhere/opening.mp4")


async def test_links_to_s3_are_public_or_signed_without_a_request() -> None:
    keys = {"key": "AKIA", "secret": "s3cret", "region": "eu-north-1", "endpoint_url": "http://127.0.0.1:9"}
    uri = "s3://films/ads/film/a b.mp4"
    public = open_store("s3://films/ads", options={**keys, "public_base_url": "https://cdn.example"})
    signed = open_store("s3://films/ads", options={**keys, "link_hours": 2})
    none = open_store("s3://films/ads", options=keys)
    try:
        assert await public.link(uri) == "https://cdn.example/film/a%20b.mp4"
        link = await signed.link(uri)
        assert link is not None
        assert link.startswith("http://127.0.0.1:9/films/ads/film/a%20b.mp4?")
        assert "=7200" in link
        assert "s3cret" not in link
        assert await none.link(uri) is None
    finally:
        for store in (public, signed, none):
            await store.aclose()


@pytest.mark.parametrize(
    "options", [{"public_base_url": "films.example"}, {"public_base_url": "javascript:x"}, {"link_hours": 169}]
)
def test_an_address_or_a_time_that_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        open_store("s3://films/ads", options=options)
