"""Claiming: which shots are stored already, which are under way elsewhere, and which are ours to make."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from prefect_video.assets import Asset
from prefect_video.errors import IllegalTransition, InvalidInput, PolicyRefused, PromptScreened
from prefect_video.fingerprints import fingerprint
from prefect_video.ledger import Budget, Claim, ClaimOutcome, Entry, Intent, command_line
from prefect_video.ledger.records import UNFINISHED
from prefect_video.pipeline.steps.adopt import adopt_stored
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_check import (
    accept_store,
    check_store,
    claim_store,
    find_flaws,
    require_single_flaw,
)
from prefect_video.session.session import SessionEvent, Studio
from prefect_video.shots import Project, Shot
from prefect_video.storage import sizes_anywhere
from prefect_video.storage.publish import copy_video

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClaimOptions:
    """The options that all claims of a run share.

    Attributes:
        refresh: Buy again although a stored asset exists.
        ttl_seconds: How old a stored asset may be to be the answer; None for any age.
        flow_run_id: The run that asks, within which attempts are counted.
    """

    refresh: bool = False
    ttl_seconds: float | None = None
    flow_run_id: str | None = None


async def build_project_intents(
    studio: Studio, project: Project, options: ClaimOptions = ClaimOptions()
) -> list[Intent]:
    """Build one intent for each take of each shot, in the project's order; nothing is sent or spent.

    Raises:
        InvalidInput: A shot cannot be made by this provider, or a reference cannot be read.
    """
    problems: list[str] = []
    intents: list[Intent] = []
    for shot in project.shots:
        try:
            studio.provider.check(shot)
            intents += build_intents(studio, shot, project, await reference_digests(shot), options)
        except InvalidInput as error:
            problems.append(str(error))
    if problems:
        raise InvalidInput("\n".join(problems))
    return intents


def build_intents(
    studio: Studio, shot: Shot, project: Project, digests: Mapping[str, str], options: ClaimOptions
) -> list[Intent]:
    """Build one intent for each take of a shot at an account that can make it.

    Args:
        studio: The account's session.
        shot: The shot in the form that is requested there.
        project: The project that asks.
        digests: The digests of the shot's references, from `reference_digests`.
        options: The options that all claims of the run share.
    """
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
            refresh=options.refresh,
            ttl_seconds=options.ttl_seconds,
            flow_run_id=options.flow_run_id,
            priority=project.priority,
        )
        for take in range(1, shot.takes + 1)
    ]


def project_budgets(studio: Studio, project: Project) -> tuple[Budget, ...]:
    """Every limit that a project's claims must keep to: the ledger's, the plan's and its own."""
    own = (
        Budget(scope="plan", limit_videos=studio.provider.capabilities.monthly_videos),
        Budget(scope="project", limit_usd=project.budget_usd, limit_videos=project.budget_videos),
    )
    return (*studio.budgets, *(budget for budget in own if not budget.is_empty))


async def find_assets(
    studio: Studio, intents: Sequence[Intent], *, rebuy_missing: bool = False, accounts: Collection[str] = ()
) -> dict[str, Asset]:
    """The stored assets for intents, by fingerprint; one query for all, and one look at the store.

    A row whose file is missing or damaged is reopened, so that a claim fetches it again from the provider, and buys it
    again only where the provider no longer has it.

    Args:
        studio: Where to look.
        intents: What is wanted.
        rebuy_missing: Take the store as it stands, whatever is missing there; so does a refresh of everything.
        accounts: Ids of further accounts that the run has open, and can fetch videos from.

    Raises:
        StoreOutage: The store is not the one that the ledger knows, or several files are missing at once.
        StoreError: The store cannot be read.
    """
    wanted = [intent for intent in intents if not intent.refresh]
    if rebuy_missing or not wanted:
        await accept_store(studio.ledger, studio.store)
    else:
        await check_store(studio.ledger, studio.store)
    if not wanted:
        return {}
    stored = await studio.ledger.find_stored(
        [intent.fingerprint for intent in wanted],
        environment=studio.settings.environment,
        ttl_seconds=wanted[0].ttl_seconds,
    )
    flaws = await find_flaws(studio, stored)
    reachable = {studio.provider.account.id, *accounts}
    if flaws and not rebuy_missing:
        await require_single_flaw(studio, stored, flaws, accounts=reachable)
    for key, flaw in flaws.items():
        await _reopen(studio, stored[key], flaw, can_fetch=stored[key].account in reachable)
    return {key: entry.asset for key, entry in stored.items() if entry.asset and key not in flaws}


