"""Names of accounts: which of them one key was used under, and the change of a name with all that counts under it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.errors import InvalidInput, InvalidTransition
from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.claims import wait_for_turn
from prefect_video.ledger.deferred_runs import rename_credentials
from prefect_video.ledger.records import UNFINISHED
from prefect_video.ledger.tables import account_keys, accounts, idempotency_keys, jobs_table, webhook_events

_jobs = jobs_table.c


class AccountNames(LedgerBase):
    """The names under which accounts are recorded: their limits count by name."""

    async def share(self, old: str, new: str) -> None:
        """Let another account use the keys of an account, with limits of its own.

        Raises:
            InvalidInput: No key was used for the first one.
        """
        async with self._database.writing() as connection:
            rows = (await connection.execute(select(account_keys).where(account_keys.c.account == old))).all()
            if not rows:
                raise _unknown(old)
            shared = [{**row._asdict(), "account": new} for row in rows]
            await connection.execute(self._database.insert_missing(account_keys), shared)

    async def rename(self, old: str, new: str, *, credentials: str | None = None) -> int:
        """Move everything that is recorded under an account to another name: jobs, slots, budgets, breaker and keys.

        Args:
            old: Id of the account.
            new: Its id from now on; what is recorded under that already stays, and counts with the rest.
            credentials: Name of the credentials by which its unfinished jobs are resumed, and its deferred runs are
                completed; None to keep it.

        Returns:
            The number of jobs that were moved.

        Raises:
            InvalidInput: The ledger does not know the account, or the other one is of another provider.
            InvalidTransition: A live process works on its jobs, or both names have one generation; nothing was moved.
        """
        async with self._database.writing() as connection:
            await wait_for_turn(self._database, connection)
            self._database.require_file()
            await self._require_movable(connection, old, new)
            if credentials is not None:
                await rename_credentials(connection, old, credentials)
                unfinished = and_(_jobs.account == old, _jobs.state.in_(UNFINISHED))
                await connection.execute(update(jobs_table).where(unfinished).values(credentials=credentials))
            moved = await connection.execute(update(jobs_table).where(_jobs.account == old).values(account=new))
            await connection.execute(
                update(idempotency_keys).where(idempotency_keys.c.account == old).values(account=new)
            )
            await _move_limits(connection, old, new)
            await _move_keys(connection, old, new)
            await _move_events(connection, old, new)
        return moved.rowcount

    async def _require_movable(self, connection: AsyncConnection, old: str, new: str) -> None:
        providers = set((await connection.execute(select(_jobs.provider).where(_jobs.account == old))).scalars())
        if not providers or old == new:
            raise _unknown(old)
        if not any(new.startswith((f"{provider}:", f"{provider}-")) for provider in providers):
            raise InvalidInput(
                f"account {new} is none of {', '.join(sorted(providers))}, as {old} is: take the id in the refusal"
            )
        working = select(_jobs.owner).where(_jobs.account == old, _jobs.state.in_(UNFINISHED), _jobs.owner.is_not(None))
        owners = set((await connection.execute(working)).scalars())
        if alive := await self._owner.alive(connection, owners):
            raise InvalidTransition(
                f"account {old}: {', '.join(sorted(alive))} works on its jobs, and nothing was moved: end that process,"
                " or wait for it, and repeat the command"
            )
        theirs = select(_jobs.generation_id).where(_jobs.account == new, _jobs.generation_id.is_not(None))
        both = select(_jobs.generation_id).where(_jobs.account == old, _jobs.generation_id.in_(theirs)).limit(1)
        if (generation := (await connection.execute(both)).scalar_one_or_none()) is not None:
            raise InvalidTransition(
                f"generation {generation} is recorded under {old} and under {new}, and nothing was moved: resolve one"
                " of its jobs first (see `prefect-video jobs --held`)"
            )


async def _move_limits(connection: AsyncConnection, old: str, new: str) -> None:
    """Move slots, breaker and quota; of two accounts the stricter limits remain."""
    found = {
        row.id: row._asdict() for row in await connection.execute(select(accounts).where(accounts.c.id.in_([old, new])))
    }
    if old not in found:
        return
    if new not in found:
        await connection.execute(update(accounts).where(accounts.c.id == old).values(id=new))
        return
    mine, other = found[old], found[new]
    kept: dict[str, Any] = {
        name: max((row[name] for row in (mine, other) if row[name] is not None), default=None)
        for name in ("failures", "open_until", "probing_until", "quota_until")
    }
    reduced = [row for row in (mine, other) if row["slots"] is not None]
    if reduced:
        lowest = min(reduced, key=lambda row: int(row["slots"]))
        kept |= {"slots": lowest["slots"], "slots_at": lowest["slots_at"]}
    await connection.execute(update(accounts).where(accounts.c.id == new).values(**kept))
    await connection.execute(delete(accounts).where(accounts.c.id == old))


async def _move_keys(connection: AsyncConnection, old: str, new: str) -> None:
    columns = account_keys.c
    theirs = set((await connection.execute(select(columns.key_fingerprint).where(columns.account == new))).scalars())
    for row in (await connection.execute(select(account_keys).where(columns.account == old))).all():
        this_key = and_(columns.account == old, columns.key_fingerprint == row.key_fingerprint)
        if row.key_fingerprint not in theirs:
            await connection.execute(update(account_keys).where(this_key).values(account=new))
            continue
        same = and_(
            columns.account == new,
            columns.key_fingerprint == row.key_fingerprint,
            columns.first_used_at > row.first_used_at,
        )
        await connection.execute(update(account_keys).where(same).values(first_used_at=row.first_used_at))
        await connection.execute(delete(account_keys).where(this_key))


async def _move_events(connection: AsyncConnection, old: str, new: str) -> None:
    columns = webhook_events.c
    theirs = select(columns.event_id).where(columns.account == new)
    await connection.execute(delete(webhook_events).where(columns.account == old, columns.event_id.in_(theirs)))
    await connection.execute(update(webhook_events).where(columns.account == old).values(account=new))


def _unknown(account: str) -> InvalidInput:
    return InvalidInput(
        f"the ledger has nothing of an account {account!r} that could be moved: see `spend --by account`"
    )
