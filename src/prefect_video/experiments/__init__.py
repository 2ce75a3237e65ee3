"""Experiments: measurements of a provider's account, bought through the ledger as any other project.

How long videos take by their length, how many generations an account may have unfinished at once, and how reliably its
webhooks arrive. May import pipeline, session and every room below them.
"""

from prefect_video.experiments.charts import CHART_ADVICE, can_draw_charts, draw_chart
from prefect_video.experiments.experiment import (
    Experiment,
    ExperimentPlan,
    Measurement,
    load_measurement,
    publish_measurement,
)
from prefect_video.experiments.kinds import AnyMeasurement, plan_experiment, run_experiment
from prefect_video.experiments.rate_limit import RateLimit, RateLimitMeasurement
from prefect_video.experiments.response_time import ResponseTime, ResponseTimeMeasurement
from prefect_video.experiments.webhook_delivery import WebhookDelivery, WebhookMeasurement

__all__ = [
    "CHART_ADVICE",
    "AnyMeasurement",
    "Experiment",
    "ExperimentPlan",
    "Measurement",
    "RateLimit",
    "RateLimitMeasurement",
    "ResponseTime",
    "ResponseTimeMeasurement",
    "WebhookDelivery",
    "WebhookMeasurement",
    "can_draw_charts",
    "draw_chart",
    "load_measurement",
    "plan_experiment",
    "publish_measurement",
    "run_experiment",
]
