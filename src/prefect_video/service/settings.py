"""The settings of the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from prefect_video.session import EnvironmentSettings


class ServiceSettings(EnvironmentSettings):
    """The settings of the service; each field can be set as `PREFECT_VIDEO_SERVICE_<FIELD>` in the environment.

    Attributes:
        accounts: Providers' names or `block-type/block-name`, separated by commas; by default the environment's one.
        store: The store of videos requested here; by default as for runs.
        ledger: The ledger that runs and the service share; by default as for runs.
        api_token: Bearer token of the job API with all scopes; without any token there is no job API.
        tokens_file: File of named tokens, as `prefect-video tokens create` prints them; read again when it changes.
        tokens_block: `video-api-tokens/name`: a saved block with the same content, read again every `reload_seconds`.
        callback_secret: Signs the callbacks of `api_token`, `whsec_…`; each named token has its own.
        callback_hosts: Hosts that may be called although their addresses are not public, separated by commas.
        callback_retry_seconds: Delay before the second attempt of a callback; each further one is four times as long.
        deployment: Deployment of `generate-project` whose workers make what is requested; None to make it here.
        public_url: Address of the service for clients, which links to videos begin with; else that of each request.
        link_seconds: Time for which a link to a video is valid.
        project_limit_bytes: Largest body of a project or a batch.
        event_streams: Streams of events that may be open at once.
        collect: Download and store finished videos that no run waits for.
        announce: Emit a Prefect event for each generation that ends, where a Prefect API is configured.
        body_limit_bytes: Largest request body that is read.
        hosts: Names and addresses by which the service is reached, separated by commas; requests for others are
            refused. By default any, but where `serve` listens on a public address without a token.
        header_seconds: Time for the header of a request.
        body_seconds: Time for the body of a request.
        idle_seconds: Time for which a connection is kept after a response.
        connections: Most open connections; a new one takes the place of the oldest that has not sent a request.
        webhook_connections: Those of them that only webhooks may use.
        workers: Events handled at the same time.
        backlog: Events kept in memory; further ones wait in the ledger.
        attempts: Attempts to handle an event; then it waits in the ledger for a sweep, each time for a later one.
        retry_seconds: Delay before the second attempt; doubles with each further one.
        sweep_seconds: Interval between two searches for unfinished work, of this service or one that died.
        reload_seconds: Interval between two reads of the saved blocks: of the accounts, whose keys and secrets may be
            new, and of the tokens.
        keep_days: Days for which handled events are kept, to recognise duplicates.
    """

    model_config = SettingsConfigDict(env_prefix="PREFECT_VIDEO_SERVICE_", frozen=True, extra="ignore")

    accounts: Annotated[tuple[str, ...], NoDecode] = ()
    store: str | None = None
    ledger: str | None = None
    api_token: SecretStr | None = None
    tokens_file: Path | None = None
    tokens_block: str | None = None
    callback_secret: SecretStr | None = None
    callback_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    callback_retry_seconds: float = Field(default=5.0, gt=0)
    deployment: str | None = None
    public_url: str | None = None
    link_seconds: float = Field(default=3600.0, ge=60)
    project_limit_bytes: int = Field(default=1_048_576, ge=1)
    event_streams: int = Field(default=50, ge=0)
    collect: bool = False
    announce: bool = True
    body_limit_bytes: int = Field(default=65_536, ge=1)
    hosts: Annotated[tuple[str, ...], NoDecode] = ()
    header_seconds: float = Field(default=10.0, gt=0)
    body_seconds: float = Field(default=20.0, gt=0)
    idle_seconds: int = Field(default=5, ge=1)
    connections: int = Field(default=400, ge=16)
    webhook_connections: int = Field(default=200, ge=0)
    workers: int = Field(default=4, ge=1)
    backlog: int = Field(default=1_000, ge=1)
    attempts: int = Field(default=8, ge=1)
    retry_seconds: float = Field(default=0.5, gt=0)
    sweep_seconds: float = Field(default=60.0, gt=0)
    reload_seconds: float = Field(default=20.0, gt=0)
    keep_days: float = Field(default=7.0, gt=0)

    @field_validator("accounts", "hosts", "callback_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @property
    def has_job_api(self) -> bool:
        """True where there is a token, and with it the job API."""
        return any((self.api_token, self.tokens_file, self.tokens_block))

    @field_validator("api_token")
    @classmethod
    def _require_length(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < 16:
            raise ValueError("a token of fewer than 16 characters can be guessed; make one with `openssl rand -hex 32`")
        return token
