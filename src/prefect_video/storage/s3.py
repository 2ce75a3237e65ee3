"""A store in an S3 bucket, at AWS or anything that speaks S3."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

from botocore.exceptions import ClientError

from prefect_video._shield import run_in_thread
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.storage.base import STALE_SECONDS, StoredFile, checked_path, guess_content_type
from prefect_video.storage.marker import STORE_MARKER, parse_marker, write_marker
from prefect_video.storage.s3_client import S3Options, S3Session
from prefect_video.storage.s3_errors import is_forbidden, is_missing, is_taken, no_bucket, not_supported, translated
from prefect_video.storage.s3_upload import upload_file

_LIST_FROM: Final = 20
_HEADS_AT_ONCE: Final = 16
_COPY_LIMIT_BYTES: Final = 5 * 2**30
_READ_BYTES: Final = 2**20


class S3Store:
    """Objects below one prefix of a bucket. An object appears when its upload is completed, never before."""

    def __init__(self, bucket: str, prefix: str, session: S3Session) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._session = session

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any]) -> S3Store:
        """Opens a bucket, or a prefix in it, by URL.

        Raises:
            InvalidInput: The URL or an option is not understood.
        """
        bucket, prefix = _split(url)
        prefix = prefix.strip("/")
        if prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/")):
            raise InvalidInput(f"store s3://{bucket}/{prefix}: the prefix has an empty, '.' or '..' part")
        return cls(bucket, prefix, S3Session(S3Options.read(options)))

    async def publish(self, spool: Path, relative: PurePosixPath, *, content_type: str) -> str:
        """See `Store.publish`."""
        uri = self.uri(relative)
        bucket, key = _locate(uri)
        async with self._client(f"publish {uri}") as client:
            await upload_file(
                client, spool, bucket, key, content_type=content_type, extra=self._session.options.on_write
            )
        return uri

    async def fetch(self, uri: str, destination: Path) -> None:
        """See `Store.fetch`."""
        bucket, key = _locate(uri)
        async with self._client(f"fetch {uri}") as client:
            answer = await client.get_object(Bucket=bucket, Key=key)
            came = 0
            # Opened here: a cancellation in a thread's hands would lose the open file.
            with destination.open("wb") as file:
                async with answer["Body"] as body:
                    while piece := await body.read(_READ_BYTES):
                        came += await run_in_thread(file.write, piece)
        if came != answer["ContentLength"]:
            raise StoreError(f"cannot fetch {uri}: {came:,} of {answer['ContentLength']:,} bytes came; try again")

    async def read_bytes(self, uri: str) -> bytes:
        """See `Store.read_bytes`."""
        bucket, key = _locate(uri)
        content: bytes | None = None
        async with self._client(f"read {uri}") as client:
            try:
                answer = await client.get_object(Bucket=bucket, Key=key)
                async with answer["Body"] as body:
                    content = await body.read()
            except ClientError as error:
                if not is_missing(error):
                    raise
        if content is None:
            raise FileNotFoundError(uri)
        return content

    async def size(self, uri: str) -> int | None:
        """See `Store.size`."""
        bucket, key = _locate(uri)
        async with self._client(f"look up {uri}") as client:
            return await _head(client, bucket, key)

    async def read_identity(self) -> str | None:
        """See `Store.read_identity`; a bucket that is not there is an error, not a store without a marker."""
        try:
            content = await self.read_bytes(f"{self.url}/{STORE_MARKER}")
        except FileNotFoundError:
            async with self._client(f"look up {self.url}") as client:
                await _check_bucket(client, self.bucket)
            return None
        return parse_marker(content, self.url)

    async def create_identity(self, store_id: str) -> str:
        """See `Store.create_identity`; of two that write it at once, one does where the server can tell."""
        if (known := await self.read_identity()) is not None:
            return known
        bucket, key = _locate(f"{self.url}/{STORE_MARKER}")
        async with self._client(f"mark {self.url}") as client:
            await _create_object(client, bucket, key, write_marker(store_id), self._session.options.on_write)
        if (stands := await self.read_identity()) is None:
            raise StoreError(f"store {self.url}: the marker that was just written is gone: look at the bucket's rules")
        return stands

    async def sizes(self, uris: Collection[str]) -> dict[str, int]:
        """See `Store.sizes`; a folder with many of them is listed, others are looked up one by one."""
        found: dict[str, int] = {}
        folders: dict[tuple[str, str], list[str]] = defaultdict(list)
        for uri in set(uris):
            bucket, key = _locate(uri)
            folders[bucket, key.rpartition("/")[0]].append(uri)
        slots = asyncio.Semaphore(_HEADS_AT_ONCE)
        async with self._client(f"look up files in {self.url}") as client:
            singles = [uri for wanted in folders.values() if len(wanted) <= _LIST_FROM for uri in wanted]
            sizes = await asyncio.gather(*(_head(client, *_locate(uri), slots=slots) for uri in singles))
            found.update((uri, size) for uri, size in zip(singles, sizes, strict=True) if size is not None)
            for bucket in {_locate(uri)[0] for uri in singles if uri not in found}:
                await _check_bucket(client, bucket)
            for (bucket, folder), wanted in folders.items():
                if len(wanted) > _LIST_FROM:
                    listed = await _list(client, bucket, f"{folder}/" if folder else "")
                    found.update((uri, listed[uri]) for uri in wanted if uri in listed)
        return found

    async def exists_many(self, uris: Collection[str]) -> set[str]:
        """See `Store.exists_many`."""
        return set(await self.sizes(uris))

    async def read_chunks(self, uri: str) -> AsyncIterator[bytes]:
        """See `Store.read_chunks`."""
        bucket, key = _locate(uri)
        async with self._client(f"read {uri}") as client:
            answer = await client.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                while piece := await body.read(_READ_BYTES):
                    yield piece

    async def folders(self) -> list[str]:
        """See `Store.folders`."""
        root = f"{self.prefix}/" if self.prefix else ""
        found: list[str] = []
        async with self._client(f"list {self.url}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root, Delimiter="/")
            async for page in pages:
                found += [job["Prefix"].removeprefix(root).rstrip("/") for job in page.get("CommonPrefixes", [])]
        return sorted(found)

    async def files(self, folder: str) -> AsyncIterator[StoredFile]:
        """See `Store.files`; a page of the listing at a time."""
        prefix = "".join(f"{part}/" for part in (self.prefix, folder) if part)
        only_here = {} if folder else {"Delimiter": "/"}
        async with self._client(f"list {self.url}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, **only_here)
            async for page in pages:
                for job in page.get("Contents", []):
                    if not job["Key"].endswith((STORE_MARKER, "/")):
                        yield StoredFile(f"s3://{self.bucket}/{job['Key']}", int(job["Size"]))

    async def copy(self, uri: str, relative: PurePosixPath) -> str:
        """See `Store.copy`; within S3 nothing passes through here."""
        target = self.uri(relative)
        if uri == target:
            return target
        size = await self.size(uri)
        if size is None or size > _COPY_LIMIT_BYTES:
            return await self._copy_through_here(uri, relative)
        origin = dict(zip(("Bucket", "Key"), _locate(uri), strict=True))
        bucket, key = _locate(target)
        async with self._client(f"copy {uri} to {target}") as client:
            await client.copy_object(Bucket=bucket, Key=key, CopySource=origin, **self._session.options.on_write)
        return target

    async def delete(self, uri: str) -> None:
        """See `Store.delete`."""
        if not self.owns(uri):
            raise InvalidInput(f"{uri}: lies outside the store {self.url}")
        bucket, key = _locate(uri)
        async with self._client(f"delete {uri}") as client:
            await client.delete_object(Bucket=bucket, Key=key)

    def uri(self, relative: PurePosixPath) -> str:
        """See `Store.uri`."""
        return f"{self.url}/{checked_path(relative)}"

    def owns(self, uri: str) -> bool:
        """See `Store.owns`."""
        inside = uri.removeprefix(f"{self.url}/")
        return inside != uri and bool(inside) and ".." not in PurePosixPath(inside).parts

    def reaches(self, uri: str) -> bool:
        """See `Store.reaches`; every bucket is asked with the same credentials."""
        return uri.startswith("s3://")

    async def check(self) -> None:
        """See `Store.check`."""
        key = f"{self.prefix}/check.{uuid.uuid4().hex[:12]}".lstrip("/")
        async with self._client(f"write to {self.url}") as client:
            await client.put_object(Bucket=self.bucket, Key=key, Body=b"ok", **self._session.options.on_write)
            await client.delete_object(Bucket=self.bucket, Key=key)

    async def remove_stale_uploads(self) -> int:
        """See `Store.sweep`; aborts uploads that nobody has completed."""
        prefix = f"{self.prefix}/" if self.prefix else ""
        async with self._client(f"sweep {self.url}") as client:
            stale = await _stale_uploads(client, self.bucket, prefix)
            for upload in stale:
                await client.abort_multipart_upload(Bucket=self.bucket, **upload)
        return len(stale)

    async def aclose(self) -> None:
        """See `Store.aclose`."""
        await self._session.aclose()

    @asynccontextmanager
    async def _client(self, doing: str) -> AsyncIterator[Any]:
        with translated(doing, self._session.options.endpoint_url):
            yield await self._session.client()

    async def _copy_through_here(self, uri: str, relative: PurePosixPath) -> str:
        with TemporaryDirectory(prefix="prefect-video-") as folder:
            spool = Path(folder) / "copy"
            await self.fetch(uri, spool)
            return await self.publish(spool, relative, content_type=guess_content_type(relative))


def _split(uri: str) -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme.lower() != "s3" or not bucket or "@" in bucket or ":" in bucket:
        raise InvalidInput("store: an S3 address is written s3://bucket/prefix, with keys given apart from it")
    return bucket, key


def _locate(uri: str) -> tuple[str, str]:
    """Bucket and key of an object."""
    bucket, key = _split(uri)
    if not key:
        raise InvalidInput(f"{uri}: names a bucket, not an object in it")
    return bucket, key


async def _head(client: Any, bucket: str, key: str, *, slots: asyncio.Semaphore | None = None) -> int | None:
    async with slots or asyncio.Semaphore():
        try:
            answer = await client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
    return int(answer["ContentLength"])


async def _check_bucket(client: Any, bucket: str) -> None:
    """Tells a missing object from a missing bucket, which a lookup does not; nobody may buy anew for a typo."""
    try:
        await client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if is_missing(error):
            raise no_bucket(bucket) from error
        if not is_forbidden(error):
            raise


async def _create_object(client: Any, bucket: str, key: str, content: bytes, options: Mapping[str, Any]) -> None:
    """Create an object unless there is one; a server that cannot tell replaces it."""
    try:
        await client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*", **options)
    except ClientError as error:
        if is_taken(error):
            return
        if not not_supported(error):
            raise
        await client.put_object(Bucket=bucket, Key=key, Body=content, **options)


async def _list(client: Any, bucket: str, prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    async for page in pages:
        found.update((f"s3://{bucket}/{job['Key']}", int(job["Size"])) for job in page.get("Contents", []))
    return found


async def _stale_uploads(client: Any, bucket: str, prefix: str) -> list[dict[str, str]]:
    now = datetime.now(UTC)
    stale: list[dict[str, str]] = []
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    try:
        async for page in pages:
            stale += [
                {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                for upload in page.get("Uploads", [])
                if (now - upload["Initiated"]).total_seconds() > STALE_SECONDS
            ]
    except ClientError as error:
        # Some servers answer so for a bucket that never had an upload.
        if error.response["Error"]["Code"] != "NoSuchUpload":
            raise
    return stale
