"""Requests to the ledger and its results: plain frozen records, without a database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from prefect_video._amounts import usd, usd_sum
from prefect_video.assets import Asset
from prefect_video.errors import VideoRejected
from prefect_video.quality import Quality, QualityPolicy
from prefect_video.shots import Shot


class State(StrEnum):
    """State of a job in the ledger."""

    RESERVED = "reserved"
    SUBMITTING = "submitting"
    UNKNOWN = "unknown"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    STORED = "stored"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"
    RELEASED = "released"


UNFINISHED: Final = frozenset({State.RESERVED, State.SUBMITTING, State.UNKNOWN, State.SUBMITTED, State.COMPLETED})
"""States that hold the fingerprint: while a row is in one, no other process may buy the same video."""

UNSENT: Final = frozenset({State.RESERVED, State.SUBMITTING, State.UNKNOWN})
"""States in which no generation is known."""

OCCUPYING: Final = frozenset({State.SUBMITTING, State.UNKNOWN, State.SUBMITTED})
"""States in which the provider may be working: they fill the account's concurrency."""

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.RESERVED: frozenset({State.SUBMITTING, State.RELEASED}),
        # A submit whose answer names the generation of another row is lost at once.
        State.SUBMITTING: frozenset(
            {State.SUBMITTED, State.UNKNOWN, State.RESERVED, State.RELEASED, State.FAILED, State.LOST}
        ),
        State.UNKNOWN: frozenset({State.SUBMITTED, State.RESERVED, State.RELEASED, State.FAILED, State.LOST}),
        State.SUBMITTED: frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST}),
        State.COMPLETED: frozenset({State.STORED, State.EXPIRED, State.LOST}),
        # A stored file that is missing or damaged is fetched again; one that no one has any more is lost, and its
        # fingerprint may be bought again.
        State.STORED: frozenset({State.COMPLETED, State.LOST}),
        # A human has found at the provider what had been given up, or accepts a video that was kept as rejected.
        State.LOST: frozenset({State.SUBMITTED, State.STORED}),
        State.EXPIRED: frozenset({State.STORED}),
    }
)
"""Every legal step; states that are not keys are final."""


REQUEST_PREFIX: Final = "request-"
"""The prefix of the run ids of jobs that the service's job API has created."""
PARTS_PREFIX: Final = "parts-"
"""The prefix of the run ids of jobs that a run has reserved for the runs of its parts."""


def counting_run(flow_run_id: str | None) -> str | None:
    """Return the run within which a job or request counts: what a run reserves for its parts counts as its own."""
    return None if flow_run_id is None else flow_run_id.removeprefix(PARTS_PREFIX)


