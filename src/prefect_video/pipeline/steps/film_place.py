"""Place of a film in a store: files named by the digest of what went in, and beside them the latest one's record."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from prefect_video._shield import run_in_thread
from prefect_video.assets import Asset, ContentCredentials
from prefect_video.errors import FilmError
from prefect_video.film import (
    PROVENANCE_NOTE,
    SIGNED_NOTE,
    Cut,
    Ingredient,
    StoredFilm,
    describe_software,
    list_clips,
)
from prefect_video.storage import NewFile, Store

if TYPE_CHECKING:
    from prefect_video.film import ProducedFilm

logger = logging.getLogger(__name__)

_DIGEST_LENGTH: Final = 10
_CONTENT_TYPES: Final = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".json": "application/json",
}
_FILM_FILE: Final = re.compile(
    r"/film(?:\.json|\.[0-9a-f]{10}\.(?:mp4|webm|json|jpg|sheet\.jpg|preview\.(?:webp|gif)))$"
)


def is_film_file(uri: str) -> bool:
    """Return whether a file of a store is part of a film, by its name."""
    return _FILM_FILE.search(uri) is not None


class FilmPlace:
    """Place of a film in a store; its name is the digest of everything that goes in.

    Args:
        store: The store.
        project: Name of the project, and of its folder.
        cut: The requested cut.
        shots: Ids of the project's shots, in order, each with that of the shot that it continues.
        clips: The stored takes, by their labels.
        files: Digests of the other files, from `digest_files`.
        signer: Digest of the certificate that signs the film; None where none does.

    Attributes:
        digest: Digest of everything that goes in.
    """

    def __init__(
        self,
        store: Store,
        project: str,
        cut: Cut,
        shots: Mapping[str, str | None],
        clips: Mapping[str, Asset],
        files: Mapping[str, str],
        signer: str | None = None,
    ) -> None:
        self._store = store
        self._project = project
        self._cut = cut
        self._files = dict(files)
        self._ingredients = tuple(_ingredient(asset) for asset in clips.values())
        self._software = describe_software()
        # Paths may differ from machine to machine; what the files hold is in their digests.
        self._record = _without_paths(cut, self._files)
        content = {
            "cut": self._record,
            "clips": {label: asset.sha256 for label, asset in clips.items()},
            "order": list(clips),
            "continues": [shots.get(clip.shot) for clip in list_clips(cut, list(shots))],
            "files": self._files,
            "software": self._software,
            **({"signer": signer} if signer else {}),
        }
        self.digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _path(self, ending: str) -> PurePosixPath:
        return PurePosixPath(self._project) / f"film.{self.digest[:_DIGEST_LENGTH]}{ending}"

    @property
    def _endings(self) -> dict[str, str]:
        return {
            "thumbnail_uri": ".jpg",
            "sheet_uri": ".sheet.jpg",
            "preview_uri": f".preview.{self._cut.preview}",
            "sidecar_uri": ".json",
            "uri": f".{self._cut.container}",
        }

    async def find(self) -> StoredFilm | None:
        """Return the film that is in the store; None where it, or a file that belongs to it, is not."""
        uris = {name: self._store.uri(self._path(ending)) for name, ending in self._endings.items()}
        film = await _read_film(self._store, uris["sidecar_uri"])
        if film is None or film.digest != self.digest:
            return None
        sizes = await self._store.sizes(uris.values())
        if sizes.keys() != set(uris.values()) or sizes[uris["uri"]] != film.bytes:
            return None
        # The sidecar may name another address: a store may have moved since.
        return film.model_copy(update=uris)

    async def publish(
        self, produced: ProducedFilm, folder: Path, credentials: ContentCredentials | None = None
    ) -> StoredFilm:
        """Publish a film: its previews and sidecar first, so that a reader who sees the film finds them."""
        sha256 = await run_in_thread(file_sha256, produced.path)
        film = self._describe(produced, sha256, credentials)
        pictures = await run_in_thread(produced.previews.write, folder)
        sidecar = folder / "film.json"
        await run_in_thread(sidecar.write_bytes, _to_json(film))
        files = [
            self._new_file(path, ending)
            for path, ending in zip((*pictures, sidecar, produced.path), self._endings.values(), strict=True)
        ]
        files[-1] = files[-1]._replace(sha256=sha256)
        await self._store.publish_all(files)
        await self.point_to(film)
        logger.info("stored %s: %.1f s, %d bytes", film.uri, film.duration_seconds, film.bytes)
        return film

    def _new_file(self, path: Path, ending: str) -> NewFile:
        return NewFile(path, self._path(ending), _CONTENT_TYPES[f".{ending.rpartition('.')[2]}"])

    async def point_to(self, film: StoredFilm) -> None:
        """Make `film.json` of the project's folder the record of this film, unless it is already."""
        relative = PurePosixPath(self._project) / "film.json"
        current = await _read_film(self._store, self._store.uri(relative))
        if current is not None and (current.digest, current.sha256) == (film.digest, film.sha256):
            return
        with tempfile.TemporaryDirectory(prefix="prefect-video-") as folder:
            path = Path(folder) / "film.json"
            await run_in_thread(path.write_bytes, _to_json(film))
            await self._store.publish(path, relative, content_type="application/json")

    def _describe(self, produced: ProducedFilm, sha256: str, credentials: ContentCredentials | None) -> StoredFilm:
        measures = produced.measures
        return StoredFilm(
            project=self._project,
            **{name: self._store.uri(self._path(ending)) for name, ending in self._endings.items()},
            sha256=sha256,
            bytes=produced.path.stat().st_size,
            duration_seconds=round(measures.seconds, 3),
            width=measures.width,
            height=measures.height,
            fps=round(measures.fps, 3),
            frames=measures.frames,
            codec=measures.codec,
            sound=measures.sound_seconds is not None,
            loudness_lufs=measures.lufs,
            stream_copy=produced.is_copied,
            digest=self.digest,
            cut=self._record,
            ingredients=self._ingredients,
            files=self._files,
            software=self._software,
            content_credentials=credentials,
            note=SIGNED_NOTE if credentials else PROVENANCE_NOTE,
            created_at=datetime.now(UTC),
        )


