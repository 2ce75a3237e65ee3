"""Credentials of a named profile, each store with its own."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from prefect_video.errors import StoreError
from prefect_video.storage import open_store
from tests.support.s3_server import KEY, SECRET, S3Server


async def test_stores_of_several_profiles_keep_their_own_keys(
    s3: S3Server, bucket: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    keys = {"house": SECRET, "stranger": "wrong"}
    credentials.write_text(
        "".join(f"[{name}]\naws_access_key_id={KEY}\naws_secret_access_key={key}\n" for name, key in keys.items())
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    place = {"endpoint_url": s3.endpoint_url, "region": "us-east-1"}
    target = PurePosixPath("film/clip.mp4")
    for name, opens in {"house": True, "stranger": False, "unknown": False}.items():
        store = open_store(f"s3://{bucket}/{name}", options={**place, "profile": name})
        try:
            if opens:
                await store.publish(clip, target, content_type="video/mp4")
            else:
                with pytest.raises(StoreError):
                    await store.publish(clip, target, content_type="video/mp4")
        finally:
            await store.aclose()
    assert list(s3.files(bucket)) == [f"house/{target}"]
