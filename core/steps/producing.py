"""Producing: carries one claimed shot to a stored asset, from whatever state it is found in."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from prefect_video.assets import Asset
from prefect_video.downloads import Downloaded
from prefect_video.errors import (
    BudgetExceeded,
    GenerationExpired,
    GenerationFailed,
    GenerationLost,
    NeedsAttention,
    VideoError,
)
from prefect_video.ledger import Budget, Claim, Entry, Intent, State
from prefect_video.ledger.records import UNFINISHED
from prefect_video.steps import claiming, downloading, polling, releasing, screening, storing, submitting
from prefect_video.steps.departing import Passage
from prefect_video.studio import Studio

logger = logging.getLogger(__name__)


class Steps(Protocol):
    """The steps of one row; an orchestrator puts its tasks here."""

    def in_flight(self, entry: Entry) -> AbstractAsyncContextManager[None]: ...
    async def find_asset(
        self, intents: Sequence[Intent], *, rebuy_missing: bool, accounts: Collection[str]
    ) -> Mapping[str, Asset]: ...
    async def screen_prompt(self, entry: Entry) -> None: ...
    async def submit(self, entry: Entry) -> Entry: ...
    async def poll(self, entry: Entry) -> Entry: ...
    async def download(self, entry: Entry) -> Downloaded: ...
    async def store(self, entry: Entry, downloaded: Downloaded) -> Asset: ...


@dataclass(frozen=True)
class PlainSteps:
    """The steps as plain coroutines."""

    studio: Studio

    def in_flight(self, entry: Entry) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def find_asset(
        self, intents: Sequence[Intent], *, rebuy_missing: bool, accounts: Collection[str]
    ) -> Mapping[str, Asset]:
        return await claiming.find_assets(self.studio, intents, rebuy_missing=rebuy_missing, accounts=accounts)

    async def screen_prompt(self, entry: Entry) -> None:
        await screening.screen_prompt(self.studio, entry.id)

    async def submit(self, entry: Entry) -> Entry:
        return await submitting.submit(self.studio, entry.id)

    async def poll(self, entry: Entry) -> Entry:
        return await polling.poll(self.studio, entry.id)

    async def download(self, entry: Entry) -> Downloaded:
        return await downloading.download(self.studio, entry.id)

    async def store(self, entry: Entry, downloaded: Downloaded) -> Asset:
        return await storing.store(self.studio, entry.id, downloaded)


@dataclass(frozen=True)
class Produced:
    """A stored shot.

    Attributes:
        asset: Where it is.
        entry: Its ledger row.
        cached: Whether it was there before, so that nothing was paid now.
        repair: What became of a stored file that was missing or damaged: fetched again, or made anew.
    """

    asset: Asset
    entry: Entry
    cached: bool
    repair: str | None = None


@dataclass(frozen=True)
class InFlight:
    """A shot that is left at the provider, to be collected later.

    Attributes:
        entry: Its ledger row.
    """

    entry: Entry


async def produce(
    studio: Studio, claim: Claim, *, budgets: Sequence[Budget], steps: Steps, passage: Passage | None = None
) -> Produced | InFlight:
    """Carries a claimed shot to a stored asset; a failed generation is tried anew within its attempts and budget.

    With a `passage` the shot is left in flight once the run may leave.

    Raises:
        VideoError: Why there is no asset; what was paid is in the ledger with the reason.
    """
    failure: GenerationFailed | GenerationLost | GenerationExpired | None = None
    repair: str | None = None
    while True:
        entry = _claimed(claim, failure)
        if claim.kind == "stored" and entry.asset:
            return Produced(entry.asset, entry, cached=failure is None, repair=repair)
        try:
            if claim.kind == "joined":
                joined = await _joined(studio, claim, entry, budgets, passage)
                if joined is None:
                    return InFlight(await studio.ledger.get(entry.id))
                claim = joined
                continue
            if entry.is_reopened:
                repair = f"{entry.error_message}; it was fetched again from {entry.provider}, free"
            asset = await carry(studio, entry, steps, passage)
            entry = await studio.ledger.get(entry.id)
            return Produced(asset, entry, cached=False, repair=repair) if asset else InFlight(entry)
        except GenerationFailed as error:
            if error.fails_again:
                raise
            failure = error
        except GenerationLost as error:
            if studio.settings.on_lost == "hold":
                raise
            failure = error
        except GenerationExpired as error:
            if not entry.is_reopened:
                raise
            failure = error
            repair = f"{entry.error_message}, and {entry.provider} no longer has it: it was made anew"
            logger.warning("%s/%s: %s", entry.project, entry.shot.id, repair)
        claim = await _claim_again(studio, claim, budgets)


async def carry(studio: Studio, entry: Entry, steps: Steps, passage: Passage | None = None) -> Asset | None:
    """Carries a row that is ours through the steps it still needs; gives it up when it cannot.

    Returns:
        Its video; None when the run left before the provider was done, and let go of the row.

    Raises:
        VideoError: Why there is no asset.
    """
    try:
        if entry.state is State.RESERVED:
            await steps.screen_prompt(entry)
        if entry.state is not State.COMPLETED:
            # The slot is held until the provider is done, not while the file is fetched.
            async with studio.slots.of(entry.priority), steps.in_flight(entry):
                try:
                    await steps.submit(entry)
                    if passage is None:
                        await steps.poll(entry)
                    elif not await _seen_off(studio, entry, passage):
                        await studio.ledger.let_go([entry.id])
                        return None
                finally:
                    studio.slot_freed.set()
        return await steps.store(entry, await steps.download(entry))
    except BaseException as error:
        await releasing.give_up(studio, entry.id, error)
        raise


async def _seen_off(studio: Studio, entry: Entry, passage: Passage) -> bool:
    """Waits for the generation's end for as long as the run stays; whether it came."""
    passage.sent()
    return await passage.unless_all_sent(polling.poll(studio, entry.id)) is not None


