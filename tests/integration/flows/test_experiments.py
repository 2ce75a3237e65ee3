"""Experiments as flows: the finding and its chart are an artifact of the run, and the provider is paid once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.experiments import Experiment, RateLimit, ResponseTime, ResponseTimeMeasurement, WebhookDelivery
from prefect_video.flows import measure_rate_limit, measure_response_time, measure_webhooks

BUDGET = Decimal(50)


@pytest.mark.parametrize(
    ("measure", "experiment", "key", "head", "billed"),
    [
        (
            measure_response_time,
            ResponseTime(durations=(1, 2), resolution="480p", budget_usd=BUDGET),
            "experiment-response-time",
            "| length | took | ratio | job |",
            2,
        ),
        (
            measure_rate_limit,
            RateLimit(levels=(1, 2), budget_usd=BUDGET),
            "experiment-rate-limit",
            "| at once | accepted | refused | answered in |",
            1,
        ),
        (
            measure_webhooks,
            WebhookDelivery(count=1, port=0, budget_usd=BUDGET),
            "experiment-webhooks",
            "| generations | announced | lost |",
            1,
        ),
    ],
    ids=["response-time", "rate-limit", "webhooks"],
)
async def test_a_measurement_is_an_artifact_and_is_bought_once(
    session: Path,
    monkeypatch: pytest.MonkeyPatch,
    measure: Flow[Any, Any],
    experiment: Experiment,
    key: str,
    head: str,
    billed: int,
) -> None:
    # So slow that a busy machine sees them unfinished, and with one slot, so that a second generation is refused.
    with Emulator(EmulatorSettings(port=0, speed=10.0, capacity=1, render="plate")) as emulator:
        monkeypatch.setenv("SORA_API_KEY", emulator.key)
        monkeypatch.setenv("SORA_API_ENDPOINT", emulator.endpoint)
        monkeypatch.setenv("SORA_WEBHOOK_SECRET", emulator.webhook_secret)
        state = await measure(experiment, return_state=True)
        found = await state.result()
        text = await read_artifact(state.state_details.flow_run_id, key)
        assert head in text
        # The chart is inside: a page of Prefect loads it from nowhere else.
        assert "](data:image/png;base64," in text
        if isinstance(found, ResponseTimeMeasurement):
            assert [video.duration_seconds for video in found.videos] == [1, 2]
        if isinstance(experiment, RateLimit):
            assert "1 x RateLimited: " in text
        again = await measure(experiment)
        assert again.reused
        assert emulator.usage()["billed"] == billed


async def read_artifact(run_id: UUID | None, key: str) -> str:
    """Return the one artifact of a run, which has this key."""
    run = ArtifactFilterFlowRunId(any_=[UUID(str(run_id))])
    async with get_client() as client:
        (artifact,) = await client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run))
    assert artifact.key == key
    return str(artifact.data)
