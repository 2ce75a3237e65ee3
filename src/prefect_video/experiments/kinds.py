"""The experiments by kind: what measures each, and what its measurement is read into."""

from __future__ import annotations

import uuid
from typing import Final

from prefect_video.experiments.experiment import Experiment, ExperimentPlan, build_plan
from prefect_video.experiments.rate_limit import RateLimit, RateLimitMeasurement, measure_rate_limit
from prefect_video.experiments.response_time import ResponseTime, ResponseTimeMeasurement, measure_response_time
from prefect_video.experiments.webhook_delivery import WebhookDelivery, WebhookMeasurement, measure_webhooks
from prefect_video.session import Session

AnyMeasurement = ResponseTimeMeasurement | RateLimitMeasurement | WebhookMeasurement

MEASUREMENTS: Final[dict[type[Experiment], type[AnyMeasurement]]] = {
    ResponseTime: ResponseTimeMeasurement,
    RateLimit: RateLimitMeasurement,
    WebhookDelivery: WebhookMeasurement,
}


async def plan_experiment(session: Session, experiment: Experiment, *, refresh: bool = False) -> ExperimentPlan:
    """Plan an experiment, or find what an earlier run has measured; nothing is reserved or sent.

    Raises:
        InvalidInput: The account makes no such videos.
        LedgerError: The ledger cannot be read.
        StoreError: The store cannot be read.
    """
    return await build_plan(session, experiment, MEASUREMENTS[type(experiment)], refresh=refresh)


async def run_experiment(
    session: Session, experiment: Experiment, *, refresh: bool = False, flow_run_id: str | None = None
) -> AnyMeasurement:
    """Measure, or return what an earlier run has measured; a run after a crash pays nothing twice.

    Args:
        session: The account that is measured.
        experiment: What is to be measured, with its budget.
        refresh: Measure anew, which buys all videos again.
        flow_run_id: Id of the run; None for a new one.

    Raises:
        InvalidInput: The account makes no such videos, or cannot be measured now; nothing was sent.
        BudgetExceeded: It does not fit the budget; nothing was sent.
        VideoError: The run was refused as a whole; nothing was sent.
    """
    planned = await plan_experiment(session, experiment, refresh=refresh)
    if isinstance(planned.measurement, AnyMeasurement):
        return planned.measurement
    planned.plan.raise_if_over_budget()
    run_id = flow_run_id or f"experiment-{uuid.uuid4()}"
    match experiment:
        case ResponseTime():
            return await measure_response_time(
                session, experiment, planned.project, refresh=refresh, flow_run_id=run_id
            )
        case RateLimit():
            return await measure_rate_limit(session, experiment, planned.project, refresh=refresh, flow_run_id=run_id)
        case WebhookDelivery():
            return await measure_webhooks(session, experiment, planned.project, refresh=refresh, flow_run_id=run_id)
    raise TypeError(f"{type(experiment).__name__} is no experiment")
