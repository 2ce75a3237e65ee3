"""Uploads to S3 at constant memory; an object becomes visible whole or not at all."""

from __future__ import annotations

import asyncio
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
from prefect_video.storage.base import NewFile, SourceChanged, open_source
from prefect_video.storage.s3_checksum import UploadChecksum, md5_of
from prefect_video.storage.s3_errors import is_missing_upload

_log = logging.getLogger(__name__)

PART_BYTES: Final = 8 * 2**20
"""Size of a part; a file up to this size is uploaded in one request."""

_MAX_PARTS: Final = 10_000  # S3's limit
_CONCURRENT_PARTS: Final = 2  # each is held in memory

_HEAD_DELAYS_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 4.0)

_SendPart = Callable[[str, "_Part"], Awaitable[str]]


@dataclass(frozen=True)
class _Part:
    number: int
    start: int
    length: int


async def upload_file(
    client: Any,
    file: NewFile,
    bucket: str,
    key: str,
    *,
    extra: Mapping[str, Any],
    checksum: UploadChecksum,
    limit_bytes: int = PART_BYTES,
    look_up: bool = True,
) -> None:
    """Upload a file, each part with its MD5, and check the size of the object afterwards.

    Args:
        client: An aiobotocore S3 client.
        file: The file; its place is given by bucket and key.
        bucket: Name of the bucket.
        key: Key of the object.
        extra: Further parameters of the requests that create the object.
        checksum: The checksum that the store's uploads send.
        limit_bytes: Size up to which a file is uploaded in one request, instead of in parts.
        look_up: Whether to ask for the object's size although the server has compared its MD5; where the server
            takes none, the size is compared in any case.

    Raises:
        StoreError: The file changed during the upload, or the object is not as long as the file.
        SourceChanged: The file has another digest; nothing is visible.
    """
    source = _Source(file)
    size = await source.size()
    parameters = {"Bucket": bucket, "Key": key, "ContentType": file.content_type, **extra}
    if size <= limit_bytes:
        body, digest = await source.read(_Part(1, 0, size))
        source.require_digest()
        await checksum.send(client.put_object, digest, **parameters, Body=body)
    else:

        async def send(upload_id: str, part: _Part) -> str:
            body, digest = await source.read(part)
            response = await checksum.send(
                client.upload_part,
                digest,
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=part.number,
                Body=body,
            )
            return str(response["ETag"])

        await _upload_in_parts(client, parameters, _split_into_parts(size), send, source.require_digest)
    if look_up or checksum.is_refused:
        await _check_size(client, bucket, key, size)


