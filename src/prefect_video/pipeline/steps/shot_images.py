"""Images of shots as local files: read and checked before anything is paid, and fetched once where they are URLs.

The copy of a fetched image is kept in the project's folder of the store, where every machine that retries or collects
finds it: `references/<SHA-256 of the content>.png`, named by `references/<SHA-256 of the URL>.url`. What the URL leads
to later does not count, so that it buys nothing again. The last frames of stored videos, which other shots begin with,
are kept there too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from prefect_video.assets import Asset
from prefect_video.downloads import (
    Image,
    fetch_image,
    parse_image,
    prepare_private_folder,
    read_image,
    redact,
)
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.pipeline.steps.last_frame import is_frame_address, read_frame
from prefect_video.pipeline.steps.store_identity import check_store
from prefect_video.session import Session
from prefect_video.shots import Shot, is_web_address
from prefect_video.storage import NewFile

IMAGE_FOLDER: Final = "references"
"""Folder of a project in which the copies of fetched images are."""


@dataclass(frozen=True)
class ImageFile:
    """Image of a shot as a local file.

    Attributes:
        path: The file.
        sha256: Hex digest of its content.
    """

    path: Path
    sha256: str


@dataclass
class ImageLoader:
    """Loader of the images of one project's shots; each is read once.

    Attributes:
        session: The store, and the client and policy by which URLs are fetched.
        project: Name of the project.
        accepts_store: Keep copies in the store although the ledger knows another one at its address.
        videos: The stored videos whose last frames shots begin with, by the addresses of these frames.
    """

    session: Session
    project: str
    accepts_store: bool = False
    videos: dict[str, Asset] = field(default_factory=dict)
    _files: dict[str, ImageFile] = field(default_factory=dict, init=False)

    async def load(self, shot: Shot) -> dict[str, ImageFile]:
        """Return the images of a shot by their paths and URLs.

        Raises:
            InvalidInput: One cannot be read or fetched, is too large, or is no image; the message names its field.
            StoreError: The store, which keeps the copies of fetched images, cannot be used.
        """
        loaded: dict[str, ImageFile] = {}
        for name, images in shot.images.items():
            for image in images:
                try:
                    loaded[image] = await self.load_one(image)
                except InvalidInput as error:
                    raise InvalidInput(f"shot {shot.id!r}: {name}: {error}") from error
        return loaded

    async def load_one(self, image: str) -> ImageFile:
        """Return an image by its path, URL or address, as `load` does."""
        if image not in self._files:
            self._files[image] = await self._load(image)
        return self._files[image]

    async def _load(self, image: str) -> ImageFile:
        if is_web_address(image):
            return await self._save(await self._find_copy(image) or await self._fetch(image))
        if is_frame_address(image):
            return await self._save(await self._find_copy(image) or await self._cut_out(image))
        read = await asyncio.to_thread(read_image, Path(image))
        return ImageFile(Path(image), read.sha256)

    async def _find_copy(self, url: str) -> Image | None:
        """Return the copy that the store has of an image; None where it has none."""
        store = self.session.store
        try:
            record = json.loads(await store.read_bytes(store.uri(self._record_path(url))))
            uri = store.uri(self._path(record["file"]))
            image = parse_image(await store.read_bytes(uri), uri)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, InvalidInput) as error:
            raise StoreError(f"the store's copy of {redact(url)} cannot be read: {error}") from error
        if image.sha256 != record.get("sha256"):
            raise StoreError(f"{uri} is damaged: it is not the image that was fetched from {redact(url)}")
        return image

    async def _fetch(self, url: str) -> Image:
        """Fetch an image, and keep a copy of it and a record of its URL in the store."""
        session = self.session
        image = await fetch_image(url, client=session.download_client, policy=session.link_policy)
        return await self._keep(image, url)

    async def _cut_out(self, address: str) -> Image:
        """Decode the last frame of a stored video, and keep it in the store: the kept one counts from then on.

        Another version of the decoder would make another file of it, for which the shot would be bought again.
        """
        if (video := self.videos.get(address)) is None:
            raise InvalidInput(f"{address} is in no store here: run the project again, which makes it")
        return await self._keep(await read_frame(self.session, video), address)

    async def _keep(self, image: Image, url: str) -> Image:
        """Publish an image and a record of its address; return the copy that counts."""
        session = self.session
        if not self.accepts_store:
            # Nothing may be written to a store that is not the one that the ledger knows.
            await check_store(session.ledger, session.store, session.store_name)
        file = f"{image.sha256}{image.suffix}"
        record = json.dumps({"url": redact(url), "file": file, "sha256": image.sha256}, indent=1)
        spool = session.settings.spool
        await asyncio.to_thread(prepare_private_folder, spool)
        with tempfile.TemporaryDirectory(prefix=".image-", dir=spool) as folder:
            content, named = Path(folder) / file, Path(folder) / "record.json"
            await asyncio.to_thread(content.write_bytes, image.content)
            await asyncio.to_thread(named.write_text, record, encoding="utf-8")
            await session.store.publish_all(
                [
                    NewFile(content, self._path(file), image.media_type, image.sha256),
                    NewFile(named, self._record_path(url), "application/json"),
                ]
            )
        # Of processes that fetch it at once, the last one's copy counts for all.
        return await self._find_copy(url) or image

    async def _save(self, image: Image) -> ImageFile:
        """Write an image of the store to the spool, for the request that sends it."""
        folder = self.session.settings.spool / IMAGE_FOLDER
        await asyncio.to_thread(prepare_private_folder, self.session.settings.spool)
        await asyncio.to_thread(prepare_private_folder, folder)
        path = folder / f"{image.sha256}{image.suffix}"
        await asyncio.to_thread(_write_whole, path, image.content)
        return ImageFile(path, image.sha256)

    def _path(self, file: str) -> PurePosixPath:
        return PurePosixPath(self.project, IMAGE_FOLDER, file)

    def _record_path(self, url: str) -> PurePosixPath:
        return self._path(f"{hashlib.sha256(url.encode()).hexdigest()}.url")


def with_local_images(shot: Shot, files: Mapping[str, ImageFile]) -> Shot:
    """Return a shot whose images are local files, as providers read them."""
    paths = {image: str(file.path) for image, file in files.items()}
    frames = {name: paths[images[0]] for name, images in shot.images.items() if name != "references"}
    return shot.model_copy(update={**frames, "references": tuple(paths[image] for image in shot.references)})


def _write_whole(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
