"""Verification: every asset of the ledger against its store, and every file of the store against the ledger.

It goes project by project, so that memory is bounded by the largest project; contents are read in pieces.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from prefect_video.assets import MANUAL, Asset, ContentCredentials
from prefect_video.errors import StoreError, StoreOutage, VideoError
from prefect_video.gallery import is_derived, publish_gallery
from prefect_video.ledger import UNFINISHED, Job, Ledger, State
from prefect_video.pipeline.provenance import (
    AssetCredentials,
    ManifestFlaw,
    check_film_credentials,
    check_manifest,
    describe_credentials,
    read_stored_credentials,
)
from prefect_video.pipeline.steps.adopt import find_unrecorded, list_folder, read_videos, sidecars_of
from prefect_video.pipeline.steps.adopt_rejected import find_unknown, read_all_kept
from prefect_video.pipeline.steps.film_place import is_film_file
from prefect_video.pipeline.steps.restore import restore
from prefect_video.pipeline.steps.shot_images import IMAGE_FOLDER
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_check import describe_size, place_in_store
from prefect_video.pipeline.steps.store_identity import accept_store, check_store, nested_stores, require_root
from prefect_video.pipeline.steps.whole_copies import find_whole_copies, use_copy
from prefect_video.session import SessionOpener, group_by_session
from prefect_video.storage import (
    LedgerReference,
    Store,
    copy_video,
    parse_sidecar,
    publish_sidecar,
    read_sha256,
    read_sidecar,
    rejected_paths,
    sidecar_path,
)

logger = logging.getLogger(__name__)

_READS_AT_ONCE: Final = 8
_RESTORES_AT_ONCE: Final = 8

Problem = Literal["missing", "damaged", "sidecar"]


class AssetFlaw(BaseModel):
    """An asset of the ledger that the store does not hold whole.

    Attributes:
        job_id: Id of the job; of the original's job for a copy.
        project: The project whose folder it lies in.
        shot: Id of the shot.
        uri: Where the video should be.
        problem: The video is missing or damaged, or only its sidecar is.
        detail: Description of the flaw.
        repaired: It is whole again.
        error: Why it could not be repaired.
    """

    model_config = ConfigDict(frozen=True)

    job_id: str
    project: str
    shot: str
    uri: str
    problem: Problem
    detail: str
    repaired: bool = False
    error: str | None = None


class Verification(BaseModel):
    """Outcome of a verification.

    Attributes:
        store: Address of the store.
        store_id: Identity in its marker; None where there is none.
        outage: Why this is not the store that the ledger knows.
        assets: How many assets of the ledger should be in it.
        flaws: Those that are not whole, repaired ones too.
        unknown_files: URIs of files that no job of the ledger knows.
        unrecorded: URIs of those that are sidecars of videos that this very ledger has paid for: it is an old backup.
        recover_command: The command that adds what is unrecorded; None where nothing is.
        manifest_flaws: Lines of the projects' manifests that do not hold.
        content_credentials: The C2PA manifests of the assets, as far as they were looked for.
    """

    model_config = ConfigDict(frozen=True)

    store: str
    store_id: str | None
    outage: str | None
    assets: int
    flaws: tuple[AssetFlaw, ...]
    unknown_files: tuple[str, ...]
    unrecorded: tuple[str, ...] = ()
    recover_command: str | None = None
    manifest_flaws: tuple[ManifestFlaw, ...] = ()
    content_credentials: tuple[AssetCredentials, ...] = ()

    @property
    def is_whole(self) -> bool:
        """True where it is the right store, every asset is whole, the ledger knows all it has paid for, manifests hold.

        Other files that no job knows are no loss.
        """
        is_complete = self.outage is None and not self.unrecorded and not self.manifest_flaws
        return is_complete and all(flaw.repaired for flaw in self.flaws)

    def public(self) -> dict[str, Any]:
        """Return the one object that `--json` prints."""
        return {**self.model_dump(mode="json"), "whole": self.is_whole}


async def verify_store(
    ledger: Ledger,
    store: Store,
    *,
    name: str | None = None,
    open_session: SessionOpener | None = None,
    read_credentials: bool = False,
) -> Verification:
    """Compare a store with the ledger, both ways, reading every asset; nothing is bought and nothing marked lost.

    Args:
        ledger: The ledger, which says what should be there.
        store: The store.
        name: The name by which commands find it: a saved block; None for its address.
        open_session: Opens the session that a job was made with, on this store. Where it is given the store is
            accepted, and what is not whole is fetched again, copied again or written again.
        read_credentials: Read the C2PA manifest of every whole video anew; else those count that were read when the
            videos were stored.

    Raises:
        LedgerError: The ledger cannot be used.
        StoreOutage: The address is a folder of a store, or one that a store lies in; nothing was read or repaired.
        StoreError: The store cannot be read.
    """
    await require_root(ledger, store)
    outage: str | None = None
    if open_session:
        await accept_store(ledger, store)
    else:
        try:
            await check_store(ledger, store, name)
        except StoreOutage as error:
            outage = str(error)
    nested = await nested_stores(ledger, store)
    verifier = _Verifier(
        ledger,
        store,
        name or store.url,
        open_session,
        store_id=await store.read_identity(),
        nested=tuple(f"{url}/" for url in nested),
        read_credentials=read_credentials,
    )
    for project in sorted({*await ledger.stores.projects(), *await store.folders()}):
        await verifier.verify_project(project)
    at_root = {file.uri: file.bytes async for file in store.files("")}
    verifier.unknown |= {uri: size for uri, size in at_root.items() if not is_derived(store, uri)}
    unrecorded = await verifier.find_unrecorded()
    return Verification(
        store=store.url,
        store_id=verifier.store_id,
        outage=outage,
        assets=verifier.assets,
        flaws=tuple(verifier.flaws),
        unknown_files=tuple(verifier.unknown),
        unrecorded=tuple(unrecorded),
        recover_command=ledger.recover_command(name or store.url) if unrecorded else None,
        manifest_flaws=tuple(verifier.manifest_flaws),
        content_credentials=tuple(verifier.credentials),
    )


@dataclass(frozen=True)
class _Expected:
    """An asset that should be in the store: of a stored job, or a copy of one (then `job` is None).

    `has_moved` says that it was recorded at another address, before its whole store has moved here.
    """

    job_id: str
    asset: Asset
    job: Job | None
    has_moved: bool = False

    def flaw(self, problem: Problem, detail: str) -> AssetFlaw:
        asset = self.asset
        return AssetFlaw(
            job_id=self.job_id,
            project=asset.project,
            shot=asset.shot_id,
            uri=asset.uri,
            problem=problem,
            detail=detail,
        )


@dataclass
class _Verifier:
    ledger: Ledger
    store: Store
    name: str
    open_session: SessionOpener | None
    store_id: str | None
    nested: tuple[str, ...]
    read_credentials: bool = False
    assets: int = 0
    flaws: list[AssetFlaw] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    manifest_flaws: list[ManifestFlaw] = field(default_factory=list)
    credentials: list[AssetCredentials] = field(default_factory=list)
    _outside: set[str] = field(default_factory=set)

    async def verify_project(self, project: str) -> None:
        """Compare one project's jobs and copies with its folder."""
        # The ledger before the store: a video that is published in between is then an unknown file, checked below.
        expected = await self._expected(project)
        files = {uri: size for uri, size in (await list_folder(self.store, project)).items() if self._is_own(uri)}
        expected = [item for item in expected if not item.has_moved or item.asset.uri in files]
        sizes = files | await self._sizes_outside(project, expected)
        slots = asyncio.Semaphore(_READS_AT_ONCE)
        flaws = await asyncio.gather(*(self._check(item, sizes.get(item.asset.uri), slots) for item in expected))
        flawed = [(item, flaw) for item, flaw in zip(expected, flaws, strict=True) if flaw]
        self.assets += len(expected)
        self.flaws += await self._repair(flawed) if self.open_session else [flaw for _, flaw in flawed]
        if files.keys() - _places(self.store, [item.asset for item in expected]):
            known = await self._known_places(project)
            unknown = sorted(uri for uri in files.keys() - known if not self._is_made_from_others(project, uri))
            self.unknown |= {uri: files[uri] for uri in unknown}
        if self.open_session and self.store_id:
            whole = [item for item, flaw in zip(expected, flaws, strict=True) if item.job and not flaw]
            await self._record_places(whole, self.store_id)
        await self._check_manifest(project)
        await self._add_credentials([item.asset for item, flaw in zip(expected, flaws, strict=True) if not flaw])
        if film := await check_film_credentials(self.store, project, read=self.read_credentials):
            self.credentials.append(film)

    def _is_made_from_others(self, project: str, uri: str) -> bool:
        """Return whether a file is no video of a shot: a page, a manifest, a film, or an image that shots take."""
        images = self.store.uri(PurePosixPath(project, IMAGE_FOLDER))
        return is_derived(self.store, uri) or is_film_file(uri) or uri.startswith(f"{images}/")

    async def _check_manifest(self, project: str) -> None:
        """Compare a project's manifest; where repair is requested and the ledger knows all of it, make it again."""
        flaws = await check_manifest(self.ledger, self.store, project)
        if flaws and self.open_session and all(flaw.is_known for flaw in flaws):
            await publish_gallery(self.ledger, self.store, project)
            flaws = await check_manifest(self.ledger, self.store, project)
        self.manifest_flaws += flaws

    async def _add_credentials(self, assets: Sequence[Asset]) -> None:
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(asset: Asset) -> ContentCredentials | None:
            async with slots:
                return await read_stored_credentials(self.store, asset.uri, asset.content_credentials)

        found = await asyncio.gather(*map(read, assets)) if self.read_credentials else []
        known = found or [asset.content_credentials for asset in assets]
        self.credentials += [
            describe_credentials(asset, credentials)
            for asset, credentials in zip(assets, known, strict=True)
            if credentials
        ]

    async def find_unrecorded(self) -> list[str]:
        """Find, among the unknown files, the sidecars and rejected videos of what this very ledger has paid for."""
        self.unknown = {uri: size for uri, size in self.unknown.items() if uri not in self._outside}
        videos = await read_videos(self.store, sidecars_of(self.unknown), self.unknown)
        found = {
            video.uri: (video.sidecar.asset.provider, video.sidecar.ledger)
            for video in await find_unrecorded(self.ledger, videos)
            if video.sidecar
        }
        for kept in await find_unknown(self.ledger, await read_all_kept(self.store, self.unknown)):
            if kept.draft.ledger and kept.draft.ledger.id == self.ledger.identity:
                found[kept.uri] = (kept.draft.provider, kept.draft.ledger)
        for provider, reference in found.values():
            if reference:
                self.ledger.name_accounts([provider if reference.credentials == "env" else reference.credentials])
        return list(found)

    def _is_own(self, uri: str) -> bool:
        """Return whether a URI lies in this store, and in none that lies inside it."""
        return self.store.owns(uri) and not self.store.canonical_uri(uri).startswith(self.nested)

    async def _sizes_outside(self, project: str, expected: Sequence[_Expected]) -> dict[str, int]:
        """Return the sizes of those assets of a project that lie in another folder of the store."""
        folder = f"{self.store.url}/{project}/"
        outside = [item.asset for item in expected if not item.asset.uri.startswith(folder)]
        self._outside |= _places(self.store, outside)
        return await self.store.sizes([asset.uri for asset in outside])

    async def _record_places(self, whole: Sequence[_Expected], store_id: str) -> None:
        await self.ledger.stores.assign_store([item.job_id for item in whole], store_id)
        for item in whole:
            if item.job and item.has_moved:
                detail = f"its store has moved: {item.asset.uri}"
                await self.ledger.stores.move_asset(
                    item.job, item.asset, store_id=store_id, store=self.name, detail=detail
                )

    async def _expected(self, project: str) -> list[_Expected]:
        jobs = await self.ledger.jobs.find(project=project, state=State.STORED, limit=None)
        own = [self._expect(job, job.asset) for job in reversed(jobs) if job.asset]
        copied = [_Expected(job_id, asset, None) for job_id, asset in await self.ledger.stores.copies_into(project)]
        return [self._in_store(item) for item in (*own, *copied) if self._is_own(item.asset.uri)]

    def _expect(self, job: Job, asset: Asset) -> _Expected:
        if self._is_own(asset.uri) or self.store_id is None or job.store_id != self.store_id:
            return _Expected(job.id, asset, job)
        return _Expected(job.id, place_in_store(self.store, job), job, has_moved=True)

    def _in_store(self, item: _Expected) -> _Expected:
        asset = item.asset.model_copy(update={"uri": self.store.canonical_uri(item.asset.uri)})
        return replace(item, asset=asset, job=item.job and item.job.model_copy(update={"asset": asset}))

    async def _known_places(self, project: str) -> set[str]:
        """Return where files of any job of a project lie, or will lie once they are recorded."""
        jobs = await self.ledger.jobs.find(project=project, limit=None)
        copied = [asset for _, asset in await self.ledger.stores.copies_into(project)]
        known = _places(self.store, [*copied, *(job.asset for job in jobs if job.asset)])
        for job in jobs:
            path = asset_draft(job, self.ledger.identity).path
            if job.generation_id is not None:
                known |= {self.store.uri(rejected) for rejected in rejected_paths(path)}
            if job.state in UNFINISHED and not job.asset:
                known |= {self.store.uri(path.with_suffix(kind)) for kind in (".mp4", ".json", ".jpg")}
        return known

    async def _check(self, expected: _Expected, size: int | None, slots: asyncio.Semaphore) -> AssetFlaw | None:
        asset = expected.asset
        if described := describe_size(size, asset.bytes):
            return expected.flaw("missing" if size is None else "damaged", described)
        async with slots:
            try:
                digest = await read_sha256(self.store, asset.uri)
                sidecar = await _describe_sidecar(self.store, asset)
            except StoreError as error:
                return expected.flaw("damaged", f"cannot be read: {error}")
        if digest != asset.sha256:
            return expected.flaw("damaged", f"its SHA-256 is {digest}, not {asset.sha256}")
        return expected.flaw("sidecar", sidecar) if sidecar else None

    async def _repair(self, flawed: Sequence[tuple[_Expected, AssetFlaw]]) -> list[AssetFlaw]:
        """Repair what can be: videos of jobs first, as copies are made from them."""
        assert self.open_session is not None
        errors: dict[str, VideoError | None] = {}
        details = {item.job_id: flaw.detail for item, flaw in flawed}
        videos = [item.job for item, flaw in flawed if item.job and flaw.problem != "sidecar"]
        for group in group_by_session(videos):
            errors |= await _restore_all(self.open_session, group, details)
        for item, flaw in flawed:
            if flaw.problem == "sidecar":
                errors[flaw.uri] = await _attempt(self._write_sidecar(item))
            elif item.job is None:
                errors[flaw.uri] = await _attempt(self._copy_again(item))
        return [_outcome(flaw, errors[flaw.uri]) for _, flaw in flawed]

    async def _write_sidecar(self, expected: _Expected) -> None:
        job = expected.job or await self.ledger.jobs.get(expected.job_id)
        asset = expected.asset
        relative = sidecar_path(_relative(self.store, asset))
        # A video that another ledger has paid for stays recorded as that one's.
        reference = await _read_payer(self.store, asset) or asset_draft(job, self.ledger.identity).ledger
        await publish_sidecar(self.store, asset, reference, relative)

    async def _copy_again(self, copy: _Expected) -> None:
        original = await self.ledger.jobs.get(copy.job_id)
        if original.asset is None:
            raise StoreError(f"{copy.asset.uri}: the original is not stored")
        draft = asset_draft(original, self.ledger.identity).model_copy(
            update=copy.asset.model_dump(include={"project", "shot_id", "take"})
        )
        asset = await copy_video(self.store, original.asset, draft=draft)
        await self.ledger.jobs.record_copy(original.id, asset.project, asset.shot_id, asset)