class _Source:
    """New file that is read part by part, with the digest of all that was read."""

    def __init__(self, file: NewFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._turn = asyncio.Lock()

    async def size(self) -> int:
        """Return its size in bytes."""
        source = self._file.source
        return len(source) if isinstance(source, bytes) else (await asyncio.to_thread(source.stat)).st_size

    async def read(self, part: _Part) -> tuple[bytes, str]:
        """Read a part, as `_read_part` does; parts must be requested in order."""
        # The lock is first come, first served: the digest is of the parts in their order.
        async with self._turn:
            body, md5 = await asyncio.to_thread(_read_part, self._file.source, part)
            if self._file.sha256 is not None:
                await asyncio.to_thread(self._digest.update, body)
        return body, md5

    def require_digest(self) -> None:
        """Raise `SourceChanged` unless what was read has the digest that is expected."""
        if self._file.sha256 not in (None, self._digest.hexdigest()):
            raise SourceChanged(self._file.relative)


async def _upload_in_parts(
    client: Any,
    parameters: Mapping[str, Any],
    parts: list[_Part],
    send: _SendPart,
    require_digest: Callable[[], None],
) -> None:
    location = {"Bucket": parameters["Bucket"], "Key": parameters["Key"]}
    upload_id = await _create_upload(client, parameters, location)
    try:
        etags = await _send_parts(upload_id, parts, send)
        require_digest()
    except BaseException:
        # Shielded: after a cancellation the parts would be stored, and billed, until someone aborts the upload.
        await shielded(_abort_upload(client, location, upload_id))
        raise
    sent = [{"PartNumber": part.number, "ETag": etag} for part, etag in zip(parts, etags, strict=True)]
    # Shielded: a cancelled request may have succeeded, and the caller must know whether the object is visible.
    await shielded(_complete_upload(client, location, upload_id, sent))


async def _create_upload(client: Any, parameters: Mapping[str, Any], location: Mapping[str, str]) -> str:
    creation = asyncio.ensure_future(client.create_multipart_upload(**parameters))
    try:
        return str((await asyncio.shield(creation))["UploadId"])
    except asyncio.CancelledError:
        await shielded(_abort_once_created(client, location, creation))
        raise


async def _abort_once_created(client: Any, location: Mapping[str, str], creation: asyncio.Future[Any]) -> None:
    # The server may have begun an upload whose id only the response holds.
    await asyncio.wait([creation])
    if not creation.cancelled() and creation.exception() is None:
        await _abort_upload(client, location, creation.result()["UploadId"])


async def _complete_upload(
    client: Any, location: Mapping[str, str], upload_id: str, sent: list[dict[str, Any]]
) -> None:
    try:
        await client.complete_multipart_upload(**location, UploadId=upload_id, MultipartUpload={"Parts": sent})
    except Exception:
        await _abort_upload(client, location, upload_id)
        raise


async def _abort_upload(client: Any, location: Mapping[str, str], upload_id: str) -> None:
    try:
        await client.abort_multipart_upload(**location, UploadId=upload_id)
    except (BotoCoreError, ClientError) as error:
        # Not raised: the error that led here is the one to report, and `remove_stale_uploads` aborts the upload later.
        _log.warning("an unfinished upload of %s stays behind: %s", location["Key"], type(error).__name__)


async def _send_parts(upload_id: str, parts: list[_Part], send: _SendPart) -> list[str]:
    """Send parts, a few at a time, and return their entity tags.

    After a failure no more are begun, and those in progress end before it is raised.
    """
    unsent = deque(parts)
    etags: dict[int, str] = {}

    async def send_next_parts() -> None:
        try:
            while unsent:
                part = unsent.popleft()
                etags[part.number] = await send(upload_id, part)
        except BaseException:
            unsent.clear()
            raise

    results = await asyncio.gather(*(send_next_parts() for _ in range(_CONCURRENT_PARTS)), return_exceptions=True)
    if failures := [result for result in results if result is not None]:
        # Some servers end the whole upload for one bad part: a missing upload is then only a consequence.
        raise min(failures, key=is_missing_upload)
    return [etags[part.number] for part in parts]


async def _check_size(client: Any, bucket: str, key: str, size: int) -> None:
    head = await _head_new_object(client, bucket, key)
    if head["ContentLength"] != size:
        await client.delete_object(Bucket=bucket, Key=key)
        raise StoreError(
            f"s3://{bucket}/{key}: {head['ContentLength']:,} of {size:,} bytes arrived; removed, try again"
        )


async def _head_new_object(client: Any, bucket: str, key: str) -> Any:
    """Ask for an object that was just written: for a moment, some servers answer 403 or 404 where it already is."""
    for delay in (*_HEAD_DELAYS_SECONDS, None):
        try:
            return await client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if delay is None or status not in (403, 404):
                raise
            _log.info("s3://%s/%s: HTTP %s right after it was written; asked again in %s s", bucket, key, status, delay)
        await asyncio.sleep(delay)
    raise AssertionError("unreachable: the last try returns or raises")


def _split_into_parts(size: int) -> list[_Part]:
    length = max(PART_BYTES, math.ceil(size / _MAX_PARTS))
    starts = range(0, size, length)
    return [_Part(number, start, min(length, size - start)) for number, start in enumerate(starts, start=1)]


def _read_part(source: Path | bytes, part: _Part) -> tuple[bytes, str]:
    """Return a part of a file, and its MD5 in base64, by which the server checks the bytes it receives."""
    with open_source(source) as file:
        file.seek(part.start)
        body = file.read(part.length)
    if len(body) != part.length:
        raise StoreError(f"{source!s}: became shorter while it was uploaded; download it again")
    return body, md5_of(body)
