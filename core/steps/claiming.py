"""Claiming: which shots are stored already, which are under way elsewhere, and which are ours to make."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from prefect_video.assets import Asset
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.fingerprints import fingerprint
from prefect_video.ledger import Budget, Claim, Entry, Intent
from prefect_video.shots import Project, Shot
from prefect_video.steps.adoption import adopt_stored
from prefect_video.steps.storing import draft_of
from prefect_video.storage import open_store
from prefect_video.storage.publishing import copy_video
from prefect_video.studio import Studio

logger = logging.getLogger(__name__)


async def intents_of(
    studio: Studio,
    project: Project,
    *,
    refresh: bool = False,
    ttl_seconds: float | None = None,
    flow_run_id: str | None = None,
) -> list[Intent]:
    """One intent for each take of each shot, in the project's order; nothing is sent or spent.

    Raises:
        InvalidInput: A shot cannot be made by this provider, or a reference cannot be read.
    """
    problems: list[str] = []
    intents: list[Intent] = []
    for shot in project.shots:
        try:
            studio.provider.check(shot)
            intents += takes_of(
                studio,
                shot,
                project,
                await reference_digests(shot),
                refresh=refresh,
                ttl_seconds=ttl_seconds,
                flow_run_id=flow_run_id,
            )
        except InvalidInput as error:
            problems.append(str(error))
    if problems:
        raise InvalidInput("\n".join(problems))
    return intents


def takes_of(
    studio: Studio,
    shot: Shot,
    project: Project,
    digests: Mapping[str, str],
    *,
    refresh: bool = False,
    ttl_seconds: float | None = None,
    flow_run_id: str | None = None,
) -> list[Intent]:
    """One intent for each take of a shot in a studio that can make it; `digests` is what `reference_digests` told."""
    model = studio.provider.capabilities.aliases.get(shot.model)
    meant = shot if model is None else shot.model_copy(update={"model": model})
    hashed = tuple(digests[reference] for reference in shot.references)
    return [
        Intent(
            fingerprint=fingerprint(meant, provider=studio.provider.name, take=take, reference_digests=hashed),
            shot=shot,
            take=take,
            project=project.name,
            provider=studio.provider.name,
            account=studio.provider.account.id,
            environment=studio.settings.environment,
            credentials=studio.credentials,
            store=studio.store_name,
            estimate_usd=studio.provider.estimate(shot),
            max_attempts=project.max_attempts,
            refresh=refresh,
            ttl_seconds=ttl_seconds,
            flow_run_id=flow_run_id,
            priority=project.priority,
        )
        for take in range(1, shot.takes + 1)
    ]


def budgets_of(studio: Studio, project: Project) -> tuple[Budget, ...]:
    """Every limit that a project's claims must keep to."""
    if project.budget_usd is None and project.budget_videos is None:
        return studio.budgets
    own = Budget(scope="project", limit_usd=project.budget_usd, limit_videos=project.budget_videos)
    return (*studio.budgets, own)


async def find_assets(studio: Studio, intents: Sequence[Intent]) -> dict[str, Asset]:
    """The stored assets for intents, by fingerprint; one query for all, and one look at the store.

    A row whose file is gone from the store is marked lost, so that it can be made again.
    """
    wanted = [intent for intent in intents if not intent.refresh]
    if not wanted:
        return {}
    stored = await studio.ledger.find_stored(
        [intent.fingerprint for intent in wanted],
        environment=studio.settings.environment,
        ttl_seconds=wanted[0].ttl_seconds,
    )
    gone = await missing_files(studio, stored)
    for key in gone:
        entry = stored[key]
        logger.warning("%s/%s: the stored file is gone and will be made again", entry.project, entry.shot.id)
        await studio.ledger.record_missing(entry.id, "the file is no longer in the store")
    return {key: entry.asset for key, entry in stored.items() if entry.asset and key not in gone}


async def missing_files(studio: Studio, stored: Mapping[str, Entry]) -> set[str]:
    """The keys of those stored rows whose file is gone from the store that it was put into."""
    uris = {key: entry.asset.uri for key, entry in stored.items() if entry.asset}
    owned = {uri for uri in uris.values() if studio.store.owns(uri)}
    present = await studio.store.exists_many(owned)
    elsewhere: dict[str, set[str]] = {}
    for key, uri in uris.items():
        if uri not in owned:
            elsewhere.setdefault(stored[key].store, set()).add(uri)
    for store, some in elsewhere.items():
        present |= some - await _gone_from(store, some)
    return {key for key, uri in uris.items() if uri not in present}


