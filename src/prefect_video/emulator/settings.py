"""Settings of an emulated provider."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prefect_video.emulator.credentials import DEFAULT_KEY, DEFAULT_WEBHOOK_SECRET
from prefect_video.emulator.dialects.echo import PromptEcho
from prefect_video.emulator.faults import FaultRule
from prefect_video.emulator.timing import WorkDistribution


class EmulatorSettings(BaseModel):
    """Settings of one emulator; every duration is in seconds, every size in bytes.

    Attributes:
        host: Address to which both servers bind.
        public_host: Host name written into links; by default `host`, or loopback for a wildcard address.
        port: API port; 0 picks a free one.
        cdn_port: Port of the download host; 0 picks a free one.
        keys: API keys; each is an account with its own capacity, quota and generations.
        shared_accounts: Keys that belong to the account of another key, by key, as during a rotation.
        webhook_secret: Secret for the webhooks of every key that `webhook_secrets` does not name.
        webhook_secrets: Webhook secrets by API key.
        registered_webhook_url: Receiver of events in dialects whose webhooks are registered in a dashboard.
        speed: Divides the work time: 1 is real time, 100 a hundred times faster. Link lifetimes are not divided.
        capacity: Unfinished generations allowed per key; one more is rejected with 429.
        monthly_quota: Generations accepted per key and calendar month (UTC); None is no limit.
        db: SQLite file in which generations and usage survive a restart; None keeps them in memory.
        faults: Fault rules in force from the start.
        link_ttl_seconds: Lifetime of a download link.
        render: `full` renders every generation; `plate` shares one clip per duration, aspect ratio and resolution.
        render_workers: Clips rendered at the same time.
        times: `uniform` (6-12 s of work a video second), `fixed:SECONDS` or `lognormal:SIGMA`.
        hint: True if an accepted generation names its `estimated_completion_time`.
        retry_after_seconds: Fixed `retry_after` of a full account; None estimates it from the next free slot.
        retry_after_header: True to send `retry_after` as a `Retry-After` header too.
        echo_metadata: Whether retrieve echoes `metadata`.
        echo_prompt: Form in which prompts are reported: as sent, with white space collapsed, in Unicode NFC, in lower
            case, cut to 20 characters, rewritten with words put before them, in other words altogether, in a wrong
            encoding, escaped as in JSON, redacted, or not at all.
        clock_offset_seconds: Seconds by which the provider's clock is ahead of ours.
        ids: `random`, `counting` from 1, and from 1 again after a restart, `reserved` with signs that have a meaning in
            addresses (`:/#%?`), or `unusable` with signs that no address can hold.
        listing: `on`, or the HTTP status with which the list endpoint rejects every request.
        forbidden: Marker words; a prompt with one of them (in any case) violates policy.
        webhook_attempts: Attempts to deliver an event before it is abandoned.
        webhook_retry_seconds: Wait before the second delivery; doubles with each further one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    public_host: str | None = None
    port: int = Field(default=8123, ge=0, le=65535)
    cdn_port: int = Field(default=0, ge=0, le=65535)
    keys: tuple[str, ...] = Field(default=(DEFAULT_KEY,), min_length=1, repr=False)
    shared_accounts: dict[str, str] = Field(default_factory=dict, repr=False)
    webhook_secret: str = Field(default=DEFAULT_WEBHOOK_SECRET, min_length=1, repr=False)
    webhook_secrets: dict[str, str] = Field(default_factory=dict, repr=False)
    registered_webhook_url: str | None = None
    speed: float = Field(default=1.0, gt=0)
    capacity: int = Field(default=10, ge=0)
    monthly_quota: int | None = Field(default=None, ge=0)
    db: Path | None = None
    faults: tuple[FaultRule, ...] = ()
    link_ttl_seconds: float = Field(default=3600.0, gt=0)
    render: Literal["full", "plate"] = "full"
    render_workers: int = Field(default=2, ge=1)
    times: str = "uniform"
    hint: bool = True
    retry_after_seconds: float | None = Field(default=None, ge=0)
    retry_after_header: bool = False
    echo_metadata: bool = True
    echo_prompt: PromptEcho = "exact"
    clock_offset_seconds: float = 0.0
    ids: Literal["random", "counting", "reserved", "unusable"] = "random"
    listing: Literal["on", "404", "405", "501"] = "on"
    forbidden: tuple[str, ...] = ("[policy]",)
    webhook_attempts: int = Field(default=5, ge=1)
    webhook_retry_seconds: float = Field(default=1.0, ge=0)

    @field_validator("keys")
    @classmethod
    def _keys_are_usable(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if any(not key or key != key.strip() for key in keys):
            raise ValueError("an API key is empty or has surrounding blanks; pass the bare key")
        if len(set(keys)) != len(keys):
            raise ValueError("the same API key is given twice; pass each once")
        return keys

    @field_validator("times")
    @classmethod
    def _times_can_be_read(cls, times: str) -> str:
        WorkDistribution.parse(times)
        return times

    @model_validator(mode="after")
    def _secrets_belong_to_keys(self) -> Self:
        if set(self.webhook_secrets) - set(self.keys):
            raise ValueError("webhook_secrets names a key that is not in keys; add the key or drop the secret")
        if {*self.shared_accounts, *self.shared_accounts.values()} - set(self.keys):
            raise ValueError("shared_accounts names a key that is not in keys; add the key or drop its account")
        return self

    @property
    def link_host(self) -> str:
        """Return the host name under which clients reach both servers."""
        if self.public_host is not None:
            return self.public_host
        return "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
