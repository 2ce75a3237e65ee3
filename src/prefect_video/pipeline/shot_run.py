"""The run of one shot: carries one claimed take to a stored asset, from whatever state it is found in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefect_video._shield import to_its_end
from prefect_video.assets import Asset
from prefect_video.errors import (
    BudgetExceeded,
    GenerationBlocked,
    GenerationExpired,
    GenerationFailed,
    GenerationLost,
    IllegalTransition,
    LedgerError,
    NeedsAttention,
    VideoError,
)
from prefect_video.ledger import Budget, Claim, ClaimOutcome, Entry, State
from prefect_video.ledger.records import UNFINISHED
from prefect_video.pipeline.steps.claim import claim_shots, screen_prompt
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.end import demand_alive, error_of
from prefect_video.pipeline.steps.poll import poll
from prefect_video.pipeline.steps.store import store
from prefect_video.pipeline.steps.submit import submit
from prefect_video.session.session import SessionEvent, Studio

logger = logging.getLogger(__name__)

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


class StepRunner:
    """Runs the steps of shots as they are; an orchestrator's subclass runs each as a task of its own."""

    def run_step(
        self,
        step: Callable[Concatenate[Studio, Inputs], Awaitable[Result]],
        session: Studio,
        *inputs: Inputs.args,
        **named: Inputs.kwargs,
    ) -> Awaitable[Result]:
        """Run one step.

        Args:
            step: A function of `prefect_video.pipeline.steps`.
            session: The account's session.
            *inputs: The step's other arguments: the row as the step before has left it, and what that has made.
            **named: Further arguments by name.

        Returns:
            The step's own result.
        """
        return step(session, *inputs, **named)

    def hold_limit(self, session: Studio) -> AbstractAsyncContextManager[None]:
        """Hold the orchestrator's concurrency limit that the session names, while the provider is at work."""
        return nullcontext()


class DetachBarrier:
    """The moment from which a run may leave: all of its shots are at the provider, or have ended.

    Until then it waits like any other run: shots beyond the account's slots, and those that depend on others, can
    only be sent when earlier ones have ended.
    """

    def __init__(self) -> None:
        self._unsent: set[DetachToken] = set()
        self._all_submitted = asyncio.Event()

    def register(self) -> DetachToken:
        """Register a shot; register all of them before any is marked as submitted."""
        token = DetachToken(self)
        self._unsent.add(token)
        return token

    def _mark_submitted(self, token: DetachToken) -> None:
        self._unsent.discard(token)
        if not self._unsent:
            self._all_submitted.set()


