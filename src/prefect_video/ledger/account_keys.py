"""Keys of accounts, by their fingerprints: since when each is in use, and when it was used last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.database import Database
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.records import KeyUse
from prefect_video.ledger.tables import account_keys

_NOTE_INTERVAL: Final = timedelta(hours=1)
_REMINDER_INTERVAL: Final = timedelta(days=1)
_columns = account_keys.c


class AccountKeys(LedgerBase):
    """The keys that the accounts of this ledger are used with; never a key itself."""

    def __init__(self, database: Database, owner: Lease, command_option: str | None) -> None:
        super().__init__(database, owner, command_option)
        self._noted: dict[tuple[str, str], KeyUse] = {}

    async def note_use(self, connection: AsyncConnection, account: str, key_fingerprint: str) -> None:
        """Record that a key is used now, within the caller's transaction and once an hour of this process."""
        now = datetime.now(UTC)
        noted = self._noted.get((account, key_fingerprint))
        if noted is not None and now - noted.last_used_at < _NOTE_INTERVAL:
            return
        this_key = and_(_columns.account == account, _columns.key_fingerprint == key_fingerprint)
        row = {"account": account, "key_fingerprint": key_fingerprint, "first_used_at": now, "last_used_at": now}
        await connection.execute(self._database.insert_missing(account_keys).values(**row))
        await connection.execute(update(account_keys).where(this_key).values(last_used_at=now))
        found = (await connection.execute(select(account_keys).where(this_key))).one()
        self._noted[account, key_fingerprint] = KeyUse.model_validate(found._asdict())

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
