"""Buckets in which no video could be published: found before paying, whichever way a request comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_video.emulator import Emulator
from tests.support.s3_server import S3Server
from tests.unit.service.test_unusable_stores import PATHS, assert_no_payment


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("trouble", ["absent", "wrong secret"])
async def test_a_bucket_that_cannot_be_used_is_found_before_paying(
    environment: Path,
    provider: Emulator,
    s3: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    path: str,
) -> None:
    name, secret, reason = bucket, "hush", "secret does not match"
    if trouble == "absent":
        name, secret, reason = "no-such-bucket", s3.options["secret"], "no such bucket"
    for variable, value in {
        "AWS_ENDPOINT_URL": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3.options["key"],
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "PREFECT_VIDEO_STORE": f"s3://{name}/films",
    }.items():
        monkeypatch.setenv(variable, value)
    await assert_no_payment(provider, path, f"s3://{name}", reason)
