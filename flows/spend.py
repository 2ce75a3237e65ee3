"""Flow that reports the spending in the ledger as a Prefect artifact."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.context import FlowRunContext

from prefect_video._clean_text import clean_text
from prefect_video.ledger import SpendRow
from prefect_video.tasks import artifact_key, open_ledger


@flow(name="spend-report")
async def spend_report(
    by: Literal["month", "project", "account", "key", "environment", "model", "day"] = "month",
    project: str | None = None,
    since: datetime | None = None,
    ledger: str | None = None,
) -> list[SpendRow]:
    """Report what was spent and is reserved, as a table artifact.

    Args:
        by: What to group by.
        project: Only this project.
        since: Only generations reserved since then; in UTC where it names no zone.
        ledger: As for `generate_project`.

    Returns:
        One line for each value of the grouping.
    """
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    async with open_ledger(ledger) as opened:
        lines = await opened.spend.report(by=by, project=project, since=since)
    if FlowRunContext.get():
        await acreate_table_artifact(
            key=artifact_key("spend", by),
            table=[
                {
                    by: clean_text(line.key),
                    "videos": line.videos,
                    "stored": line.stored,
                    "spent USD": line.describe_spent(str),
                    "reserved USD": line.describe_reserved(format_amount=str),
                    "not reported USD": str(line.assumed_usd),
                }
                for line in lines
            ],
            description=f"Spending by {by}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
    return lines
