"""Status strings in any spelling; other fields of the response decide about one that is not known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video.generations import Status
from prefect_video.providers.statuses import STATUSES, Evidence, build_fault, parse_status
from tests.unit.providers.test_odd_responses import IDS, OPEN, mock_response

SPELLINGS = {
    "SUCCESS": Status.COMPLETED,
    "SUCCEEDED": Status.COMPLETED,
    "TASK_STATUS_SUCCEED": Status.COMPLETED,
    "JOB_STATE_SUCCEEDED": Status.COMPLETED,
    "finished": Status.COMPLETED,
    "Done": Status.COMPLETED,
    "FAILURE": Status.FAILED,
    "error": Status.FAILED,
    "rejected": Status.FAILED,
    "timeout": Status.FAILED,
    "Timed Out": Status.FAILED,
    "nsfw": Status.FAILED,
    "content_policy_violation": Status.FAILED,
    "Canceled": Status.CANCELLED,
    "InProgress": Status.PROCESSING,
    "in-progress": Status.PROCESSING,
    " Running ": Status.PROCESSING,
    "IN_QUEUE": Status.QUEUED,
    "NOT_STARTED": Status.QUEUED,
    "EXPIRED": Status.EXPIRED,
}
VIDEO: dict[str, Any] = {
    "result": {"video_url": "https://cdn.example/v.mp4"},
    "url": "https://cdn.example/v.mp4",
    "urls": ["https://cdn.example/v.mp4"],
    "output": "https://cdn.example/v.mp4",
    "video": {"url": "https://cdn.example/v.mp4"},
    "response_url": "https://queue.fal.run/emulator/video/requests/v",
}


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("string", SPELLINGS)
async def test_a_word_in_any_spelling(name: str, string: str, caplog: pytest.LogCaptureFixture) -> None:
    generation = await mock_response(name, {"id": "v", "status": string, **VIDEO}).retrieve(IDS[name])
    assert generation.status is SPELLINGS[string]
    assert "unknown status" not in caplog.text


@pytest.mark.parametrize("name", OPEN)
async def test_beside_an_unknown_word_the_evidence_decides(name: str) -> None:
    for changes, status in (
        ({"progress": 100}, Status.COMPLETED),
        ({"progress": 99}, Status.PROCESSING),
        ({}, Status.PROCESSING),
        ({"error": {"code": "boom", "message": "no"}}, Status.FAILED),
        ({"error": {"code": "boom", "message": "no"}, "progress": 100}, Status.FAILED),
        ({"error": None}, Status.PROCESSING),
    ):
        generation = await mock_response(name, {"id": "v", "status": "pensive", **VIDEO, **changes}).retrieve(IDS[name])
        assert generation.status is status, changes


HARMLESS = (
    "moderation_passed passed_moderation moderation_approved moderation_pending pending_moderation in_moderation"
    " moderating post_moderation not_moderated safety_check checking_safety content_safety_check content_policy_check"
    " awaiting_content_filter nsfw_check NSFW_FREE nsfw_false not_nsfw guardrails_running risk_control_passed safety"
    " sensitive moderation image_safety_ok video_safety_scan prompt_moderation"
)


@pytest.mark.parametrize("string", HARMLESS.split())
def test_a_stage_or_a_passed_check_of_moderation_is_no_end(string: str) -> None:
    assert parse_status(string, provider="any", generation_id="g") is Status.PROCESSING
    assert build_fault(string, None) is None
    finished = Evidence(has_link=True, progress=1.0)
    assert parse_status(string, provider="any", generation_id="g", evidence=finished) is Status.COMPLETED


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("string", ["moderation_passed", "NSFW_FREE", "nsfw", "CONTENT_MODERATED"])
async def test_a_finished_video_is_kept_whatever_its_status_says_of_moderation(name: str, string: str) -> None:
    body = {"id": "v", "status": string, **VIDEO, "progress": 100}
    generation = await mock_response(name, body).retrieve(IDS[name])
    assert generation.status is Status.COMPLETED
    assert generation.fault is None


@pytest.mark.parametrize("string", ["NSFW", "Moderated", "moderation_blocked", "TASK_STATUS_CONTENT_FILTERED"])
def test_a_whole_string_of_a_policy_is_an_end(string: str) -> None:
    assert parse_status(string, provider="any", generation_id="g") is Status.FAILED
    assert build_fault(string, None) is not None


@pytest.mark.parametrize("name", ["sora", "openai", "replicate", "openrouter"])
async def test_an_error_that_says_that_there_is_none_is_none(name: str) -> None:
    for error in (None, {}, {"code": 0}, {"code": "0", "message": ""}, {"code": None, "message": "Success"}):
        body = {"id": "v", "status": "warming_up", "error": error}
        assert (await mock_response(name, body).retrieve(IDS[name])).status is Status.PROCESSING
    failed = {"id": "v", "status": "warming_up", "error": {"code": "0", "message": "out of memory"}}
    assert (await mock_response(name, failed).retrieve(IDS[name])).status is Status.FAILED


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("wrapper", ["data", "result", "job"])
async def test_an_object_in_a_wrapper(name: str, wrapper: str) -> None:
    inner = {"id": "v", "status": "SUCCESS", **VIDEO}
    for body in ({wrapper: inner}, {"code": 0, "message": "ok", wrapper: inner}, {"data": {wrapper: inner}}):
        assert (await mock_response(name, body).retrieve(IDS[name])).status is Status.COMPLETED


def test_one_warning_for_each_provider_and_word(caplog: pytest.LogCaptureFixture) -> None:
    for provider in ("one", "one", "two"):
        for _ in range(3):
            assert parse_status("perplexed", provider=provider, generation_id="g") is Status.PROCESSING
    assert caplog.text.count("unknown status 'perplexed' counts as processing") == 2


def test_a_word_that_tells_of_policy_is_a_fault_by_itself() -> None:
    fault = build_fault("NSFW", None)
    assert fault is not None
    assert fault.code == "moderation"
    assert build_fault("failed", None) is None


@given(st.text(), st.booleans(), st.none() | st.floats(), st.booleans())
def test_any_word_has_a_status_and_none_ends_without_a_reason(
    string: str, has_link: bool, progress: float | None, has_error: bool
) -> None:
    evidence = Evidence(has_link, progress, has_error)
    status = parse_status(string, provider="any", generation_id="g", evidence=evidence)
    assert status in Status
    assert parse_status(f" {string.upper()} ", provider="any", generation_id="g", evidence=evidence) in Status
    if evidence == Evidence() and status.ended:
        assert any(part in string.casefold().replace(" ", "_") for part in STATUSES) or status is Status.FAILED
