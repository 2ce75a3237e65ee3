"""How long a generation took, by the provider's own times."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from prefect_video.providers.fal.responses import QueueStatus
from prefect_video.providers.openai.responses import ResponseReader
from prefect_video.providers.replicate.responses import read_prediction

REQUEST = httpx.Request("GET", "https://provider.example/v1")


def response(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=body, request=REQUEST)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ({"created_at": 1_700_000_000, "completed_at": 1_700_000_015}, 15),
        ({"created_at": 1_700_000_000, "completed_at": None, "inference_time_s": 12.5}, 12.5),
        ({"created_at": 1_700_000_000, "completed_at": 1_699_999_900, "inference_time_s": "soon"}, None),
        ({"created_at": 1_700_000_000, "completed_at": 1_700_000_015, "status": "in_progress"}, None),
    ],
)
def test_openai(times: dict[str, Any], seconds: float | None) -> None:
    reader = ResponseReader("openai", "https://provider.example/v1/videos")
    generation = reader.generation(response({"id": "video_1", "status": "completed", **times}))
    assert generation.seconds_taken == seconds


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ({"created_at": "2026-01-01T12:00:00.5Z", "completed_at": "2026-01-01T12:00:31Z"}, 30.5),
        ({"metrics": {"predict_time": 9.5}}, 9.5),
        ({"metrics": None}, None),
    ],
)
def test_replicate(times: dict[str, Any], seconds: float | None) -> None:
    body = {"id": "p", "status": "succeeded", "output": "https://replicate.delivery/video.mp4", **times}
    assert read_prediction(response(body), provider="replicate").seconds_taken == seconds


def test_fal() -> None:
    assert QueueStatus.model_validate({"status": "COMPLETED", "metrics": {"inference_time": 7.5}}).run_seconds == 7.5
    assert QueueStatus.model_validate({"status": "COMPLETED"}).run_seconds is None