@dataclass(eq=False)
class DetachToken:
    """One shot's part in a detach barrier."""

    barrier: DetachBarrier = field(repr=False)

    def mark_submitted(self) -> None:
        """Mark the shot as being at the provider, or as ended; repeating it does nothing."""
        self.barrier._mark_submitted(self)

    async def run_until_all_submitted(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Return the result of some work, or None when the run leaves first; the work is then cancelled."""
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(self.barrier._all_submitted.wait())
        try:
            await asyncio.wait((leaving, working), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            leaving.cancel()
            working.cancel()
            await to_its_end(asyncio.gather(leaving, working, return_exceptions=True))


@dataclass(frozen=True)
class StoredShot:
    """A shot that has its video.

    Attributes:
        asset: The stored video.
        entry: Its ledger row.
        cached: Whether it was there before, so that nothing was paid now.
        repair: How a stored file that was missing or damaged came back: fetched again, or made anew.
    """

    asset: Asset
    entry: Entry
    cached: bool
    repair: str | None = None


@dataclass(frozen=True)
class DetachedShot:
    """A shot that is left at the provider, to be collected later.

    Attributes:
        entry: Its ledger row.
    """

    entry: Entry


async def run_shot(
    session: Studio,
    claim: Claim,
    *,
    budgets: Sequence[Budget],
    runner: StepRunner,
    token: DetachToken | None = None,
) -> StoredShot | DetachedShot:
    """Carry a claimed shot to a stored asset; a failed generation is tried anew within its attempts and budget.

    Args:
        session: The account's session.
        claim: The ledger's answer to the shot's request.
        budgets: The limits of a further attempt.
        runner: Runs the steps.
        token: Given where the run may leave: the shot is then left in flight as soon as all others are submitted.

    Raises:
        VideoError: Why there is no asset; what was paid is in the ledger with the reason.
    """
    failure: GenerationFailed | GenerationLost | GenerationExpired | None = None
    repair: str | None = None
    while True:
        entry = _require_job(claim, failure)
        if claim.kind is ClaimOutcome.STORED and entry.asset:
            return StoredShot(entry.asset, entry, cached=failure is None, repair=repair)
        try:
            if claim.kind is ClaimOutcome.JOINED:
                joined = await _join_or_detach(session, claim, entry, budgets, token)
                if joined is None:
                    return DetachedShot(await session.ledger.get(entry.id))
                claim = joined
                continue
            if entry.is_reopened:
                repair = f"{entry.error_message}; it was fetched again from {entry.provider}, free"
            made = await run_steps(session, entry, runner, token)
            return StoredShot(made.asset, made, cached=False, repair=repair) if made.asset else DetachedShot(made)
        except GenerationFailed as error:
            if error.fails_again:
                raise
            failure = error
        except GenerationLost as error:
            if session.settings.on_lost == "hold":
                raise
            failure = error
        except GenerationExpired as error:
            if not entry.is_reopened:
                raise
            failure = error
            repair = f"{entry.error_message}, and {entry.provider} no longer has it: it was made anew"
            logger.warning("%s/%s: %s", entry.project, entry.shot.id, repair)
        claim = await _claim_again(session, claim, budgets)


async def run_steps(session: Studio, entry: Entry, runner: StepRunner, token: DetachToken | None = None) -> Entry:
    """Carry a row that this process owns through the steps it still needs; abandon it when it cannot be carried on.

    Each step takes the row as the step before has left it.

    Returns:
        The row with its asset; without one when the run left before the provider was done, and let go of the row.

    Raises:
        VideoError: Why there is no asset.
    """
    try:
        if entry.state is State.RESERVED:
            entry = await runner.run_step(screen_prompt, session, entry)
        if entry.state is not State.COMPLETED:
            # The slot is held until the provider is done, not while the file is fetched.
            async with session.slots.of(entry.priority), runner.hold_limit(session):
                try:
                    entry = await runner.run_step(submit, session, entry)
                    if token is None:
                        entry = await runner.run_step(poll, session, entry)
                    elif ended := await _poll_until_detached(session, entry, token):
                        entry = ended
                    else:
                        await session.ledger.let_go([entry.id])
                        return entry
                finally:
                    session.slot_freed.set()
        else:
            # It may have been claimed long ago: a shot waits for those that it depends on.
            entry = await session.ledger.get(entry.id)
        downloaded = await runner.run_step(download, session, entry)
        return await runner.run_step(store, session, entry, downloaded)
    except BaseException as error:
        await abandon(session, entry.id, error)
        raise


async def abandon(session: Studio, entry_id: str, error: BaseException | None) -> None:
    """Let go of a row that this process owns; release it where a failure ends the work before anything was sent.

    A run that is interrupted, or cannot use the ledger, leaves the row where it stands, to be carried on from there.
    """
    try:
        if isinstance(error, Exception) and not isinstance(error, LedgerError):
            await _release_unsent(session, entry_id, error)
    finally:
        await session.ledger.let_go([entry_id])


async def _release_unsent(session: Studio, entry_id: str, error: Exception) -> None:
    entry = await session.ledger.get(entry_id)
    if entry.state is not State.RESERVED:
        return
    # A process that takes this one for dead at this moment sends it instead.
    with contextlib.suppress(IllegalTransition):
        entry = await session.ledger.release(entry_id, error if isinstance(error, VideoError) else repr(error))
        session.tell(SessionEvent.ENDED, entry, str(error))


async def _poll_until_detached(session: Studio, entry: Entry, token: DetachToken) -> Entry | None:
    """Wait for the generation's end for as long as the run stays; None when the run left first."""
    token.mark_submitted()
    return await token.run_until_all_submitted(poll(session, entry))


async def _join_or_detach(
    session: Studio, claim: Claim, entry: Entry, budgets: Sequence[Budget], token: DetachToken | None
) -> Claim | None:
    """Wait for the outcome of another owner's row; None when the run left before there was one."""
    if token is None or entry.attention is not None:
        return await _join(session, claim, entry, budgets)
    token.mark_submitted()
    return await token.run_until_all_submitted(_join(session, claim, entry, budgets))


def _require_job(claim: Claim, failure: VideoError | None) -> Entry:
    if claim.kind is ClaimOutcome.OVER_BUDGET:
        raise BudgetExceeded(f"shot {claim.intent.shot.id!r}: {claim.refusal}")
    if claim.kind is ClaimOutcome.EXHAUSTED or claim.entry is None:
        last = claim.entry
        kind = error_of(last) if last else GenerationFailed
        raise failure or kind(
            f"shot {claim.intent.shot.id!r}: all {claim.intent.max_attempts} attempts are used up;"
            f" the last one: {last.error_message if last else 'unknown'}",
            provider=claim.intent.provider,
            generation_id=last.generation_id if last else None,
        )
    return claim.entry


async def _join(session: Studio, claim: Claim, entry: Entry, budgets: Sequence[Budget]) -> Claim:
    if entry.attention is None:
        entry = await session.rows.wait(entry.id)
    if entry.state is State.STORED:
        return Claim(kind=ClaimOutcome.STORED, intent=claim.intent, entry=entry)
    if entry.attention is not None:
        raise NeedsAttention(entry.attention)
    if entry.state is State.FAILED and issubclass(error_of(entry), GenerationBlocked):
        demand_alive(entry)
    if entry.state in UNFINISHED:
        taken = await session.ledger.take_over(entry.id)
        kind = ClaimOutcome.ACQUIRED if taken else ClaimOutcome.JOINED
        return Claim(kind=kind, intent=claim.intent, entry=taken or entry)
    return await _claim_again(session, claim, budgets)


async def _claim_again(session: Studio, claim: Claim, budgets: Sequence[Budget]) -> Claim:
    return (await claim_shots(session, [claim.intent], budgets=budgets, partial=True))[0]
