"""Store in an S3 bucket, at AWS or any S3-compatible server."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

from botocore.exceptions import ClientError
from tenacity import stop_after_attempt

from prefect_video._shield import run_in_thread
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.retry_policy import retrying
from prefect_video.storage.base import STALE_SECONDS, NewFile, StoredFile, guess_content_type, validate_path
from prefect_video.storage.links import LinkOptions
from prefect_video.storage.marker import STORE_MARKER, parse_marker, write_marker
from prefect_video.storage.s3_checksum import UploadChecksum
from prefect_video.storage.s3_client import S3Options, S3Session
from prefect_video.storage.s3_errors import (
    build_missing_bucket_error,
    is_cut,
    is_forbidden,
    is_missing,
    is_taken,
    is_unsupported,
    translate_errors,
)
from prefect_video.storage.s3_upload import PART_BYTES, upload_file

# Above so many files of one folder, one listing is cheaper than a request for each.
_MAX_SINGLE_LOOKUPS: Final = 20
_CONCURRENT_LOOKUPS: Final = 16
# S3's limit for a copy in one request.
_COPY_LIMIT_BYTES: Final = 5 * 2**30
_READ_BYTES: Final = 2**20
_DELAYS_AFTER_WRITE_SECONDS: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
_CHECK_CONTENT: Final = b"prefect-video check"


_NO_LINKS: Final = LinkOptions()


class S3Store:
    """Store of the objects below one prefix of a bucket. An object appears when its upload is completed, never before.

    Attributes:
        bucket: Name of the bucket.
        prefix: The prefix without slashes at its ends; may be empty.
        url: `s3://bucket/prefix`.
        links: How its files are reached from a browser.
    """

    def __init__(self, bucket: str, prefix: str, session: S3Session, links: LinkOptions = _NO_LINKS) -> None:
        self.links = links
        self.bucket = bucket
        self.prefix = prefix
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._session = session
        self._checksum = UploadChecksum(self.url)

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any], links: LinkOptions = _NO_LINKS) -> S3Store:
        """Open a bucket, or a prefix in it, by URL.

        Raises:
            InvalidInput: The URL or an option is not valid.
        """
        bucket, prefix = _split_url(url)
        prefix = prefix.strip("/")
        if prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/")):
            raise InvalidInput(f"store s3://{bucket}/{prefix}: the prefix has an empty, '.' or '..' part")
        return cls(bucket, prefix, S3Session(S3Options.read(options)), links)

    async def publish(
        self, spool: Path, relative: PurePosixPath, *, content_type: str, sha256: str | None = None
    ) -> str:
        uri = self.uri(relative)
        async with self._client(f"publish {uri}") as client:
            await self._upload(client, NewFile(spool, relative, content_type, sha256), uri)
        return uri

    async def publish_all(self, files: Sequence[NewFile]) -> list[str]:
        """Upload all but the last side by side, then the last, which alone is looked up afterwards."""
        uris = [self.uri(file.relative) for file in files]
        async with self._client(f"publish {uris[-1]}") as client:
            *before, last = [partial(self._upload, client, file, uri) for file, uri in zip(files, uris, strict=True)]
            # All have ended before an error is raised, so that the caller can clean up.
            ended = await asyncio.gather(*(upload(look_up=False) for upload in before), return_exceptions=True)
            for error in ended:
                if error is not None:
                    raise error
            await last()
        return uris

    async def fetch(self, uri: str, destination: Path) -> None:
        bucket, key = _locate(uri)
        async with self._client(f"fetch {uri}") as client:
            response = await client.get_object(Bucket=bucket, Key=key)
            received = 0
            # Not opened in a thread: a cancellation would lose the open file.
            with destination.open("wb") as file:
                async with response["Body"] as body:
                    while chunk := await body.read(_READ_BYTES):
                        received += await run_in_thread(file.write, chunk)
        # A connection that is cut may look like the end of the body.
        if received != response["ContentLength"]:
            raise StoreError(f"cannot fetch {uri}: {received:,} of {response['ContentLength']:,} bytes came; try again")

    async def read_bytes(self, uri: str) -> bytes:
        bucket, key = _locate(uri)
        content: bytes | None = None
        async with self._client(f"read {uri}") as client:
            try:
                content = await _read_object(client, bucket, key)
            except ClientError as error:
                if not is_missing(error):
                    raise
        if content is None:
            # Outside of the block, which would translate it: `FileNotFoundError` is an `OSError`.
            raise FileNotFoundError(uri)
        return content

    async def size(self, uri: str) -> int | None:
        bucket, key = _locate(uri)
        async with self._client(f"look up {uri}") as client:
            return await _read_size(client, bucket, key)

    async def read_identity(self) -> str | None:
        """Return the identity in the marker; a missing bucket is an error, not a store without a marker."""
        try:
            content = await self.read_bytes(f"{self.url}/{STORE_MARKER}")
        except FileNotFoundError:
            async with self._client(f"look up {self.url}") as client:
                await _check_bucket(client, self.bucket)
            return None
        return parse_marker(content, self.url)

    async def create_identity(self, store_id: str) -> str:
        """Write a marker unless there is one, and return the identity afterwards.

        Of concurrent writers one wins, if the server supports conditional requests; where it does not, each replaces
        the other's object, so the writers of one process take turns.
        """
        async with self._session.lock():
            if (existing := await self.read_identity()) is not None:
                return existing
            bucket, key = _locate(f"{self.url}/{STORE_MARKER}")
            async with self._client(f"mark {self.url}") as client:
                await _create_object(client, bucket, key, write_marker(store_id), self._session.options.on_write)
            return await self._read_written_identity()

    async def _read_written_identity(self) -> str:
        """Return the identity in a marker that was just written: another writer's, if that was faster.

        It is missing for a moment while a server that keeps objects as files replaces it.
        """
        for delay_seconds in _DELAYS_AFTER_WRITE_SECONDS:
            await asyncio.sleep(delay_seconds)
            if (identity := await self.read_identity()) is not None:
                return identity
        raise StoreError(
            f"store {self.url}: the marker that was just written is missing: look at the bucket's lifecycle rules"
        )

    async def find_enclosing(self) -> str | None:
        parts = self.prefix.split("/") if self.prefix else []
        found = await self._find_marked(["/".join(parts[:length]) for length in reversed(range(len(parts)))])
        return next(iter(found), None)

    async def find_enclosed(self) -> list[str]:
        return await self._find_marked([f"{self.prefix}/{name}".lstrip("/") for name in await self.folders()])

    async def _find_marked(self, prefixes: Sequence[str]) -> list[str]:
        """Return the addresses of those prefixes of the bucket that have a marker and may be read, in their order."""
        slots = asyncio.Semaphore(_CONCURRENT_LOOKUPS)
        async with self._client(f"look for stores around {self.url}") as client:

            async def has_marker(prefix: str) -> bool:
                try:
                    key = f"{prefix}/{STORE_MARKER}".lstrip("/")
                    return await _read_size(client, self.bucket, key, slots=slots) is not None
                except ClientError as error:
                    if not is_forbidden(error):
                        raise
                    return False

            marked = await asyncio.gather(*map(has_marker, prefixes))
        found = [prefix for prefix, is_marked in zip(prefixes, marked, strict=True) if is_marked]
        return [f"s3://{self.bucket}/{prefix}".rstrip("/") for prefix in found]

    async def sizes(self, uris: Collection[str]) -> dict[str, int]:
        """Return the sizes of those URIs that exist; a folder with many of them is listed, others are looked up."""
        found: dict[str, int] = {}
        folders: dict[tuple[str, str], list[str]] = defaultdict(list)
        for uri in set(uris):
            bucket, key = _locate(uri)
            folders[bucket, key.rpartition("/")[0]].append(uri)
        slots = asyncio.Semaphore(_CONCURRENT_LOOKUPS)
        async with self._client(f"look up files in {self.url}") as client:
            singles = [uri for members in folders.values() if len(members) <= _MAX_SINGLE_LOOKUPS for uri in members]
            sizes = await asyncio.gather(*(_read_size(client, *_locate(uri), slots=slots) for uri in singles))
            found.update((uri, size) for uri, size in zip(singles, sizes, strict=True) if size is not None)
            for bucket in {_locate(uri)[0] for uri in singles if uri not in found}:
                await _check_bucket(client, bucket)
            for (bucket, folder), members in folders.items():
                if len(members) > _MAX_SINGLE_LOOKUPS:
                    listed = await _list_sizes(client, bucket, f"{folder}/" if folder else "")
                    found.update((uri, listed[uri]) for uri in members if uri in listed)
        return found

    async def read_chunks(self, uri: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        bucket, key = _locate(uri)
        # Without a range where all is wanted: an empty object has none that could be satisfied.
        part = {} if (start, stop) == (0, None) else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        async with self._client(f"read {uri}") as client:
            response = await client.get_object(Bucket=bucket, Key=key, **part)
            async with response["Body"] as body:
                while chunk := await body.read(_READ_BYTES):
                    yield chunk

    async def folders(self) -> list[str]:
        root = f"{self.prefix}/" if self.prefix else ""
        found: list[str] = []
        async with self._client(f"list {self.url}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root, Delimiter="/")
            async for page in pages:
                found += [entry["Prefix"].removeprefix(root).rstrip("/") for entry in page.get("CommonPrefixes", [])]
        return sorted(found)

    async def files(self, folder: str) -> AsyncIterator[StoredFile]:
        """List the files below a folder, a page of the listing at a time."""
        prefix = "".join(f"{part}/" for part in (self.prefix, folder) if part)
        # With a delimiter, objects in sub-folders are not listed.
        delimiter = {} if folder else {"Delimiter": "/"}
        async with self._client(f"list {self.url}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, **delimiter)
            async for page in pages:
                for entry in page.get("Contents", []):
                    # Consoles create "folders": empty objects whose key ends with a slash.
                    if not entry["Key"].endswith((STORE_MARKER, "/")):
                        yield StoredFile(f"s3://{self.bucket}/{entry['Key']}", int(entry["Size"]))

    async def copy(self, uri: str, relative: PurePosixPath) -> str:
        """Publish a copy; the server copies, except objects too large for one request."""
        target = self.uri(relative)
        if uri == target:
            return target
        size = await self.size(uri)
        if size is None or size > _COPY_LIMIT_BYTES:
            return await self._copy_through_disk(uri, relative)
        source = dict(zip(("Bucket", "Key"), _locate(uri), strict=True))
        bucket, key = _locate(target)
        async with self._client(f"copy {uri} to {target}") as client:
            await client.copy_object(Bucket=bucket, Key=key, CopySource=source, **self._session.options.on_write)
        return target

    async def delete(self, uri: str) -> None:
        if not self.owns(uri):
            raise InvalidInput(f"{uri}: lies outside the store {self.url}")
        bucket, key = _locate(uri)
        async with self._client(f"delete {uri}") as client:
            await client.delete_object(Bucket=bucket, Key=key)

    def uri(self, relative: PurePosixPath) -> str:
        return f"{self.url}/{validate_path(relative)}"

    async def link(self, uri: str) -> str | None:
        """Return the public address, else one that is signed for as long as `link_hours` says; no request is made."""
        if self.links.public_base_url or not self.links.link_hours:
            return self.links.public_address(self.url, uri)
        bucket, key = _locate(uri)
        async with self._client(f"sign a link to {uri}") as client:
            link: str = await client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=self.links.link_hours * 3600
            )
        return link

    def owns(self, uri: str) -> bool:
        inside = uri.removeprefix(f"{self.url}/")
        return inside != uri and bool(inside) and ".." not in PurePosixPath(inside).parts

    def canonical_uri(self, uri: str) -> str:
        if not self.owns(uri):
            raise InvalidInput(f"{uri}: lies outside the store {self.url}")
        return uri

    def is_at(self, url: str) -> bool:
        return url == self.url

    def reaches(self, uri: str) -> bool:
        """Return True for every S3 URI: all buckets are accessed with the same credentials."""
        return uri.startswith("s3://")

    async def check(self) -> None:
        file = NewFile(_CHECK_CONTENT, PurePosixPath(f"check.{uuid.uuid4().hex[:12]}"), "video/mp4")
        async with self._client(f"write to {self.url}, read it and delete it") as client:
            # In one request and in parts: a bucket's policy may allow the first and refuse the second.
            for limit_bytes in (PART_BYTES, 0):
                await self._check_upload(client, file, limit_bytes)

    async def _check_upload(self, client: Any, file: NewFile, limit_bytes: int) -> None:
        """Publish, look up, read and delete a small object: in one request, or in parts beyond the limit."""
        uri = self.uri(file.relative)
        bucket, key = _locate(uri)
        try:
            await self._upload(client, file, uri, limit_bytes=limit_bytes)
            content = await _read_object(client, bucket, key)
        except ClientError:
            # If it cannot be deleted either, the first error says more.
            with contextlib.suppress(ClientError):
                await client.delete_object(Bucket=bucket, Key=key)
            raise
        await client.delete_object(Bucket=bucket, Key=key)
        if content != _CHECK_CONTENT:
            raise StoreError(f"store {self.url}: what was read is not what was written; look at what is between")

    async def remove_stale_uploads(self) -> int:
        """Abort multipart uploads that were begun more than a day ago; return their number."""
        prefix = f"{self.prefix}/" if self.prefix else ""
        async with self._client(f"remove stale uploads from {self.url}") as client:
            stale = await _find_stale_uploads(client, self.bucket, prefix)
            for upload in stale:
                await client.abort_multipart_upload(Bucket=self.bucket, **upload)
        return len(stale)

    async def aclose(self) -> None:
        await self._session.aclose()

    async def _upload(
        self,
        client: Any,
        file: NewFile,
        uri: str,
        *,
        limit_bytes: int = PART_BYTES,
        look_up: bool = True,
    ) -> None:
        bucket, key = _locate(uri)
        await upload_file(
            client,
            file,
            bucket,
            key,
            extra=self._session.options.on_write,
            checksum=self._checksum,
            limit_bytes=limit_bytes,
            look_up=look_up,
        )

    @asynccontextmanager
    async def _client(self, action: str) -> AsyncIterator[Any]:
        with translate_errors(action, self._session.options.endpoint_url):
            yield await self._session.client()

    async def _copy_through_disk(self, uri: str, relative: PurePosixPath) -> str:
        with TemporaryDirectory(prefix="prefect-video-") as folder:
            spool = Path(folder) / "copy"
            await self.fetch(uri, spool)
            return await self.publish(spool, relative, content_type=guess_content_type(relative))


def _split_url(uri: str) -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme.lower() != "s3" or not bucket or "@" in bucket or ":" in bucket:
        raise InvalidInput("store: an S3 address is written s3://bucket/prefix, with keys given apart from it")
    return bucket, key


def _locate(uri: str) -> tuple[str, str]:
    """Return bucket and key of an object.

    Raises:
        InvalidInput: The URI is not that of an object in S3.
    """
    bucket, key = _split_url(uri)
    if not key:
        raise InvalidInput(f"{uri}: names a bucket, not an object in it")
    return bucket, key


async def _read_size(client: Any, bucket: str, key: str, *, slots: asyncio.Semaphore | None = None) -> int | None:
    async with slots or asyncio.Semaphore():
        try:
            response = await client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
    return int(response["ContentLength"])


async def _check_bucket(client: Any, bucket: str) -> None:
    """Raise if a bucket does not exist.

    A lookup answers the same for a missing object and a missing bucket. A mistyped bucket must not make all its videos
    count as missing, because missing videos are bought again.
    """
    try:
        await client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if is_missing(error):
            raise build_missing_bucket_error(bucket) from error
        # A key without the right to list the bucket is enough to read objects.
        if not is_forbidden(error):
            raise


@retrying(0.2, 0.2, stop=stop_after_attempt(6), retry=is_cut).wraps
async def _read_object(client: Any, bucket: str, key: str) -> bytes:
    """Return an object's content, reading again what another writer replaced meanwhile.

    A server that keeps objects as files cuts the answer off when the file is replaced under it, as a new store's
    marker is by processes that begin at once.
    """
    response = await client.get_object(Bucket=bucket, Key=key)
    async with response["Body"] as body:
        return bytes(await body.read())


async def _create_object(client: Any, bucket: str, key: str, content: bytes, options: Mapping[str, Any]) -> None:
    """Create an object unless it exists; a server without conditional requests replaces it."""
    try:
        await client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*", **options)
    except ClientError as error:
        if is_taken(error):
            return
        if not is_unsupported(error):
            raise
        await client.put_object(Bucket=bucket, Key=key, Body=content, **options)


async def _list_sizes(client: Any, bucket: str, prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    async for page in pages:
        found.update((f"s3://{bucket}/{entry['Key']}", int(entry["Size"])) for entry in page.get("Contents", []))
    return found


async def _find_stale_uploads(client: Any, bucket: str, prefix: str) -> list[dict[str, str]]:
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
        # The response of some servers for a bucket that never had an upload.
        if error.response["Error"]["Code"] != "NoSuchUpload":
            raise
    return stale
