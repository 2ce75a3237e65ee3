"""Experiments as flows: the finding and its chart are an artifact of the run, and the provider is paid once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from prefect_video.emulator import Emulator
from prefect_video.experiments import ResponseTime, ResponseTimeMeasurement
from prefect_video.flows import measure_response_time


async def test_a_measurement_is_an_artifact_and_is_bought_once(session: Path, emulator: Emulator) -> None:
    # So slow that a busy machine sees them unfinished: a late wait does not show how long one took.
    emulator.change_speed(10)
    experiment = ResponseTime(durations=(1, 2), resolution="480p", budget_usd=Decimal(5))
    state = await measure_response_time(experiment, return_state=True)
    found = await state.result()  # type: ignore[misc]
    assert isinstance(found, ResponseTimeMeasurement)
    assert [video.duration_seconds for video in found.videos] == [1, 2]
    run_id = state.state_details.flow_run_id
    async with get_client() as client:
        (artifact,) = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(run_id))]))
        )
    assert artifact.key == "experiment-response-time"
    text = str(artifact.data)
    assert "| length | took | ratio | job |" in text
    # The chart is inside: a page of Prefect loads it from nowhere else.
    assert "](data:image/png;base64," in text
    again = await measure_response_time(experiment)
    assert again.reused
    assert emulator.usage()["billed"] == 2