async def _restore_all(
    open_session: SessionOpener, jobs: Sequence[Job], details: dict[str, str]
) -> dict[str, VideoError | None]:
    """Use whole copies for the videos of jobs of one session, and fetch the rest; by URI what went wrong, or None."""
    uris = [job.asset.uri for job in jobs if job.asset]
    if jobs[0].provider == MANUAL:
        return dict.fromkeys(uris, StoreError("it was made by hand: store the clip again with `prefect-video adopt`"))
    try:
        async with open_session(jobs[0]) as session:
            slots = asyncio.Semaphore(_RESTORES_AT_ONCE)
            copies = await find_whole_copies(session.ledger, session.store, jobs)

            async def restore_one(job: Job) -> VideoError | None:
                async with slots:
                    if copy := copies.get(job.id):
                        return await _attempt(use_copy(session, job, copy, details[job.id]))
                    return await _attempt(restore(session, job, details[job.id]))

            return dict(zip(uris, await asyncio.gather(*map(restore_one, jobs)), strict=True))
    except VideoError as error:
        logger.error("cannot open %s: %s", jobs[0].credentials, error)
        return dict.fromkeys(uris, error)


async def _attempt(work: Awaitable[object]) -> VideoError | None:
    try:
        await work
    except VideoError as error:
        return error
    return None


