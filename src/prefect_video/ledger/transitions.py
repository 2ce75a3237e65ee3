"""The guarded steps of a row, from reserved to stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._amounts import usd
from prefect_video.assets import MANUAL, Asset
from prefect_video.errors import InvalidTransition, ProviderError, VideoError
from prefect_video.generations import Generation, find_hinted_seconds
from prefect_video.ledger.cost_bound import (
    DEFAULT_COST_BOUND,
    CostBound,
    cost_columns,
    with_dispute,
    without_dispute,
)
from prefect_video.ledger.late_reservations import is_late
from prefect_video.ledger.log_lines import log_state
from prefect_video.ledger.records import UNFINISHED, Job, State
from prefect_video.ledger.row_guards import (
    TransitionBase,
    drop_none,
    error_columns,
    require_same_generation,
    source_states,
)
from prefect_video.ledger.tables import jobs_table
from prefect_video.quality import Quality

logger = logging.getLogger(__name__)

SENT: Final = frozenset({State.SUBMITTING, State.UNKNOWN})
"""A request is on its way, or was, and its answer is not on record."""

_ENDED: Final = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST})


class Transitions(TransitionBase):
    """The steps from reserved to stored. Every method returns the row as it stands afterwards.

    Raises, from every method:
        InvalidTransition: The row is not in a state that allows the step.
        LedgerError: There is no such row, or the ledger cannot be used.
    """

    async def refresh_submit(self, job_id: str) -> Job:
        """Record anew that the request is about to be sent, after a pause in which a takeover was possible."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            self._require_owner(job)
            if job.state is not State.SUBMITTING:
                raise InvalidTransition(f"job {job.id} is {job.state}: it is no longer to be sent")
            self._database.require_file()
            await self._append_history(connection, [(job.id, job.state, job.state)], "about to be sent after a pause")
            # By the database's clock, by which its age is measured in whichever process.
            return await self._change(connection, job, {"sent_at": await self._database.now(connection)})

    async def record_submitted(
        self, job_id: str, generation: Generation, *, detail: str | None = None, leave: bool = False
    ) -> Job:
        """Record that the provider accepted; again with the same generation it does nothing.

        Args:
            job_id: The row.
            generation: What was accepted.
            detail: For the history.
            leave: Give up the ownership too: this process does not wait for the end.
        """
        left = {"owner": None} if leave else {}

        async def record(connection: AsyncConnection) -> Job:
            job = await self._locked(connection, job_id)
            # An earlier try may have been committed, and only its answer lost.
            if job.generation_id == generation.id:
                return job
            await self._require_new_generation(connection, job, generation.id)
            submitted_at = datetime.now(UTC)
            return await self._move(
                connection,
                job,
                State.SUBMITTED,
                SENT,
                detail=detail,
                generation_id=generation.id,
                submitted_at=submitted_at,
                error_type=None,
                error_message=None,
                **left,
                **drop_none(estimated_completion_at=_estimate_by_own_clock(generation, submitted_at)),
            )

        return await self._database.write(record)

    async def record_unknown(self, job_id: str, error: VideoError | str) -> Job:
        """Record that a request went out and no usable answer came back."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            if job.state is State.UNKNOWN:
                return job
            return await self._move(
                connection,
                job,
                State.UNKNOWN,
                {State.SUBMITTING},
                detail=str(error),
                # The settle time runs from here, by the clock that all processes share.
                unknown_at=await self._database.now(connection),
                **error_columns(error),
            )

    async def return_to_reserved(self, job_id: str, detail: str) -> Job:
        """Record that the provider has proven to hold nothing; the row may be sent again by its owner."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            if job.state is State.RESERVED:
                return job
            self._require_settle_right(job)
            return await self._return(connection, job, detail)

    async def take_back_begin(self, begun: Job) -> None:
        """Return a row to reserved whose submit has begun and whose caller was interrupted before anything was sent."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, begun.id)
            # What has begun since may be on its way.
            if (job.state, job.owner, job.sent_at) == (State.SUBMITTING, begun.owner, begun.sent_at):
                await self._return(connection, job, "interrupted before it was sent")

    async def release_reservation(self, job_id: str, error: VideoError | str) -> Job:
        """End a row for which nothing was accepted: its money is free again."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            if job.state is State.RELEASED:
                return job
            # A reservation was never sent: any process may end it. What was sent, its owner may be sending now.
            if job.state in SENT:
                self._require_settle_right(job)
            return await self._move(
                connection,
                job,
                State.RELEASED,
                source_states(State.RELEASED),
                detail=str(error),
                **error_columns(error),
            )

    async def record_completed(
        self, job_id: str, generation: Generation, *, bound: CostBound = DEFAULT_COST_BOUND
    ) -> Job:
        """Record that the video is ready; on a completed row only a new expiry and cost are recorded.

        A cost beyond the bound does not keep the video from being fetched: the row is held once that is stored.
        """

        async def record(connection: AsyncConnection) -> Job:
            job = await self._locked(connection, job_id)
            values = cost_columns(job, generation.cost_usd, bound) | drop_none(
                expires_at=generation.result.expires_at if generation.result else None
            )
            require_same_generation(job, generation.id)
            # A late report: what the stored video cost was settled when it was completed.
            if job.state is State.STORED:
                return job
            if job.state is State.COMPLETED:
                return await self._change(connection, job, values) if values else job
            return await self._move(
                connection,
                job,
                State.COMPLETED,
                {State.SUBMITTED},
                completed_at=datetime.now(UTC),
                seconds_taken=generation.seconds_taken,
                **values,
            )

        return await self._database.write(record)

    async def record_stored(
        self,
        job_id: str,
        asset: Asset,
        *,
        store_id: str | None = None,
        store: str | None = None,
        accepted: bool = False,
    ) -> Job:
        """Record the published file; again with the same content it does nothing.

        Args:
            job_id: The row.
            asset: What was published.
            store_id: Identity of the store that it was published to.
            store: Name of that store; None where it is the one that the row names.
            accepted: A human has accepted a video that was kept as rejected: its row may be lost or expired.
        """

        async def record(connection: AsyncConnection) -> Job:
            job = await self._locked(connection, job_id)
            if job.state is State.STORED and job.asset and job.asset.sha256 == asset.sha256:
                return job
            if accepted and job.state is not State.COMPLETED:
                await self._require_no_active_job(connection, job)
            return await self._move(
                connection,
                job,
                State.STORED,
                source_states(State.STORED) if accepted else {State.COMPLETED},
                # One that was fetched again is as old as it was.
                stored_at=job.stored_at or datetime.now(UTC),
                asset=asset,
                store_id=store_id,
                store=store or job.store,
                quality=asset.quality,
                error_type=None,
                error_message=None,
            )

        return await self._database.write(record)

    async def record_quality(self, job_id: str, quality: Quality) -> Job:
        """Record what the quality gates have found in a video that is not stored."""
        async with self._database.writing() as connection:
            return await self._change(connection, await self._locked(connection, job_id), {"quality": quality})

    async def reopen_stored(self, job_id: str, reason: str) -> Job:
        """Record that a stored file is missing or damaged and is to be fetched again from the provider.

        The row is completed again and has no owner: a claim, or `collect`, takes it up. Again it does nothing.
        """
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            if job.is_reopened:
                return job
            if job.generation_id is None or job.provider == MANUAL:
                raise InvalidTransition(f"job {job_id} has no generation that its video could be fetched from")
            # Completed again beside a row in progress, it would be the second unfinished row of its fingerprint.
            await self._require_no_active_job(connection, job)
            return await self._move(
                connection, job, State.COMPLETED, {State.STORED}, detail=reason, error_type=None, error_message=reason
            )

    async def record_ended(
        self,
        job_id: str,
        state: State,
        error: VideoError | str,
        *,
        actual_usd: Decimal | None,
        hold_reason: str | None = None,
        bound: CostBound = DEFAULT_COST_BOUND,
    ) -> Job:
        """Record that the generation is over and there is no video.

        Args:
            job_id: The row.
            state: `failed`, `cancelled`, `expired` or `lost`.
            error: Why; a provider's error also gives its generation and request ids.
            actual_usd: What it cost; None when not known: then what was reserved counts as spent.
            hold_reason: What a human is to decide; until then nothing is bought in its place. In the same transaction
                as the end: a crash in between would leave a row that the next run buys again.
            bound: The most that it is believed to have cost; beyond it the row is held.
        """
        if state not in _ENDED:
            raise InvalidTransition(f"job {job_id} cannot end as {state}: that is not an end without a video")
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            if job.state is state:
                return job
            values = error_columns(error) | cost_columns(job, actual_usd, bound) | drop_none(hold_reason=hold_reason)
            if job.generation_id is None and isinstance(error, ProviderError) and error.generation_id:
                await self._require_new_generation(connection, job, error.generation_id)
                # Accepted and failed in one answer: without its id no one could find the charge at the provider.
                values |= {"generation_id": error.generation_id, "submitted_at": datetime.now(UTC)}
            return await self._move(
                # Never from another end: a late report must not rewrite what was stored or paid.
                connection,
                job,
                state,
                source_states(state) & UNFINISHED,
                detail=str(error),
                **values,
            )

    async def record_found(self, job_id: str, generation: Generation, *, deadline_at: datetime | None = None) -> Job:
        """Record that a lost generation is at the provider after all: it is polled like any other."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            await self._require_new_generation(connection, job, generation.id)
            await self._require_no_active_job(connection, job)
            return await self._move(
                connection,
                job,
                State.SUBMITTED,
                {State.LOST},
                detail="found again",
                generation_id=generation.id,
                submitted_at=job.submitted_at or datetime.now(UTC),
                deadline_at=deadline_at,
                completed_at=None,
                stored_at=None,
                asset=None,
                error_type=None,
                error_message=None,
            )

    async def record_missing(self, job_id: str, detail: str, *, hold_reason: str | None = None) -> Job:
        """Record that a stored file is missing, here and at the provider: the video may be bought again.

        Args:
            job_id: The row.
            detail: Why.
            hold_reason: What a human has decided; until that is revoked nothing is bought in its place.
        """
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            if job.state is State.LOST and job.stored_at is not None:
                return job
            allowed = {State.STORED, State.COMPLETED} if job.is_reopened else {State.STORED}
            values = drop_none(error_message=detail, hold_reason=hold_reason)
            return await self._move(connection, job, State.LOST, allowed, detail=detail, **values)

    async def hold(self, job_id: str, hold_reason: str) -> Job:
        """Hold a row for a human: no process resumes it until it moves or is unheld."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            # A finished row may be held for its cost already: a human has both to decide.
            if job.state not in UNFINISHED:
                hold_reason = with_dispute(job, hold_reason, self._command_option) or hold_reason
            if job.hold_reason == hold_reason:
                return job
            await self._append_history(connection, [(job.id, job.state, job.state)], f"is held: {hold_reason}")
            log_state(job, f"held: {hold_reason}", level=logging.WARNING)
            return await self._change(connection, job, {"hold_reason": hold_reason})

    async def record_left(self, job_id: str, reason: str) -> Job:
        """Record that a collection has left a row for a later one, and why; any step of the row ends the count."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            return await self._change(connection, job, {"left_count": job.left_count + 1, "left_reason": reason})

    async def forget_left(self, job_id: str) -> Job:
        """Record that a collection has got an answer about a row, although it may be too early to finish it."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            return await self._change(connection, job, {"left_count": 0, "left_reason": None})

    async def unhold(self, job_id: str) -> Job:
        """Release the hold; a finished row whose cost is disputed stays held for that."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            left = None if job.state in UNFINISHED else with_dispute(job, None, self._command_option)
            if job.hold_reason == left:
                return job
            await self._append_history(connection, [(job.id, job.state, job.state)], "hold released")
            return await self._change(connection, job, {"hold_reason": left})

    async def settle_cost(self, job_id: str, actual_usd: Decimal) -> Job:
        """Record what a human has found that a generation cost, in place of a disputed cost."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            if job.disputed_usd is None:
                raise InvalidTransition(f"job {job.id} has no disputed cost: there is nothing to settle")
            detail = f"cost settled as {usd(actual_usd)}; {job.provider} says {usd(job.disputed_usd)}"
            await self._append_history(connection, [(job.id, job.state, job.state)], detail)
            settled = {
                "actual_usd": actual_usd,
                "disputed_usd": None,
                "hold_reason": without_dispute(job, self._command_option),
            }
            return await self._change(connection, job, settled)

    async def assign_account(
        self, job_id: str, *, account: str, credentials: str, key_fingerprint: str | None = None
    ) -> Job:
        """Assign a row to another account, or to another key: the one that has proven to know its generation."""
        async with self._database.writing() as connection:
            job = await self._locked(connection, job_id)
            key_fingerprint = key_fingerprint or job.key_fingerprint
            if (job.account, job.key_fingerprint) == (account, key_fingerprint):
                return job
            detail = f"booked under account {account}, before under {job.account}"
            if job.account == account:
                detail = f"known to key {key_fingerprint}, before to {job.key_fingerprint}"
            await self._append_history(connection, [(job.id, job.state, job.state)], detail)
            values = {"account": account, "credentials": credentials, "key_fingerprint": key_fingerprint}
            return await self._change(connection, job, values)

    async def set_deadline(self, job_id: str, deadline_at: datetime | None) -> Job:
        """Set until when the generation is waited for."""
        async with self._database.writing() as connection:
            return await self._change(connection, await self._locked(connection, job_id), {"deadline_at": deadline_at})

    async def record_orphan(self, orphan: Job, detail: str) -> None:
        """Add a finished row for a generation that no row owns.

        Raises:
            InvalidTransition: A row owns it.
        """
        now = datetime.now(UTC)
        values = {name: getattr(orphan, name) for name in Job.model_fields}
        async with self._database.writing() as connection:
            await connection.execute(
                insert(jobs_table).values(
                    **values | {"model": orphan.shot.model, "owner": None, "created_at": now, "updated_at": now}
                )
            )
            await self._append_history(connection, [(orphan.id, None, orphan.state)], detail)

    async def _return(self, connection: AsyncConnection, job: Job, detail: str) -> Job:
        return await self._move(
            connection,
            job,
            State.RESERVED,
            SENT,
            detail=detail,
            sent_at=None,
            unknown_at=None,
            key_fingerprint=None,
            error_type=None,
            error_message=None,
        )

    async def begin(self, connection: AsyncConnection, job: Job, sending: Mapping[str, Any]) -> Job:
        """Move a locked row to `submitting` within the caller's transaction.

        Args:
            connection: Of the transaction.
            job: The row.
            sending: Columns about the send: task run, deadline, fingerprint of the key.

        Raises:
            InvalidTransition: The row is not reserved, or belongs to another process.
        """
        # The last check before money is spent: a ledger file that was replaced would forget the payment.
        self._require_owner(job)
        self._database.require_file()
        if is_late(job.fingerprint):
            raise InvalidTransition(f"job {job.id} is a late reservation: what it continues is not stored yet")
        return await self._move(
            connection,
            job,
            State.SUBMITTING,
            {State.RESERVED},
            sent_at=await self._database.now(connection),
            waiting_since=None,
            **sending,
        )


def _estimate_by_own_clock(generation: Generation, submitted_at: datetime) -> datetime | None:
    """Return the provider's estimate of the end by this machine's clock, by which a later process reads it."""
    seconds = find_hinted_seconds(generation, submitted_at)
    return submitted_at + timedelta(seconds=seconds) if seconds else generation.estimated_completion_at
