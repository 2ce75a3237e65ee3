"""Reads of jobs: one, many, those in progress, those stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Row,
    Text,
    TextClause,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.assets import Asset
from prefect_video.generations import RecordedGeneration
from prefect_video.ledger.base import BY_ID, LedgerBase, chunks, no_such_job
from prefect_video.ledger.budgets import beginning_of_month
from prefect_video.ledger.existing_jobs import claim_key, existing_job, read_existing, reusable
from prefect_video.ledger.records import (
    OCCUPYING,
    REQUEST_PREFIX,
    UNFINISHED,
    UNSENT,
    CompletionTime,
    HistoryEntry,
    Job,
    JobPosition,
    JobRequest,
    NumberedEntry,
    State,
    StoredMatch,
    WorkKind,
)
from prefect_video.ledger.row_records import UnreadableValue, readable_rows, require_readable
from prefect_video.ledger.tables import IS_SENDING, IS_UNFINISHED, JOBS, copies, history, job_from_row, jobs_table


def _is_in_progress(state: State, hold_reason: str | None) -> bool | None:
    """Return whether the provider works on the generation of a job; None where the ledger does not know."""
    if state is State.SUBMITTED:
        # A held one is overdue: it may be gone from the provider as well.
        return True if hold_reason is None else None
    # Of one that was cancelled, expired or lost the provider may say something else.
    return False if state in (State.COMPLETED, State.STORED, State.FAILED) else None


_BY_GENERATION: Final = JOBS.where(
    jobs_table.c.account == bindparam("at"), jobs_table.c.generation_id == bindparam("sought")
)
_BY_IDS: Final = JOBS.where(jobs_table.c.id.in_(bindparam("ids", expanding=True)))

LEFT_OFTEN: Final = 2
"""Number of collections in a row that have left a job for later, from which on it is listed beside what is held."""
# Two searches, each by an index of its own: for one with `OR`, SQLite reads all jobs.
_NEEDING_ATTENTION: Final = union_all(
    select(jobs_table.c.id).where(jobs_table.c.hold_reason.is_not(None)),
    select(jobs_table.c.id).where(IS_UNFINISHED, jobs_table.c.left_count >= LEFT_OFTEN),
)
_NEWEST: Final = 50
"""More are not needed, and older ones tell of a provider that may have been slower, or of ends noticed late."""


def _match_stored(jobs: Sequence[Job], wanted: JobRequest, now: datetime) -> StoredMatch | None:
    stored = reusable(jobs, wanted, now)
    if stored is None:
        return None
    return StoredMatch(stored, is_made_anew=any(job.state in UNFINISHED for job in jobs))


class Queries(LedgerBase):
    """Reads of jobs, their history and their copies."""

    async def get(self, job_id: str) -> Job:
        """Read one row.

        Raises:
            LedgerError: There is no such row.
        """

        async def read(connection: AsyncConnection) -> Job:
            row = (await connection.execute(BY_ID, {"sought": job_id})).one_or_none()
            if row is None:
                raise no_such_job(job_id)
            return job_from_row(row)

        return await self._database.read(read)

    async def get_many(self, job_ids: Iterable[str]) -> list[Job]:
        """Read rows by their ids, in the order given; ids that are not in the ledger are left out."""
        wanted = list(dict.fromkeys(job_ids))

        async def read(connection: AsyncConnection) -> dict[str, Job]:
            found: dict[str, Job] = {}
            for chunk in chunks(wanted):
                rows = await connection.execute(_BY_IDS, {"ids": list(chunk)})
                found.update((job.id, job) for job in readable_rows(rows, job_from_row))
            return found

        found = await self._database.read(read)
        return [found[job_id] for job_id in wanted if job_id in found]

    async def left_state(self, job_ids: Iterable[str], *, out_of: State) -> list[Job]:
        """Read the rows that are no longer in a state."""
        found: list[Job] = []
        async with self._database.reading() as connection:
            for chunk in chunks(job_ids):
                query = JOBS.where(jobs_table.c.id.in_(chunk), jobs_table.c.state != out_of)
                found.extend(readable_rows(await connection.execute(query), job_from_row))
        return found

    async def owners_of(self, job_ids: Iterable[str]) -> dict[str, str | None]:
        """Read the owners of the rows that are in progress and not held."""
        g = jobs_table.c
        found: dict[str, str | None] = {}
        async with self._database.reading() as connection:
            for chunk in chunks(job_ids):
                query = select(g.id, g.owner).where(g.id.in_(chunk), g.state.in_(UNFINISHED), g.hold_reason.is_(None))
                found.update((row.id, row.owner) for row in await connection.execute(query))
        return found

    async def find_generation(self, account: str, generation_id: str) -> Job | None:
        """Find the row of a provider's generation."""

        async def read(connection: AsyncConnection) -> Job | None:
            named = {"at": account, "sought": generation_id}
            row = (await connection.execute(_BY_GENERATION, named)).one_or_none()
            return None if row is None else job_from_row(row)

        return await self._database.read(read)

    async def find_stored(self, job_requests: Sequence[JobRequest]) -> list[StoredMatch | None]:
        """Find the stored row that answers each request; else None.

        Two requests of one fingerprint may have different ones: a clip that was adopted is for its shot alone.
        """
        existing = await self._database.read(lambda connection: read_existing(connection, job_requests))
        now = datetime.now(UTC)
        of_requests = ((wanted, existing.get(claim_key(wanted), ())) for wanted in job_requests)
        return [_match_stored(jobs, wanted, now) for wanted, jobs in of_requests]

    async def find_existing(self, job_requests: Sequence[JobRequest]) -> list[Job | None]:
        """Find the row that a claim of each request would return: stored, in progress or held; else None."""
        existing = await self._database.read(lambda connection: read_existing(connection, job_requests))
        now = datetime.now(UTC)
        return [
            existing_job(existing.get(claim_key(job_request), ()), job_request, now) for job_request in job_requests
        ]

    async def find_existing_and_missing(
        self, job_requests: Sequence[JobRequest]
    ) -> tuple[list[Job | None], list[list[Job]]]:
        """Find what `find_existing` does, and rows that were stored once and whose video is missing; one read of both.

        Returns:
            For each request its row, and those rows of the same video whose file is neither here nor at the provider.
        """
        found = await self._database.read(lambda connection: read_existing(connection, job_requests, with_missing=True))
        now = datetime.now(UTC)
        of_requests = [found.get(claim_key(job_request), []) for job_request in job_requests]
        existing = [existing_job(jobs, wanted, now) for wanted, jobs in zip(job_requests, of_requests, strict=True)]
        missing = [[job for job in jobs if job.state is State.LOST and job.stored_at] for jobs in of_requests]
        return existing, missing

    async def unfinished(
        self,
        *,
        environment: str | None = None,
        project: str | None = None,
        flow_run_id: str | None = None,
        account: str | None = None,
    ) -> list[Job]:
        """Read the rows in progress, oldest first."""
        return await self._select(
            IS_UNFINISHED,
            *_equal(environment=environment, project=project, flow_run_id=flow_run_id, account=account),
        )

    async def find_resumable_requests(self, account: str, *, with_ended: bool) -> list[str]:
        """Find the jobs of a service's requests that this process may have to go on with, the oldest first; their ids.

        Args:
            account: The account that sends them.
            with_ended: Those too whose videos may be ready, beside those that were not sent and are not this process's.
        """
        columns, estimate = jobs_table.c, jobs_table.c.estimated_completion_at
        unsent = and_(columns.state.in_(UNSENT), or_(columns.owner.is_(None), columns.owner != self._owner.id))
        ended = or_(
            columns.state == State.COMPLETED,
            and_(columns.state == State.SUBMITTED, or_(estimate.is_(None), estimate <= datetime.now(UTC))),
        )
        query = select(columns.id).where(
            columns.account == account,
            columns.state.in_(UNFINISHED),
            columns.flow_run_id.startswith(REQUEST_PREFIX, autoescape=True),
            columns.hold_reason.is_(None),
            or_(unsent, ended) if with_ended else unsent,
        )
        async with self._database.reading() as connection:
            found = await connection.execute(query.order_by(columns.created_at, columns.id))
            return list(found.scalars())

    async def find(
        self,
        *,
        project: str | None = None,
        state: State | None = None,
        limit: int | None = 100,
        hold_reason: bool | None = None,
        needs_attention: bool = False,
        flow_run_id: str | None = None,
    ) -> list[Job]:
        """Find rows, newest first.

        Args:
            project: Only those of a project.
            state: Only those in a state.
            limit: At most this many; None for all.
            hold_reason: Only those that are held, or are not.
            needs_attention: Only those that are held, or that collections have left for later twice or more.
            flow_run_id: Only those of a run.
        """
        conditions = [*_in_state(state), *_equal(project=project, flow_run_id=flow_run_id)]
        if hold_reason is not None:
            flagged = jobs_table.c.hold_reason
            conditions.append(flagged.is_not(None) if hold_reason else flagged.is_(None))
        if needs_attention:
            conditions.append(jobs_table.c.id.in_(_NEEDING_ATTENTION))
        return await self._select(*conditions, newest_first=True, limit=limit)

    async def find_degraded(self, *, limit: int) -> list[Job]:
        """Find the rows of this month's videos that differ from what their projects request, newest first.

        Released ones, for which nothing was sent, are left out.

        Args:
            limit: At most this many.
        """
        columns = jobs_table.c
        return await self._select(
            columns.degraded.is_not(None),
            columns.created_at >= beginning_of_month(datetime.now(UTC)),
            columns.state != State.RELEASED,
            newest_first=True,
            limit=limit,
        )

    async def page(
        self,
        *,
        environment: str | None = None,
        project: str | None = None,
        state: State | None = None,
        shot: str | None = None,
        hold_reason: bool | None = None,
        since: datetime | None = None,
        after: JobPosition | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Read a page of rows, newest first.

        Args:
            environment: Only those of an environment.
            project: Only those of a project.
            state: Only those in a state.
            shot: Only those of the shots with an id.
            hold_reason: Only those that are held, or are not.
            since: Only those created at that time or later.
            after: The last row of the page before.
            limit: At most this many.
        """
        columns = jobs_table.c
        conditions = [*_in_state(state), *_equal(environment=environment, project=project)]
        if hold_reason is not None:
            held = columns.hold_reason.is_not(None)
            conditions.append(held if hold_reason else ~held)
        if shot is not None:
            # The id is the first field of a shot's record; compared as text, as `LIKE` differs between databases.
            start = f'{{"id":{json.dumps(shot)},'
            conditions.append(func.substr(type_coerce(columns.shot, Text()), 1, len(start)) == start)
        if since is not None:
            conditions.append(columns.created_at >= since)
        if after is not None:
            same_moment = and_(columns.created_at == after.created_at, columns.id < after.id)
            conditions.append(or_(columns.created_at < after.created_at, same_moment))
        query = JOBS.where(*conditions).order_by(columns.created_at.desc(), columns.id.desc()).limit(limit)
        async with self._database.reading() as connection:
            rows = list(await connection.execute(query))
        jobs = list(readable_rows(rows, job_from_row))
        if len(jobs) < len(rows) == limit:
            # What cannot be read must not look like the end of the list.
            jobs += await self.page(
                environment=environment,
                project=project,
                state=state,
                shot=shot,
                hold_reason=hold_reason,
                since=since,
                after=JobPosition(created_at=rows[-1].created_at, id=rows[-1].id),
                limit=limit - len(jobs),
            )
        return jobs

    async def history_after(self, job_id: str, number: int) -> list[NumberedEntry]:
        """Read the lines of a row's history that come after the line with a number, oldest first."""
        columns = [history.c[name] for name in HistoryEntry.model_fields]
        query = select(history.c.id, *columns).where(history.c.job_id == job_id, history.c.id > number)
        async with self._database.reading() as connection:
            found = await connection.execute(query.order_by(history.c.id))
            return [NumberedEntry(row[0], HistoryEntry.model_validate(row._asdict(), extra="ignore")) for row in found]

    async def history(self, job_id: str) -> list[HistoryEntry]:
        """Read the history of a row, oldest first."""
        columns = (history.c[name] for name in HistoryEntry.model_fields)
        async with self._database.reading() as connection:
            found = await connection.execute(select(*columns).where(history.c.job_id == job_id).order_by(history.c.id))
            return [HistoryEntry.model_validate(row._asdict()) for row in found]

    async def recorded_generations(
        self, account: str, key_fingerprint: str | None = None
    ) -> dict[str, RecordedGeneration]:
        """Return the generations of the account's jobs by their ids, and those that were sent with a key.

        One key may be used under two names of accounts: its list shows the generations of both.
        """
        columns = jobs_table.c
        theirs = columns.account == account
        if key_fingerprint is not None:
            theirs = or_(theirs, columns.key_fingerprint == key_fingerprint)
        async with self._database.reading() as connection:
            found = await connection.execute(
                select(
                    columns.generation_id,
                    func.coalesce(columns.submitted_at, columns.created_at).label("recorded_at"),
                    # As text: there may be very many, of which the prompt alone matters.
                    type_coerce(columns.shot, Text()).label("shot"),
                    columns.state,
                    columns.hold_reason,
                ).where(theirs, columns.generation_id.is_not(None))
            )
            return {
                str(row.generation_id): RecordedGeneration(
                    recorded_at=row.recorded_at,
                    prompt=_read_prompt(row.shot),
                    in_progress=_is_in_progress(row.state, row.hold_reason),
                )
                for row in found
            }

    async def occupied(self, account: str) -> int:
        """Count the generations that the provider may be working on for an account."""
        return await self._count(jobs_table.c.account == account, jobs_table.c.state.in_(OCCUPYING))

    async def submissions_since(self, account: str, at: datetime) -> int:
        """Count the requests of an account that were sent since a time, rejected ones included."""
        # Looked up for each request of that time: SQLite would begin a join with all jobs of the account.
        its_account = select(jobs_table.c.account).where(jobs_table.c.id == history.c.job_id).scalar_subquery()
        sent = select(func.count()).where(
            IS_SENDING, history.c.from_state == State.RESERVED, history.c.at >= at, its_account == account
        )
        async with self._database.reading() as connection:
            return (await connection.execute(sent)).scalar_one()

    async def count(self, project: str) -> int:
        """Count the rows of a project."""
        return await self._count(jobs_table.c.project == project)

    async def copies(self, job_ids: Iterable[str], project: str) -> dict[tuple[str, str], Asset]:
        """Read the copies of stored videos in a project, by job id and shot id."""
        found: dict[tuple[str, str], Asset] = {}
        async with self._database.reading() as connection:
            for chunk in chunks(job_ids):
                rows = await connection.execute(
                    select(copies).where(copies.c.project == project, copies.c.job_id.in_(chunk))
                )
                found.update(readable_rows(rows, _copy_from_row))
        return found

    async def record_copy(self, job_id: str, project: str, shot_id: str, asset: Asset) -> None:
        """Record that a stored video was copied into another project, in place of an earlier copy.

        Raises:
            LedgerError: There is no such row.
        """
        async with self._database.writing() as connection:
            await self._locked(connection, job_id)
            await connection.execute(
                delete(copies).where(
                    copies.c.job_id == job_id, copies.c.project == project, copies.c.shot_id == shot_id
                )
            )
            await connection.execute(
                insert(copies).values(job_id=job_id, project=project, shot_id=shot_id, asset=asset)
            )

    async def latency(
        self, provider: str, *, window: timedelta = timedelta(days=30), at_most: int = 500
    ) -> dict[WorkKind, tuple[CompletionTime, ...]]:
        """Return how long a provider's newest generations took, by kind, newest first.

        Args:
            provider: Its name; all accounts count.
            window: How far to look back.
            at_most: How many generations to look at.
        """
        taken: dict[WorkKind, list[CompletionTime]] = {}
        columns = (
            jobs_table.c.shot, jobs_table.c.submitted_at, jobs_table.c.seconds_taken,
            jobs_table.c.estimated_completion_at,
        )  # fmt: skip
        # By time of creation, as there is an index on it: the walk ends at the newest few hundred.
        newest = (
            select(*columns)
            .where(
                jobs_table.c.created_at >= datetime.now(UTC) - window,
                jobs_table.c.provider == provider,
                jobs_table.c.submitted_at.is_not(None),
                jobs_table.c.seconds_taken > 0,
            )
            .order_by(jobs_table.c.created_at.desc())
            .limit(at_most)
        )
        async with self._database.reading() as connection:
            for shot, submitted_at, seconds, estimated_at in await connection.execute(newest):
                if isinstance(shot, UnreadableValue):
                    continue
                newest_of_kind = taken.setdefault(WorkKind(shot.model, shot.duration, shot.resolution), [])
                if len(newest_of_kind) < _NEWEST:
                    hinted = None if estimated_at is None else (estimated_at - submitted_at).total_seconds()
                    newest_of_kind.append(
                        # An estimate that was over before it was given is of a wrong clock, and says nothing.
                        CompletionTime(seconds=seconds, hinted_seconds=hinted if hinted and hinted > 0 else None)
                    )
        return {kind: tuple(times) for kind, times in taken.items()}

    async def _select(
        self, *conditions: ColumnElement[bool] | TextClause, newest_first: bool = False, limit: int | None = None
    ) -> list[Job]:
        order = (jobs_table.c.created_at, jobs_table.c.id)
        query = JOBS.where(*conditions).limit(limit)
        query = query.order_by(*(column.desc() for column in order)) if newest_first else query.order_by(*order)
        async with self._database.reading() as connection:
            return list(readable_rows(await connection.execute(query), job_from_row))

    async def _count(self, *conditions: ColumnElement[bool]) -> int:
        async with self._database.reading() as connection:
            found = await connection.execute(select(func.count()).select_from(jobs_table).where(*conditions))
            return found.scalar_one()


def _read_prompt(shot: str) -> str | None:
    """Return the prompt in a shot's JSON; None where it cannot be read, so that any may have been meant."""
    try:
        prompt = json.loads(shot)["prompt"]
    except (ValueError, KeyError, TypeError):
        return None
    return prompt if isinstance(prompt, str) else None


def _copy_from_row(row: Row[Any]) -> tuple[tuple[str, str], Asset]:
    asset = require_readable(row.asset, table=copies.name, row_id=row.job_id, column="asset")
    return (row.job_id, row.shot_id), asset


def _in_state(state: State | None) -> list[ColumnElement[bool] | TextClause]:
    """Build the conditions of a state, with the one by which the index of jobs in progress is found."""
    if state is None:
        return []
    return [jobs_table.c.state == state, *([IS_UNFINISHED] if state in UNFINISHED else [])]


def _equal(**wanted: Any) -> list[ColumnElement[bool]]:
    return [jobs_table.c[name] == value for name, value in wanted.items() if value is not None]
