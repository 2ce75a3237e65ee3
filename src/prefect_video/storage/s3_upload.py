"""Uploads to S3 that are seen whole or not at all, at constant memory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from prefect_video._shield import shielded
from prefect_video.errors import StoreError
from prefect_video.storage.s3_errors import is_upload_gone

_log = logging.getLogger(__name__)

PART_BYTES: Final = 8 * 2**20

_PARTS_LIMIT: Final = 10_000
_PARTS_AT_ONCE: Final = 2

_SendPart = Callable[[str, "_Part"], Awaitable[str]]


@dataclass(frozen=True)
class _Part:
    number: int
    start: int
    length: int


async def upload_file(
    client: Any, path: Path, bucket: str, key: str, *, content_type: str, extra: Mapping[str, Any]
) -> None:
    """Uploads a file, each part under its MD5, and checks the size of what is there afterwards.

    Raises:
        StoreError: The file changed meanwhile, or the object is not as long as the file.
    """
    size = (await asyncio.to_thread(path.stat)).st_size
    about = {"Bucket": bucket, "Key": key, "ContentType": content_type, **extra}
    if size <= PART_BYTES:
        body, digest = await asyncio.to_thread(_read, path, _Part(1, 0, size))
        await client.put_object(**about, Body=body, ContentMD5=digest)
    else:

        async def send(upload_id: str, part: _Part) -> str:
            body, digest = await asyncio.to_thread(_read, path, part)
            answer = await client.upload_part(
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=part.number,
                Body=body,
                ContentMD5=digest,
            )
            return str(answer["ETag"])

        await _in_parts(client, about, _parts(size), send)
    await _check_size(client, bucket, key, size)


async def _in_parts(client: Any, about: Mapping[str, Any], parts: list[_Part], send: _SendPart) -> None:
    where = {"Bucket": about["Bucket"], "Key": about["Key"]}
    upload_id = await _create(client, about, where)
    try:
        tags = await _send_all(upload_id, parts, send)
    except BaseException:
        await shielded(_abort(client, where, upload_id))
        raise
    done = [{"PartNumber": part.number, "ETag": tag} for part, tag in zip(parts, tags, strict=True)]
    await shielded(_complete(client, where, upload_id, done))


async def _create(client: Any, about: Mapping[str, Any], where: Mapping[str, str]) -> str:
    creating = asyncio.ensure_future(client.create_multipart_upload(**about))
    try:
        return str((await asyncio.shield(creating))["UploadId"])
    except asyncio.CancelledError:
        await shielded(_abort_once_created(client, where, creating))
        raise


async def _abort_once_created(client: Any, where: Mapping[str, str], creating: asyncio.Future[Any]) -> None:
    # The server may have begun an upload that only its answer names.
    await asyncio.wait([creating])
    if not creating.cancelled() and creating.exception() is None:
        await _abort(client, where, creating.result()["UploadId"])


async def _complete(client: Any, where: Mapping[str, str], upload_id: str, done: list[dict[str, Any]]) -> None:
    try:
        await client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": done})
    except Exception:
        await _abort(client, where, upload_id)
        raise


async def _abort(client: Any, where: Mapping[str, str], upload_id: str) -> None:
    try:
        await client.abort_multipart_upload(**where, UploadId=upload_id)
    except (BotoCoreError, ClientError) as error:
        # What made us abort is the error to be told; `sweep` removes what stays behind.
        _log.warning("an unfinished upload of %s stays behind: %s", where["Key"], type(error).__name__)


async def _send_all(upload_id: str, parts: list[_Part], send: _SendPart) -> list[str]:
    """Sends parts a few at a time; after a failure no more are begun, and those on their way end before it is raised.

    Some servers end the whole upload for one bad part: what the others are told then is not the cause.
    """
    left = deque(parts)
    tags: dict[int, str] = {}

    async def send_in_turn() -> None:
        try:
            while left:
                part = left.popleft()
                tags[part.number] = await send(upload_id, part)
        except BaseException:
            left.clear()
            raise

    ends = await asyncio.gather(*(send_in_turn() for _ in range(_PARTS_AT_ONCE)), return_exceptions=True)
    if failures := [end for end in ends if end is not None]:
        raise min(failures, key=is_upload_gone)
    return [tags[part.number] for part in parts]


async def _check_size(client: Any, bucket: str, key: str, size: int) -> None:
    head = await client.head_object(Bucket=bucket, Key=key)
    if head["ContentLength"] != size:
        await client.delete_object(Bucket=bucket, Key=key)
        raise StoreError(
            f"s3://{bucket}/{key}: {head['ContentLength']:,} of {size:,} bytes arrived; removed, try again"
        )


def _parts(size: int) -> list[_Part]:
    length = max(PART_BYTES, math.ceil(size / _PARTS_LIMIT))
    starts = range(0, size, length)
    return [_Part(number, start, min(length, size - start)) for number, start in enumerate(starts, start=1)]


def _read(path: Path, part: _Part) -> tuple[bytes, str]:
    """A part of a file and its MD5 in base64, by which the server checks what it receives."""
    with path.open("rb") as file:
        file.seek(part.start)
        body = file.read(part.length)
    if len(body) != part.length:
        raise StoreError(f"{path}: became shorter while it was uploaded; download it again")
    return body, base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