class Record(BaseModel):
    """A record of the ledger: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Priority = Literal["high", "normal", "low"]
MismatchPolicy = Literal["hold", "accept"]
"""What to do with a paid video that plays and is not as requested: hold it for a human, or store it with a note."""


class Requester(Record):
    """A client of the service on whose behalf a generation is requested, with its own limit.

    The limit travels with each request, so that no path to a claim can leave it out.

    Attributes:
        name: Name of its token.
        monthly_usd: The most in USD that may be committed for it in a calendar month (UTC); None for no limit.
    """

    name: str = Field(min_length=1, max_length=100, description="Name of its token")
    monthly_usd: Decimal | None = Field(
        default=None, ge=0, description="The most in USD that it may commit in a calendar month (UTC); unset: no limit"
    )


class JobRequest(Record):
    """One generation that is wanted: what a claim asks the ledger for.

    Attributes:
        fingerprint: The prompt hash, take included.
        shot: The whole shot, so that the row can be resumed without a project file.
        take: 1 for the first take.
        project: Name of the project.
        provider: Name of the provider.
        account: Id of the account, which outlives its keys where it has a name.
        environment: `development`, `staging` or `production`; fingerprints are shared within one only.
        credentials: How to find the credentials again: `env`, `emulator` or `block-type/block-name`; never a key.
        store: Where the asset goes: a URL or `block-type/block-name`.
        estimate_usd: Expected cost; None when the provider's price is unknown.
        max_attempts: Paid attempts allowed per flow run, the first included.
        refresh: Buy again although a stored asset exists (unless this very flow run stored it).
        ttl_seconds: How old a stored asset may be; None for any age.
        flow_run_id: The Prefect flow run (or any run key) that asks.
        priority: Who goes first when an account's slots are taken; first come, first served among equals.
        is_fallback: It gives up part of what the project requests.
        degraded: How its video differs from what the project requests; None where it does not.
        alternatives: The requests, of other accounts or in other forms, whose job would serve the same take.
        on_mismatch: What to do with a video that is not as requested; None for what the settings say.
        reservation: Fingerprint of the late reservation that is used up by this request, or freed; None for none.
        quality_policy: The quality gates of its project; None for none.
        requester: The client of the service that is charged; None for runs of one's own.
        traceparent: The span that requests it, as W3C's Trace Context writes it; None where nothing is traced.
        idempotency_key: The requester's bound key that the claim answers; None for none.
    """

    fingerprint: str
    shot: Shot
    take: int = 1
    project: str
    provider: str
    account: str
    environment: str = "production"
    credentials: str = "env"
    store: str
    estimate_usd: Decimal | None = None
    max_attempts: int = 2
    refresh: bool = False
    ttl_seconds: float | None = None
    flow_run_id: str | None = None
    priority: Priority = "normal"
    is_fallback: bool = False
    degraded: str | None = None
    alternatives: tuple[JobRequest, ...] = ()
    on_mismatch: MismatchPolicy | None = None
    reservation: str | None = None
    quality_policy: QualityPolicy | None = None
    requester: Requester | None = None
    traceparent: str | None = None
    idempotency_key: str | None = None

    def is_served_by(self, job: Job) -> bool:
        """Tell whether an existing job of this request serves its take, so that nothing else may be bought.

        A fallback's job counts while it may still be owed for, and was begun for this very shot. Once it is stored,
        only the run that made it uses it: a later one may get what the project really requests.
        """
        if not self.is_fallback:
            return True
        of_this_shot = (job.project, job.shot.id) == (self.project, self.shot.id)
        of_this_run = counting_run(job.flow_run_id) == counting_run(self.flow_run_id)
        return of_this_shot and (job.state is not State.STORED or of_this_run)


class Job(Record):
    """One row of the ledger: one generation, from intent to stored file.

    `id` is also the idempotency key that is sent along with the submit. `priority` counts steps above normal.
    `disputed_usd` is what the provider says it cost, where that is not believed (see `cost_bound`).
    `store_id` is the identity of the store that the asset was published to. `left_count` is how many collections in a
    row have left it for later, and `left_reason` why the last one has. `quality` is what the gates of `quality_policy`
    have found in its video. `requester` is the client of the service whose monthly limit it counts against.
    `key_fingerprint` is that of the key that it was last sent with; None where it was not sent, or by which is unknown.
    `degraded` is how its video differs from what its project requests, by a fallback or an adaptation to its account.
    `traceparent` is the span that has requested it: later steps, of other processes too, join its trace.
    `seconds_taken` is the time from its acceptance to its end, where that was seen.
    """

    id: str
    state: State
    fingerprint: str
    shot: Shot
    take: int
    project: str
    provider: str
    account: str
    environment: str
    credentials: str
    store: str
    attempt: int
    owner: str | None
    generation_id: str | None
    request_id: str | None
    reserved_usd: Decimal | None
    actual_usd: Decimal | None
    disputed_usd: Decimal | None = None
    flow_run_id: str | None
    task_run_id: str | None
    created_at: AwareDatetime
    sent_at: AwareDatetime | None
    unknown_at: AwareDatetime | None
    submitted_at: AwareDatetime | None
    completed_at: AwareDatetime | None
    stored_at: AwareDatetime | None
    updated_at: AwareDatetime
    estimated_completion_at: AwareDatetime | None
    deadline_at: AwareDatetime | None
    expires_at: AwareDatetime | None
    error_type: str | None
    error_message: str | None
    hold_reason: str | None
    asset: Asset | None
    priority: int = 0
    store_id: str | None = None
    on_mismatch: MismatchPolicy | None = None
    left_count: int = 0
    left_reason: str | None = None
    max_attempts: int = 2
    quality_policy: QualityPolicy | None = None
    quality: Quality | None = None
    requester: str | None = None
    key_fingerprint: str | None = None
    traceparent: str | None = None
    seconds_taken: float | None = None
    degraded: str | None = None

    @property
    def is_service_request(self) -> bool:
        """Tell whether a client of the service has requested it, and no flow run has taken it over."""
        return (self.flow_run_id or "").startswith(REQUEST_PREFIX)

    @property
    def is_queued(self) -> bool:
        """Tell whether it is reserved for a run that is yet to take it over."""
        return (self.flow_run_id or "").startswith((REQUEST_PREFIX, PARTS_PREFIX))

    @property
    def is_reopened(self) -> bool:
        """Tell whether the stored file is missing or damaged and is to be fetched again."""
        return self.state is State.COMPLETED and self.stored_at is not None

    @property
    def is_rejected(self) -> bool:
        """Tell whether its video failed the quality gates, and another take may be bought in its place."""
        return self.state is State.LOST and self.error_type == VideoRejected.__name__

    @property
    def cost_usd(self) -> Decimal | None:
        """Return the cost, actual or expected: 0 where nothing was accepted, None where the price is not known."""
        if self.state is State.RELEASED:
            return Decimal(0)
        return self.actual_usd if self.actual_usd is not None else self.reserved_usd


class ClaimOutcome(StrEnum):
    """Outcome of a claim.

    STORED: the video exists, see `job.asset`. JOINED: another owner's row is in progress, or one is held (see
    `job.hold_reason`). ACQUIRED: the row is reserved, or taken over from an owner that died, and this process must
    carry it on from `job.state`. OVER_BUDGET: nothing was reserved, `refusal` says why. EXHAUSTED: this flow run has
    used up its attempts; `job` is the last failed one. ELSEWHERE: nothing was reserved, as `job` serves the take; it is
    that of `request`, one of the alternatives of the request that was made.
    """

    STORED = "stored"
    JOINED = "joined"
    ACQUIRED = "acquired"
    OVER_BUDGET = "over_budget"
    EXHAUSTED = "exhausted"
    ELSEWHERE = "elsewhere"


class ClaimResult(Record):
    """The ledger's answer to one job request."""

    kind: ClaimOutcome
    request: JobRequest
    job: Job | None = None
    refusal: str | None = None