async def _reopen(studio: Studio, entry: Entry, flaw: str, *, can_fetch: bool) -> None:
    """Leave a row whose file is missing or damaged to a claim, which fetches it again or buys it again."""
    reason = f"its stored file was {flaw}"
    if not can_fetch or entry.generation_id is None:
        logger.warning("%s/%s: %s; it is made again, as requested", entry.project, entry.shot.id, reason)
        await studio.ledger.record_missing(entry.id, reason)
        return
    logger.warning("%s/%s: %s; it is fetched again from %s", entry.project, entry.shot.id, reason, entry.provider)
    try:
        await studio.ledger.reopen_stored(entry.id, reason)
    except IllegalTransition as error:
        # The same video is in progress, or another process was faster: the claim joins it.
        logger.info("%s/%s: %s", entry.project, entry.shot.id, error)


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
        RequestRefused: The session's first read shows that the endpoint or the key is wrong; nothing was claimed.
    """
    # First, as what the store holds needs no provider.
    await adopt_stored(studio, intents)
    await _check_access(studio, intents)
    batch = await studio.ledger.claim(intents, budgets, partial=partial)
    for warning in batch.warnings:
        logger.warning("budget: %s", warning)
    for claim in batch.claims:
        if claim.kind is ClaimOutcome.ACQUIRED and claim.entry:
            studio.tell(SessionEvent.CLAIMED, claim.entry)
    return list(batch.claims)


async def _check_access(studio: Studio, intents: Sequence[Intent]) -> None:
    """Check the session's access once, where the provider is needed: not for what is stored or held."""
    if studio.access.is_done or not studio.settings.check_access:
        return
    answers = await studio.ledger.answers(intents)
    if any(row is None or (row.state in UNFINISHED and row.attention is None) for row in answers):
        await studio.access.demand()


async def screen_prompt(studio: Studio, entry: Entry) -> Entry:
    """Let a reserved row pass, or release it and keep it for review; allow-listed prompts always pass.

    Raises:
        PromptScreened: The message names the shot and the reason.
    """
    if not await studio.ledger.allowed([entry.fingerprint]):
        try:
            await studio.screen.check(entry.shot)
        except PromptScreened as error:
            entry = await studio.ledger.release(entry.id, error)
            studio.tell(SessionEvent.ENDED, entry, str(error))
            raise
    return entry


async def refuse_blocked(studio: Studio, entry: Entry) -> None:
    """Release a reserved row whose prompt the provider's content policy stopped before, and keep it for review.

    A human who allows the prompt has it sent once more.

    Raises:
        PolicyRefused: The message names the shot, the row that was stopped, and the command that allows it.
    """
    blocked = await studio.ledger.blocked(entry)
    if blocked is None:
        return
    ledger = studio.ledger.command_option
    error = PolicyRefused(
        f"shot {entry.shot.id!r}: the content policy of {entry.provider} stopped this prompt before (row {blocked.id}),"
        f" so that it is not sent. Change the prompt; see: {command_line('review', ledger=ledger)}. To send it once"
        f" more, and perhaps pay for it: {command_line('review', '--allow', entry.fingerprint, ledger=ledger)}",
        provider=entry.provider,
        generation_id=blocked.generation_id,
    )
    entry = await studio.ledger.release(entry.id, error)
    studio.tell(SessionEvent.ENDED, entry, str(error))
    raise error


async def load_copies(studio: Studio, claims: Sequence[Claim]) -> dict[tuple[str, str], Asset]:
    """Load what earlier runs have copied into the asking project's folder, by (row, shot id); few queries for all."""
    hits = [(claim.entry, claim.intent) for claim in claims if claim.kind is ClaimOutcome.STORED and claim.entry]
    foreign = [(entry, intent) for entry, intent in hits if not _is_in_project(studio, entry, intent)]
    copied: dict[tuple[str, str], Asset] = {}
    for project in {intent.project for _, intent in foreign}:
        known = await studio.ledger.copies([entry.id for entry, _ in foreign], project)
        sizes = await sizes_anywhere(studio.store, [asset.uri for asset in known.values()])
        copied |= {key: asset for key, asset in known.items() if sizes.get(asset.uri) == asset.bytes}
    return copied


async def copy_to_project(studio: Studio, entry: Entry, asset: Asset, intent: Intent) -> Asset:
    """The asset of a stored row, in the folder of the project that asks.

    One of another project or another store is copied there, on the server's side where that can be done.

    Raises:
        StoreError: It cannot be copied; the original is as it was.
    """
    if _is_in_project(studio, entry, intent):
        return asset
    draft = asset_draft(entry, studio.ledger.identity).model_copy(
        update={"project": intent.project, "shot_id": intent.shot.id, "take": intent.take}
    )
    await claim_store(studio.ledger, studio.store)
    async with studio.download_slots:
        copied = await copy_video(studio.store, asset, draft=draft)
    await studio.ledger.record_copy(entry.id, intent.project, intent.shot.id, copied)
    return copied


def _is_in_project(studio: Studio, entry: Entry, intent: Intent) -> bool:
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