async def find_current_film(store: Store, project: str) -> StoredFilm | None:
    """Return the record of a project's latest film; None where it has none."""
    return await _read_film(store, store.uri(PurePosixPath(project) / "film.json"))


async def _read_film(store: Store, uri: str) -> StoredFilm | None:
    try:
        return StoredFilm.model_validate_json(await store.read_bytes(uri))
    except (FileNotFoundError, ValidationError):
        return None


def _ingredient(asset: Asset) -> Ingredient:
    return Ingredient(**asset.model_dump(include=set(Ingredient.model_fields)))


def _to_json(film: StoredFilm) -> bytes:
    return (json.dumps(film.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _cut_files(cut: Cut) -> Iterator[tuple[str, str]]:
    """Yield the files that a cut names, by what they are for."""
    if cut.music is not None:
        yield "music", cut.music.file
    if cut.captions is not None and cut.captions.file is not None:
        yield "captions", cut.captions.file
    if cut.font is not None:
        yield "font", cut.font


def digest_files(cut: Cut) -> dict[str, str]:
    """Compute the SHA-256 of music, captions and font, as far as a cut names them.

    Raises:
        FilmError: One of them cannot be read.
    """
    digests: dict[str, str] = {}
    for name, path in _cut_files(cut):
        try:
            digests[name] = file_sha256(Path(path))
        except OSError as error:
            raise FilmError(f"cut: {name}: {path}: cannot be read ({error.strerror or error})") from error
    return digests


def _without_paths(cut: Cut, files: Mapping[str, str]) -> dict[str, Any]:
    """Return a cut as it is recorded: the names of its files, without the folders of this machine."""
    record = cut.model_dump(mode="json", exclude_none=True)
    for name in files:
        if name == "font":
            record["font"] = Path(record["font"]).name
        else:
            record[name]["file"] = Path(record[name]["file"]).name
    return record


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