class StoredMatch(NamedTuple):
    """Stored row that answers a request.

    Attributes:
        job: The row.
        is_made_anew: Whether a row of the same request is in progress, which a claim returns in its place.
    """

    job: Job
    is_made_anew: bool


class AccountStatus(Record):
    """Slots, breaker and quota of an account, as every process sees them.

    Attributes:
        account: Its id.
        slots: How many generations may be unfinished at once; below the plan's number after a 429.
        occupied: How many are.
        failures: Troubles in a row.
        breaker: `closed` lets submits pass, `open` holds them until `open_until`, `half_open` lets one try.
        open_until: When the breaker may be tried.
        quota_until: Until when the provider said that the period's quota is used up.
        just_opened: Whether it was the trouble just recorded that has opened the breaker.
    """

    account: str
    slots: int | None = None
    occupied: int = 0
    failures: int = 0
    breaker: Literal["closed", "open", "half_open"] = "closed"
    open_until: AwareDatetime | None = None
    quota_until: AwareDatetime | None = None
    just_opened: bool = False


class Budget(Record):
    """One limit on what may be committed (spent plus reserved).

    Attributes:
        scope: `project` counts all rows of one project, `account` all of one account,
            `month` those of the current calendar month (UTC), all projects and accounts together, `plan` those of one
            account in the current calendar month, `environment` those of one environment and `requester` those of one
            client of the service in that month.
        limit_usd: The most in USD; None for no limit in money.
        limit_videos: The most generations paid or reserved; None for no limit in number.
    """

    scope: Literal["month", "project", "account", "plan", "environment", "requester"]
    limit_usd: Decimal | None = Field(default=None, ge=0)
    limit_videos: int | None = Field(default=None, ge=0)

    @property
    def is_empty(self) -> bool:
        """Tell whether it limits nothing."""
        return self.limit_usd is None and self.limit_videos is None


class HistoryEntry(Record):
    """One line of a row's append-only history."""

    job_id: str
    at: AwareDatetime
    from_state: State | None
    to_state: State
    detail: str | None
    owner: str | None


class JobPosition(NamedTuple):
    """Place of a job in a list that is sorted from the newest to the oldest.

    Attributes:
        created_at: When it was created.
        id: Its id, which decides between two of the same moment.
    """

    created_at: datetime
    id: str


class NumberedEntry(NamedTuple):
    """Line of a job's history with its number, which grows with every line of the ledger."""

    number: int
    entry: HistoryEntry


class CommittedSums(Record):
    """Sums of what is spent and reserved, as far as prices are known.

    Attributes:
        spent_usd: What finished generations cost (what was reserved, where the provider did not say).
        reserved_usd: What is set aside for generations in progress.
        unpriced: Generations whose cost neither the provider nor a price table gave: the sums leave them out.
        unpriced_reserved: Those of them that are in progress.
    """

    spent_usd: Decimal = Decimal(0)
    reserved_usd: Decimal = Decimal(0)
    unpriced: int = 0
    unpriced_reserved: int = 0

    @property
    def committed_usd(self) -> Decimal:
        """Return what is spent plus what is reserved."""
        return self.spent_usd + self.reserved_usd

    def describe_spent(self, format_amount: Callable[[Decimal], str] = usd) -> str:
        """Format what is spent; see `usd_sum`."""
        return usd_sum(self.spent_usd, self.unpriced - self.unpriced_reserved, format_amount=format_amount)

    def describe_reserved(
        self, more_usd: Decimal = Decimal(0), *, format_amount: Callable[[Decimal], str] = usd
    ) -> str:
        """Format what is reserved, and is about to be; see `usd_sum`."""
        return usd_sum(self.reserved_usd + more_usd, self.unpriced_reserved, format_amount=format_amount)


class SpendRow(CommittedSums):
    """Sums spent and reserved for one value of a grouping.

    `assumed_usd` is the part of what was spent that the provider has not reported: what was reserved counts.
    """

    key: str
    videos: int
    stored: int
    assumed_usd: Decimal = Decimal(0)


class BudgetUsage(CommittedSums):
    """Used part of a limit.

    Attributes:
        budget: The limit.
        name: What messages call it, such as `project coffee-ad`.
        videos: Generations paid or reserved.
    """

    budget: Budget
    name: str
    videos: int = 0


class WorkKind(NamedTuple):
    """Kind of work, on which the time that a provider takes depends."""

    model: str
    duration: int
    resolution: str


class CompletionTime(Record):
    """Time that one generation took.

    Attributes:
        seconds: Seconds from its acceptance to its end, by the provider's times or the poller's, whichever are exacter.
        hinted_seconds: The provider's estimate of it; None where it gave none.
    """

    seconds: float
    hinted_seconds: float | None = None