def _outcome(flaw: AssetFlaw, error: VideoError | None) -> AssetFlaw:
    return flaw.model_copy(update={"repaired": error is None, "error": None if error is None else str(error)})


async def _describe_sidecar(store: Store, asset: Asset) -> str | None:
    """Return what is wrong with the sidecar of an asset, or None."""
    content = await _read_sidecar(store, asset)
    if content is None:
        return "its sidecar is missing"
    described = read_sidecar(content)
    same = described is not None and (_file_name(described), described.sha256, described.generation_id) == (
        _file_name(asset),
        asset.sha256,
        asset.generation_id,
    )
    return None if same else "its sidecar describes something else"


async def _read_sidecar(store: Store, asset: Asset) -> bytes | None:
    try:
        return await store.read_bytes(store.uri(sidecar_path(_relative(store, asset))))
    except FileNotFoundError:
        return None


async def _read_payer(store: Store, asset: Asset) -> LedgerReference | None:
    """Return the ledger's job that the sidecar of an asset names, where it is of this very generation."""
    sidecar = parse_sidecar(await _read_sidecar(store, asset) or b"")
    is_same = sidecar is not None and sidecar.asset.generation_id == asset.generation_id
    return sidecar.ledger if sidecar and is_same else None


def _file_name(asset: Asset) -> str:
    # Not the whole URI: a store may have moved since the sidecar was written.
    return asset.uri.rpartition("/")[2]


def _relative(store: Store, asset: Asset) -> PurePosixPath:
    return PurePosixPath(asset.uri.removeprefix(f"{store.url}/"))


def _places(store: Store, assets: Sequence[Asset]) -> set[str]:
    """Return the URIs of assets' files: video, sidecar, thumbnail."""
    stems = {store.canonical_uri(asset.uri).removesuffix(".mp4") for asset in assets if store.owns(asset.uri)}
    return {f"{stem}{kind}" for stem in stems for kind in (".mp4", ".json", ".jpg")}
