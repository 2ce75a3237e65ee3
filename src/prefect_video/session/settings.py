"""Settings of a session, from `PREFECT_VIDEO_*`, from the credentials, or given by name."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from decimal import Decimal
from getpass import getuser
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ImportString, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from prefect_video.errors import InvalidInput
from prefect_video.ledger import DEFAULT_COST_BOUND, CostBound, MismatchPolicy
from prefect_video.shots import PROMPT_LIMIT


class EnvironmentSettings(BaseSettings):
    """Base of settings that come from the environment unless they are given."""

    @classmethod
    def from_environment(cls, **given: Any) -> Self:
        """Read the settings; given values take precedence, and None counts as not given.

        Raises:
            InvalidInput: A variable or an argument is not usable.
        """
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            name = str(first["loc"][0])
            variable = f"{cls.model_config.get('env_prefix', '')}{name.upper()}"
            message = f"setting {name} ({variable}): {first['msg']}"
        # Raised outside the `except`, so not chained: the cause would show the given value, which may be a secret.
        raise InvalidInput(message)


class SessionOverrides(BaseModel):
    """The settings that an account's credentials may decide; None leaves one to the environment.

    Attributes:
        environment: Fingerprints are shared within one environment only.
        max_in_flight: Generations of this process that may be unfinished at once; None for what the plan allows.
        concurrency_limit: Name of a limit of the orchestrator's own that is held from submit to the end of poll.
        submissions_per_minute: Submits of this process a minute, evenly spaced; None for no limit.
        on_unknown: Where a provider cannot tell if it has accepted a submit: hold it for a human, or send it again.
        on_lost: Where a provider no longer knows a generation: hold it for a human, or buy a new one.
        on_mismatch: What to do with a paid video that plays and is not as requested (another length, size or kind of
            file): keep it as rejected and hold it for a human, or store it with a note. A project may decide it too.
        deadline_seconds: How long after its submit a generation is waited for.
        on_deadline: What to do with one that has not ended by then: cancel it where the provider still can, leave it
            running for `collect`, or hold it for a human.
        breaker_failures: Failures of the provider in a row that open the account's circuit breaker.
        breaker_seconds: How long it stays open before one submit may try.
        on_open: What a submit does while it is open: wait, or fail at once.
    """

    environment: Literal["development", "staging", "production"] = Field(
        default="production", title="Environment", description="Stored videos are shared within one environment only."
    )
    max_in_flight: int | None = Field(
        default=None, ge=1, title="At once", description="Unfinished generations; else what the plan allows."
    )
    concurrency_limit: str | None = Field(
        default=None,
        title="Prefect concurrency limit",
        description="Name of a global concurrency limit that is held while the provider is at work;"
        " `prefect-video doctor --fix` creates it.",
    )
    submissions_per_minute: float | None = Field(
        default=None, gt=0, title="Submissions a minute", description="Evenly spaced; no limit when empty."
    )
    on_unknown: Literal["hold", "resubmit"] = Field(
        default="hold",
        title="Unanswered submits",
        description="When the provider cannot tell whether it accepted: hold for a human, or send again.",
    )
    on_lost: Literal["hold", "resubmit"] = Field(
        default="hold",
        title="Lost generations",
        description="When the provider no longer knows a paid generation: hold for a human, or buy it again.",
    )
    on_mismatch: MismatchPolicy | None = Field(
        default=None,
        title="Videos not as requested",
        description="Another length, size or kind of file: hold for a human, or accept with a note; else hold.",
    )
    deadline_seconds: float | None = Field(
        default=None, gt=0, title="Deadline", description="Seconds after its submit that a generation is waited for."
    )
    on_deadline: Literal["cancel", "leave", "hold"] | None = Field(
        default=None,
        title="At the deadline",
        description="Cancel the generation, leave it running for `collect`, or hold it for a human.",
    )
    breaker_failures: int | None = Field(
        default=None,
        ge=1,
        title="Circuit breaker failures",
        description="Failures in a row that hold submits back; else 5.",
    )
    breaker_seconds: float | None = Field(
        default=None, gt=0, title="Circuit breaker seconds", description="Until one submit may try again; else 300."
    )
    on_open: Literal["wait", "fail"] | None = Field(
        default=None, title="While the breaker is open", description="Submits wait, or fail at once."
    )

    def session_overrides(self) -> Mapping[str, Any]:
        """Return the settings that may be decided here, by their names; None for those that are not."""
        return {name: getattr(self, name) for name in SessionOverrides.model_fields}


class Settings(SessionOverrides, EnvironmentSettings):
    """The settings of a session; each field can be set as `PREFECT_VIDEO_<FIELD>` in the environment.

    The fields that credentials may decide are described in `SessionOverrides`; here those have their defaults.

    Attributes:
        account_slots: Generations of the account that may be unfinished at once, over all processes and machines
            that share the ledger; None for what the plan allows.
        submit_patience_seconds: How long a rejected submit (429, no connection) is sent again.
        settle_seconds: How long after a submit's outcome has become unknown its absence from the provider's list proves
            nothing: longer than a submit can be on its way (`HttpSettings.submit_deadline_seconds`).
        downloads_at_once: Videos downloaded and published at the same time.
        download_min_bytes_per_second: Least speed of a download, averaged over 30 s; a slower one is continued on a new
            connection, once those that wait have had their turn. 0 for none.
        poll_budget: Requests a minute with which this process looks for the ends of an account's generations. A list
            request looks at all of them; a provider without a list needs one for each, and a higher budget for many.
        max_lateness: Seconds that an end is noticed late at most, or 5 % of the time it took where that is more, as far
            as the budget allows, where the end could be expected.
        key_reminder_days: Days after which a key in use is reminded of as old.
        anomalous_per_hour: Submissions per hour and account from which on an alert is raised; None for never.
        check_access: Begin with a free read that shows whether endpoint and key are right; off for a
            key that may submit and not read.
        screen_patterns: Regular expressions that no prompt may match, as a JSON list in the environment.
        screen_longest: Most characters of a prompt.
        screen_rule: `package.module.function` or `…:function`: returns why a shot is refused, or None; it may be async.
        max_cost_ratio: How many times its estimate a generation is believed to have cost at most; beyond it
            the estimate is booked and the job is held, with both figures.
        max_unpriced_cost_usd: The same in USD, for a generation without an estimate, or with an estimate of 0.
        ttl_seconds: How old a stored asset may be to count as the answer; None for any age.
        lease_seconds: How long after its last sign of life another machine's process counts as dead.
        webhook_url: Public address of `prefect-video serve`, such as `https://video.example.com`, where providers
            announce changes; they are given `{webhook_url}/webhooks/{provider}`. An address whose path holds
            `/webhook` is used unchanged, with the job's id for `{job_id}`.
        c2pa_certificate: File with the certificate chain (PEM) by which films are signed; None to sign none.
        c2pa_private_key: File with its private key (PEM, no password).
        c2pa_timestamp_url: Time-stamping authority (RFC 3161) that proves when a film was signed.
        spool: Folder for videos on their way to the store.
    """

    model_config = SettingsConfigDict(env_prefix="PREFECT_VIDEO_", frozen=True, extra="ignore")

    deadline_seconds: float = Field(default=3600.0, gt=0)
    on_deadline: Literal["cancel", "leave", "hold"] = "leave"
    on_mismatch: MismatchPolicy = "hold"
    breaker_failures: int = Field(default=5, ge=1)
    breaker_seconds: float = Field(default=300.0, gt=0)
    on_open: Literal["wait", "fail"] = "wait"
    account_slots: int | None = Field(default=None, ge=1)
    submit_patience_seconds: float = Field(default=900.0, ge=0)
    settle_seconds: float = Field(default=90.0, ge=0)
    downloads_at_once: int = Field(default=4, ge=1)
    download_min_bytes_per_second: int = Field(default=16 * 1024, ge=0)
    poll_budget: float = Field(default=60.0, ge=1)
    max_lateness: float = Field(default=1.0, gt=0)
    key_reminder_days: int = Field(default=90, ge=1)
    anomalous_per_hour: int | None = Field(default=None, ge=1)
    check_access: bool = True
    screen_patterns: tuple[str, ...] = ()
    screen_longest: int = Field(default=PROMPT_LIMIT, ge=1)
    screen_rule: ImportString[Any] | None = None
    max_cost_ratio: Decimal = Field(default=DEFAULT_COST_BOUND.max_ratio, gt=0)
    max_unpriced_cost_usd: Decimal = Field(default=DEFAULT_COST_BOUND.max_unpriced_usd, ge=0)
    ttl_seconds: float | None = Field(default=None, ge=0)
    lease_seconds: float = Field(default=30.0, gt=0)
    webhook_url: str | None = Field(default=None, pattern=r"^https?://[^/?#@]+[^?#]*$")
    c2pa_certificate: Path | None = None
    c2pa_private_key: Path | None = None
    c2pa_timestamp_url: str | None = Field(default=None, pattern=r"^https?://[^/?#@]+[^#]*$")
    spool: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()) / f"prefect-video-spool-{getuser()}")

    @property
    def cost_bound(self) -> CostBound:
        """Upper bound of what a generation is believed to have cost."""
        return CostBound(max_ratio=self.max_cost_ratio, max_unpriced_usd=self.max_unpriced_cost_usd)