async def _gone_from(name: str, uris: Collection[str]) -> set[str]:
    """Those of some files that another store no longer has; none where that cannot be told from here.

    A block is not opened here, and a folder may be another machine's: what is not seen then is not gone.
    """
    if "://" not in name:
        return set()
    try:
        store = open_store(name)
        try:
            mine = {uri for uri in uris if store.owns(uri)}
            return mine - await store.exists_many(mine)
        finally:
            await store.aclose()
    except (InvalidInput, StoreError) as error:
        logger.warning("the files in %s cannot be looked up: %s", name, error)
        return set()


async def claim_shots(
    studio: Studio, intents: Sequence[Intent], *, budgets: Sequence[Budget], partial: bool
) -> list[Claim]:
    """Claims every intent: the answer for each is stored, joined, yours, over budget or exhausted.

    Args:
        studio: Where to claim.
        intents: What is wanted.
        budgets: Limits that must hold.
        partial: Whether shots that fit the budget are reserved although others do not.

    Raises:
        LedgerBehindStore: The ledger is an old backup, see `adopt_stored`; nothing was claimed.
    """
    await adopt_stored(studio, intents)
    batch = await studio.ledger.claim(intents, budgets, partial=partial)
    for warning in batch.warnings:
        logger.warning("budget: %s", warning)
    for claim in batch.claims:
        if claim.kind == "yours" and claim.entry:
            studio.tell("claimed", claim.entry)
    return list(batch.claims)


async def known_copies(studio: Studio, claims: Sequence[Claim]) -> dict[tuple[str, str], Asset]:
    """What earlier runs have copied into the asking project's folder, by (row, shot id); few queries for all."""
    hits = [(claim.entry, claim.intent) for claim in claims if claim.kind == "stored" and claim.entry]
    foreign = [(entry, intent) for entry, intent in hits if not _at_home(studio, entry, intent)]
    copied: dict[tuple[str, str], Asset] = {}
    for project in {intent.project for _, intent in foreign}:
        known = await studio.ledger.copies([entry.id for entry, _ in foreign], project)
        present = await studio.store.exists_many([asset.uri for asset in known.values()])
        copied |= {key: asset for key, asset in known.items() if asset.uri in present}
    return copied


async def bring_home(studio: Studio, entry: Entry, asset: Asset, intent: Intent) -> Asset:
    """The asset of a stored row, in the folder of the project that asks.

    One of another project or another store is copied there, on the server's side where that can be done.

    Raises:
        StoreError: It cannot be copied; the original is as it was.
    """
    if _at_home(studio, entry, intent):
        return asset
    draft = draft_of(entry, studio.ledger.identity).model_copy(
        update={"project": intent.project, "shot_id": intent.shot.id, "take": intent.take}
    )
    async with studio.download_slots:
        copied = await copy_video(studio.store, asset, draft=draft)
    await studio.ledger.record_copy(entry.id, intent.project, intent.shot.id, copied)
    return copied


def _at_home(studio: Studio, entry: Entry, intent: Intent) -> bool:
    return entry.project == intent.project and entry.asset is not None and studio.store.owns(entry.asset.uri)


async def reference_digests(shot: Shot) -> dict[str, str]:
    """The SHA-256 of each reference's content.

    Raises:
        InvalidInput: A reference cannot be read.
    """
    return {reference: await asyncio.to_thread(_digest, shot, reference) for reference in shot.references}


def _digest(shot: Shot, reference: str) -> str:
    if urlsplit(reference).scheme in ("http", "https"):
        raise InvalidInput(
            f"shot {shot.id!r}: references: {reference}: what is at an address may change, and a shot is known by the"
            " content of its references: fetch it and give the file"
        )
    try:
        return hashlib.sha256(Path(PurePosixPath(reference)).read_bytes()).hexdigest()
    except OSError as error:
        raise InvalidInput(f"shot {shot.id!r}: references: cannot read {reference}: {error.strerror}") from error