async def _joined(
    studio: Studio, claim: Claim, entry: Entry, budgets: Sequence[Budget], passage: Passage | None
) -> Claim | None:
    """What has become of somebody else's row; None when the run left before anything did."""
    if passage is None or entry.attention is not None:
        return await _join(studio, claim, entry, budgets)
    passage.sent()
    return await passage.unless_all_sent(_join(studio, claim, entry, budgets))


def _claimed(claim: Claim, failure: VideoError | None) -> Entry:
    if claim.kind == "over_budget":
        raise BudgetExceeded(f"shot {claim.intent.shot.id!r}: {claim.refusal}")
    if claim.kind == "exhausted" or claim.entry is None:
        last = claim.entry
        raise failure or GenerationFailed(
            f"shot {claim.intent.shot.id!r}: all {claim.intent.max_attempts} attempts are used up;"
            f" the last one: {last.error_message if last else 'unknown'}",
            provider=claim.intent.provider,
            generation_id=last.generation_id if last else None,
        )
    return claim.entry


async def _join(studio: Studio, claim: Claim, entry: Entry, budgets: Sequence[Budget]) -> Claim:
    if entry.attention is None:
        entry = await studio.rows.wait(entry.id)
    if entry.attention is not None:
        raise NeedsAttention(entry.attention)
    if entry.state is State.STORED:
        return Claim(kind="stored", intent=claim.intent, entry=entry)
    if entry.state in UNFINISHED:
        taken = await studio.ledger.take_over(entry.id)
        return Claim(kind="yours" if taken else "joined", intent=claim.intent, entry=taken or entry)
    return await _claim_again(studio, claim, budgets)


async def _claim_again(studio: Studio, claim: Claim, budgets: Sequence[Budget]) -> Claim:
    return (await claiming.claim_shots(studio, [claim.intent], budgets=budgets, partial=True))[0]
