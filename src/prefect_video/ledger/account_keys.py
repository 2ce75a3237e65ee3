"""Keys of accounts, by their fingerprints: since when each is in use, and when it was used last."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import and_, bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.errors import InvalidInput
from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.database import Database
from prefect_video.ledger.hold_reasons import command_line
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.records import UNFINISHED, Job, JobRequest, State
from prefect_video.ledger.tables import account_keys, jobs_table

_NOTE_INTERVAL: Final = timedelta(hours=1)
_REMINDER_INTERVAL: Final = timedelta(days=1)
_columns = account_keys.c
_KEYS_OF: Final = select(_columns.key_fingerprint).where(_columns.account == bindparam("account"))


class KeyUse(BaseModel):
    """Use of a key by an account.

    Attributes:
        account: Id of the account.
        key_fingerprint: Fingerprint of the key.
        first_used_at: When this ledger saw it for the first time, from which its age is counted.
        last_used_at: When something was sent with it last, to the hour.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    account: str
    key_fingerprint: str
    first_used_at: AwareDatetime
    last_used_at: AwareDatetime

    @property
    def age(self) -> timedelta:
        """Time since it was used for the first time."""
        return datetime.now(UTC) - self.first_used_at


class AccountKeys(LedgerBase):
    """The keys that the accounts of this ledger are used with, and what was sent with each; never a key itself."""

    def __init__(self, database: Database, owner: Lease, command_option: str | None) -> None:
        super().__init__(database, owner, command_option)
        self._noted: dict[tuple[str, str], KeyUse] = {}

    def is_noted(self, account: str, key_fingerprint: str) -> bool:
        """Tell whether this process has recorded a use of a key within the hour, which is often enough."""
        noted = self._noted.get((account, key_fingerprint))
        return noted is not None and datetime.now(UTC) - noted.last_used_at < _NOTE_INTERVAL

    async def note_use(self, connection: AsyncConnection, job: Job, key_fingerprint: str) -> KeyUse:
        """Record that a job is sent with a key now, within the caller's transaction, in which no other one uses it.

        Returns:
            The use, to be passed to `remember_use` after the commit.

        Raises:
            InvalidInput: The key was used under another name of the account, since the job was claimed.
        """
        await require_former_name(connection, job, [key_fingerprint], self._command_option)
        account, now = job.account, datetime.now(UTC)
        this_key = and_(_columns.account == account, _columns.key_fingerprint == key_fingerprint)
        row = {"account": account, "key_fingerprint": key_fingerprint, "first_used_at": now, "last_used_at": now}
        await connection.execute(self._database.insert_missing(account_keys).values(**row))
        await connection.execute(update(account_keys).where(this_key).values(last_used_at=now))
        found = (await connection.execute(select(account_keys).where(this_key))).one()
        return KeyUse.model_validate(found._asdict())

    def remember_use(self, use: KeyUse) -> None:
        """Remember that a use is on record: after a commit that fails it is to be recorded again."""
        self._noted[use.account, use.key_fingerprint] = use

    def last_noted(self, account: str, key_fingerprint: str) -> KeyUse | None:
        """Return what this process has recorded last of a key's use."""
        return self._noted.get((account, key_fingerprint))

    async def take_reminder(self, use: KeyUse, *, after: timedelta) -> bool:
        """Tell whether a reminder of a key's age is due: for one caller of all processes, and once a day."""
        now = datetime.now(UTC)
        due = and_(
            _columns.account == use.account,
            _columns.key_fingerprint == use.key_fingerprint,
            _columns.first_used_at <= now - after,
            or_(_columns.reminded_at.is_(None), _columns.reminded_at <= now - _REMINDER_INTERVAL),
        )
        async with self._database.writing() as connection:
            taken = await connection.execute(update(account_keys).where(due).values(reminded_at=now))
        return taken.rowcount == 1

    async def uses(self, account: str) -> list[KeyUse]:
        """Read the keys of an account, the one that was used last first."""
        query = select(account_keys).where(_columns.account == account).order_by(_columns.last_used_at.desc())
        async with self._database.reading() as connection:
            return [KeyUse.model_validate(row._asdict()) for row in await connection.execute(query)]

    async def other_accounts(self, account: str, key_fingerprint: str) -> list[str]:
        """Read the other accounts that a key was used with: their slots and budgets are counted apart."""
        query = select(_columns.account).where(_columns.key_fingerprint == key_fingerprint, _columns.account != account)
        async with self._database.reading() as connection:
            return list((await connection.execute(query.order_by(_columns.account))).scalars())

    async def generations_sent_with(self, key_fingerprint: str) -> frozenset[str]:
        """Return the ids of the generations that were sent with a key."""
        columns = jobs_table.c
        query = select(columns.generation_id).where(
            columns.key_fingerprint == key_fingerprint, columns.generation_id.is_not(None)
        )
        async with self._database.reading() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def unfinished_by_key(self, account: str) -> dict[str | None, int]:
        """Count the unfinished rows of an account that were sent, by the fingerprint of the key that has sent them."""
        key = jobs_table.c.key_fingerprint
        query = select(key, func.count()).where(
            jobs_table.c.account == account, jobs_table.c.state.in_(UNFINISHED - {State.RESERVED})
        )
        async with self._database.reading() as connection:
            return {row[0]: row[1] for row in await connection.execute(query.group_by(key))}


async def require_former_name(
    connection: AsyncConnection, job: JobRequest | Job, keys: Collection[str], ledger: str | None
) -> None:
    """Refuse a request of an account that never used its keys, where one has made videos under another name.

    The limits of an account count by its name, and must not begin anew because that has changed.

    Args:
        connection: Of the transaction that reserves or sends: a name may change at any time before it.
        job: A request that is about to be reserved, or a job that is about to be sent.
        keys: Fingerprints of the account's keys.
        ledger: The value of `--ledger` by which commands find this ledger.

    Raises:
        InvalidInput: The message names both accounts, and the commands that decide.
    """
    account, jobs = job.account, jobs_table.c
    unused = set(keys) - set((await connection.execute(_KEYS_OF, {"account": account})).scalars())
    if not unused:  # as for every claim but an account's first: the jobs need not be searched
        return
    others = select(jobs.account).where(
        jobs.key_fingerprint.in_(unused),
        jobs.account != account,
        # Environments side by side may use one key, each under a name of its own.
        jobs.environment == job.environment,
    )
    former = (await connection.execute(others.limit(1))).scalar_one_or_none()
    if former is None:
        return
    rename, share = (command_line("account", verb, former, account, ledger=ledger) for verb in ("rename", "share"))
    raise InvalidInput(
        f"account {account}: its key was used as account {former} before, and would begin with new limits as"
        f" {account}: budget, the plan's month, slots. Nothing was sent. Where it is the same account under another"
        f" name: `{rename}`. Where both are to have limits of their own: `{share}`"
    )
