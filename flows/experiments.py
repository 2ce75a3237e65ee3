"""Flows that measure a provider's account, with the finding and its chart as an artifact."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.context import FlowRunContext

from prefect_video.errors import StoreError
from prefect_video.experiments import (
    CHART_ADVICE,
    AnyMeasurement,
    Experiment,
    RateLimit,
    RateLimitMeasurement,
    ResponseTime,
    ResponseTimeMeasurement,
    WebhookDelivery,
    WebhookMeasurement,
    publish_measurement,
    run_experiment,
)
from prefect_video.flows.artifacts import API_ERRORS
from prefect_video.flows.cancellation import cancel_generations
from prefect_video.flows.project import flow_run_id
from prefect_video.ledger import usd
from prefect_video.tasks import SessionRef, artifact_key, as_line, use_session

logger = logging.getLogger(__name__)


@flow(name="measure-response-time", on_cancellation=[cancel_generations])
async def measure_response_time(
    experiment: ResponseTime = ResponseTime(),  # noqa: B008 -- frozen
    provider: str | None = None,
    store: str | None = None,
    ledger: str | None = None,
    max_in_flight: int | None = 1,
    refresh: bool = False,
) -> ResponseTimeMeasurement:
    """Measure how long generations take by the length of their videos.

    Args:
        experiment: The lengths, the model, and the most that it may cost.
        provider: As for `generate_project`.
        store: As for `generate_project`.
        ledger: As for `generate_project`.
        max_in_flight: Generations at once; by default one after the other, so that none slows another down.
        refresh: Measure anew, which buys all videos again; otherwise what is stored is used.

    Raises:
        InvalidInput: The account makes no such videos; nothing was sent.
        BudgetExceeded: It does not fit the budget; nothing was sent.
    """
    ref = SessionRef.from_names(provider, store, ledger, max_in_flight)
    found = await _measure(experiment, ref, refresh)
    assert isinstance(found, ResponseTimeMeasurement)
    return found


@flow(name="measure-rate-limit", on_cancellation=[cancel_generations])
async def measure_rate_limit(
    experiment: RateLimit = RateLimit(),  # noqa: B008 -- frozen
    provider: str | None = None,
    store: str | None = None,
    ledger: str | None = None,
    refresh: bool = False,
) -> RateLimitMeasurement:
    """Measure how many generations an account may have unfinished at once, whatever its plan says.

    Args:
        experiment: The numbers to try, the model, and the most that it may cost.
        provider: As for `generate_project`.
        store: As for `generate_project`.
        ledger: As for `generate_project`.
        refresh: Measure anew, which buys all videos again; otherwise what is stored is used.

    Raises:
        InvalidInput: The account makes no such videos, or has met a limit just now; nothing was sent.
        BudgetExceeded: It does not fit the budget; nothing was sent.
    """
    found = await _measure(experiment, SessionRef.from_names(provider, store, ledger), refresh)
    assert isinstance(found, RateLimitMeasurement)
    return found


@flow(name="measure-webhooks", on_cancellation=[cancel_generations])
async def measure_webhooks(
    experiment: WebhookDelivery = WebhookDelivery(),  # noqa: B008 -- frozen
    provider: str | None = None,
    store: str | None = None,
    ledger: str | None = None,
    refresh: bool = False,
) -> WebhookMeasurement:
    """Measure how many webhooks arrive, how late, and how often twice; the flow run itself receives them.

    Args:
        experiment: Number of generations, the address, and the most that it may cost.
        provider: As for `generate_project`.
        store: As for `generate_project`.
        ledger: As for `generate_project`.
        refresh: Measure anew, which buys all videos again; otherwise what was measured is returned.

    Raises:
        InvalidInput: The account makes no such videos, or cannot reach the address; nothing was sent.
        BudgetExceeded: It does not fit the budget; nothing was sent.
    """
    found = await _measure(experiment, SessionRef.from_names(provider, store, ledger), refresh)
    assert isinstance(found, WebhookMeasurement)
    return found


async def _measure(experiment: Experiment, ref: SessionRef, refresh: bool) -> AnyMeasurement:
    """Measure, keep the finding beside its videos, and show it in the run."""
    async with use_session(ref) as session:
        found = await run_experiment(session, experiment, refresh=refresh, flow_run_id=flow_run_id())
        picture = None
        try:
            _, picture = await publish_measurement(session.store, found)
        except StoreError as error:
            # It was paid for and is returned: only a later run would have to measure again.
            logger.warning("the measurement could not be kept in the store: %s", error)
    await _publish_artifact(found, picture)
    return found


async def _publish_artifact(found: AnyMeasurement, picture: bytes | None) -> None:
    """Show a measurement in Prefect; like any artifact it decides about nothing."""
    if FlowRunContext.get() is None:
        return
    try:
        await acreate_markdown_artifact(
            key=artifact_key("experiment", found.experiment),
            markdown=write_measurement(found, picture),
            description=as_line(found.summary),
        )
    except API_ERRORS as error:
        logger.warning("the measurement could not be shown in Prefect: %s", error)


def write_measurement(found: AnyMeasurement, picture: bytes | None) -> str:
    """Write a measurement as Markdown, with its chart inside, so that nothing is loaded from elsewhere."""
    lines = [f"**{as_line(found.summary)}**", "", f"{as_line(found.provider)} {as_line(found.model)},"]
    lines[-1] += f" measured {found.measured_at:%Y-%m-%d %H:%M} UTC, {usd(found.cost_usd)} paid by this run"
    if rows := found.table():
        lines += ["", _as_row(rows[0]), _as_row(dict.fromkeys(rows[0], "---").values())]
        lines += [_as_row(row.values()) for row in rows]
    lines += ["", *(f"- {as_line(line)}" for line in (*found.notes, *found.failures))]
    if picture is None:
        return "\n".join([*lines, "", CHART_ADVICE])
    return "\n".join([*lines, "", f"![chart](data:image/png;base64,{base64.b64encode(picture).decode()})"])


def _as_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(as_line, cells))} |"
