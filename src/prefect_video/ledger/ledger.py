"""The ledger: every generation ever intended, paid, stored or failed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from prefect_video._shield import shielded
from prefect_video.ledger import schema
from prefect_video.ledger.account_keys import AccountKeys
from prefect_video.ledger.account_limits import AccountLimits
from prefect_video.ledger.account_names import AccountNames
from prefect_video.ledger.account_queues import AccountQueues
from prefect_video.ledger.approval_requests import ApprovalRequests
from prefect_video.ledger.backups import back_up
from prefect_video.ledger.budgets import SpendReports
from prefect_video.ledger.callbacks import Callbacks
from prefect_video.ledger.change_feed import ChangeFeed, open_change_feed
from prefect_video.ledger.choices import Choices
from prefect_video.ledger.claims import Claims
from prefect_video.ledger.connection_usage import ConnectionUsage, read_connection_usage
from prefect_video.ledger.database import Database
from prefect_video.ledger.deferred_runs import DeferredRuns
from prefect_video.ledger.exports import Exports
from prefect_video.ledger.hold_reasons import recover_command
from prefect_video.ledger.idempotency_keys import IdempotencyKeys
from prefect_video.ledger.jobs import Jobs
from prefect_video.ledger.late_reservations import LateReservations
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.measurements import Measurements
from prefect_video.ledger.project_requests import ProjectRequests
from prefect_video.ledger.prompt_reviews import PromptReviews
from prefect_video.ledger.recovery import Recoveries, read_opening
from prefect_video.ledger.retention import Retention
from prefect_video.ledger.store_identities import StoreIdentities
from prefect_video.ledger.urls import default_ledger_url, parse_database_url
from prefect_video.ledger.webhook_events import WebhookEvents

LEASE_SECONDS = 30.0


class Ledger:
    """A ledger that is open for one process; every instance is an owner of its own.

    Belongs to the event loop that opened it. Use it as an async context manager, or call `aclose`.

    Attributes:
        identity: The ledger's UUID, which sidecars in the store name; a restored backup has that of its original.
        command_option: The value of `--ledger` by which commands find this ledger; None where they need none.
        jobs: Reads and state changes of jobs.
        claims: Which process may buy a video, and which one works on a job.
        accounts: Slots, quotas and circuit breakers that all processes share.
        keys: Age and last use of the accounts' keys.
        spend: Sums of what was spent and is reserved.
        measurements: Money and work at a moment, for monitoring.
        events: Webhook events, handled once.
        reviews: Prompts that were refused or allowed.
        names: Names of accounts, and their change.
        idempotency: Keys of requests to the service.
        project_requests: Projects that clients of the service have requested.
        deferred: Runs that have left their shots at the provider, until their projects are complete.
        callbacks: Calls to clients of the service that are due when a job or a project has ended.
        stores: Identities of the stores that hold the videos.
        recovery: Jobs restored from evidence outside of the ledger.
        choices: Decisions about the takes of shots.
        approvals: Shots that wait for the approval of a human.
        late: Reservations for shots that are claimed later.
        retention: Removal of old rows that nothing needs.
        exports: Reads of the whole ledger.
    """

    def __init__(
        self,
        database: Database,
        owner: Lease,
        *,
        identity: str,
        stores: Mapping[str, Collection[str]],
        command_option: str | None,
    ) -> None:
        self._database = database
        self._owner = owner
        self.identity = identity
        self.command_option = command_option
        shared = (database, owner, command_option)
        self.jobs = Jobs(*shared)
        self.claims = Claims(*shared)
        owner.upkeep = self.claims.release_left
        self.keys = AccountKeys(*shared)
        self.names = AccountNames(*shared)
        self.accounts = AccountLimits(*shared, jobs=self.jobs, keys=self.keys)
        self.spend = SpendReports(*shared)
        self.measurements = Measurements(*shared)
        self.events = WebhookEvents(*shared)
        self.reviews = PromptReviews(*shared)
        self.idempotency = IdempotencyKeys(*shared)
        self.project_requests = ProjectRequests(*shared)
        self.deferred = DeferredRuns(*shared)
        self.callbacks = Callbacks(*shared)
        self.stores = StoreIdentities(*shared, seen=stores)
        self.recovery = Recoveries(*shared)
        self.choices = Choices(*shared)
        self.approvals = ApprovalRequests(*shared)
        self.late = LateReservations(*shared)
        self.retention = Retention(*shared)
        self.exports = Exports(*shared)
        self.queues = AccountQueues(*shared, limits=self.accounts)

    @classmethod
    async def open(
        cls,
        url: str | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        migrate: bool | None = None,
        block: str | None = None,
    ) -> Self:
        """Open a ledger and registers this instance as an owner.

        Args:
            url: `sqlite:///path`, a bare path or `postgresql://user:password@host/database`; None for
                `default_ledger_url()`. `?timeout=` sets the seconds a locked SQLite file is waited for (30).
            lease_seconds: After how long without a heartbeat an owner on another machine counts as dead.
            block: The saved block that the URL is from, by which commands find the ledger.
            migrate: Whether to create the tables and bring them up to date; None does so on SQLite only.

        Raises:
            InvalidInput: The URL cannot be used.
            LedgerUnavailable: The database cannot be reached, read or written.
            LedgerSchemaMismatch: Its schema is not this version's.
        """
        database = Database(parse_database_url(url or default_ledger_url()))
        owner = Lease(database, lease_seconds)
        try:
            await schema.prepare(database, migrate=migrate)
            identity, stores = await read_opening(database)
            await owner.start()
        except BaseException:
            await database.close()
            raise
        option = block or database.location.command_option
        return cls(database, owner, identity=identity, stores=stores, command_option=option)

    async def aclose(self) -> None:
        """Sign off, so that this instance's unfinished rows are free for others, and close the connections.

        It is done even while the caller is being cancelled.
        """
        await shielded(self._close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def owner_id(self) -> str:
        """Return this instance's id in the rows that it owns: `host:pid:uuid`."""
        return self._owner.id

    @property
    def url_label(self) -> str:
        """Return the ledger's URL without password and options."""
        return self._database.location.label

    @property
    def parallel_writes(self) -> int:
        """Return how many writes of this instance may run at once: one on SQLite."""
        return self._database.parallel_writes

    async def now(self) -> datetime:
        """Read the time by the clock of the ledger, by which `sent_at` and `unknown_at` are recorded."""
        if self._database.is_sqlite:
            return datetime.now(UTC)
        async with self._database.reading() as connection:
            return await self._database.now(connection)

    async def connection_usage(self) -> ConnectionUsage | None:
        """Count the connections of the database server; None on SQLite.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        return await read_connection_usage(self._database)

    def changes(self) -> ChangeFeed:
        """Open a feed of rows that change, in whichever process; close it with `aclose`."""
        return open_change_feed(self._database)

    def name_accounts(self, names: Iterable[str]) -> None:
        """Note the names of accounts that are in use with this ledger, for the command that recovers it."""
        self._database.accounts.update(dict.fromkeys(names))

    def recover_command(self, store: str) -> str:
        """Write the command that brings this ledger up to date with a store and the accounts in use."""
        return recover_command(self.command_option, accounts=self._database.accounts, store=store)

    def require_file(self) -> None:
        """Check that other processes read what is written here.

        Raises:
            LedgerFileUnsafe: The SQLite file was deleted, moved or replaced, or has several names.
        """
        self._database.require_file()

    async def upgrade(self) -> None:
        """Run the missing migrations; do nothing on a current schema.

        Raises:
            LedgerSchemaMismatch: The schema is newer than this version.
            LedgerUnavailable: The database cannot be written.
        """
        await schema.upgrade(self._database)

    async def check(self) -> None:
        """Prove that the ledger can be reached and written and that its schema is current.

        Raises:
            LedgerError: It cannot be used; the message says what to do.
        """
        self.require_file()
        await schema.check(self._database)
        await self._owner.heartbeat()

    async def back_up(self, target: Path) -> int:
        """Copy a SQLite ledger into a new file while it is in use; see `back_up` of `ledger.backups`.

        Returns:
            The size of the file in bytes.

        Raises:
            InvalidInput: The ledger is on PostgreSQL, or the file exists.
            LedgerError: The ledger cannot be read, or the file not be written.
        """
        self.require_file()
        return await back_up(self._database.location, target)

    async def _close(self) -> None:
        try:
            await self._owner.stop()
        finally:
            await self._database.close()
