"""Block of the ledger: its database, and the limits on spending."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from prefect_video.blocks.project_urls import DOCUMENTATION_URL, LOGO_URL
from prefect_video.inputs import WholeNumber
from prefect_video.ledger import Budget, Ledger
from prefect_video.session import LedgerSource


class VideoLedger(Block):
    """The database of every generation, and the limits on spending.

    Example:
        ```python
        from prefect_video.blocks import VideoLedger

        VideoLedger(url="postgresql://user:password@host/video", monthly_usd=500).save("production")
        ```
        Flows then take `ledger="video-ledger/production"`.
    """

    _block_type_name = "Video Ledger"
    _block_type_slug = "video-ledger"
    _description = "The database of every generation ever paid for, and the limits on what may be spent."
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    url: SecretStr | None = Field(
        default=None,
        title="URL",
        description="`postgresql://…` or `sqlite:///…`; else the SQLite file under Prefect's home.",
    )
    monthly_usd: Decimal | None = Field(default=None, ge=0, title="USD a month")
    monthly_videos: WholeNumber | None = Field(default=None, ge=0, title="Videos a month")
    account_usd: Decimal | None = Field(default=None, ge=0, title="USD for each account")
    account_videos: WholeNumber | None = Field(default=None, ge=0, title="Videos for each account")
    environment_usd: Decimal | None = Field(
        default=None, ge=0, title="USD a month for each environment", description="Development, staging, production."
    )
    environment_videos: WholeNumber | None = Field(default=None, ge=0, title="Videos a month for each environment")
    ttl_days: float | None = Field(
        default=None,
        gt=0,
        title="Days a stored video counts",
        description="Indefinitely when empty; paying again is then a choice.",
    )
    anomalous_per_hour: int | None = Field(
        default=None, ge=1, title="Alert from so many submissions an hour", description="For each account."
    )

    async def aopen(self, *, lease_seconds: float = 30.0) -> Ledger:
        """Open the ledger; close it with `aclose()`.

        Raises:
            LedgerError: It cannot be used; the message says what to do.
        """
        return await Ledger.open(self.source().url, lease_seconds=lease_seconds)

    def budgets(self) -> tuple[Budget, ...]:
        """Return the limits that hold for every claim."""
        limits = (
            Budget(scope="month", limit_usd=self.monthly_usd, limit_videos=self.monthly_videos),
            Budget(scope="account", limit_usd=self.account_usd, limit_videos=self.account_videos),
            Budget(scope="environment", limit_usd=self.environment_usd, limit_videos=self.environment_videos),
        )
        return tuple(limit for limit in limits if not limit.is_empty)

    def session_overrides(self) -> Mapping[str, Any]:
        """Return the settings of a session that this block decides."""
        ttl_seconds = self.ttl_days * 86_400 if self.ttl_days else None
        values = {"anomalous_per_hour": self.anomalous_per_hour, "ttl_seconds": ttl_seconds}
        return {name: value for name, value in values.items() if value is not None}

    def source(self, name: str | None = None) -> LedgerSource:
        """Return the ledger's address, limits and settings, before it is opened.

        Args:
            name: The name that the block was loaded by.
        """
        url = self.url.get_secret_value() if self.url else None
        return LedgerSource(url, name, self.budgets(), self.session_overrides())
