"""Responses of fal, valid and invalid: the end of a paid job, and faults that pass."""

import httpx
import pytest

from prefect_video import ContentPolicyError
from prefect_video.errors import (
    AuthenticationFailed,
    InvalidResponse,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Status
from prefect_video.providers.fal.provider import FalProvider
from tests.support.providers.fal import JOB, QUEUE, mock_fal, submit


def mock_result(result: httpx.Response, **status: object) -> FalProvider:
    body = {"status": "COMPLETED", "request_id": "r1", **status}
    provider, _ = mock_fal(
        lambda request: httpx.Response(200, json=body) if request.url.path.endswith("/status") else result
    )
    return provider


@pytest.mark.parametrize(
    ("ticket", "kept"),
    [
        ({"status_url": f"{QUEUE}/fal-ai/other/requests/r1/status"}, "fal-ai/other/requests/r1"),
        ({"status_url": f"{QUEUE}/workflows/me/flow/requests/r1/status"}, "workflows/me/flow/requests/r1"),
        ({"status_url": "https://evil.example/a/b/requests/r1/status"}, JOB),
        ({"status_url": f"{QUEUE}/a/../../requests/r1/status"}, JOB),
        ({"status_url": f"{QUEUE}/a"}, JOB),
        ({"status_url": "x:y"}, JOB),
        ({}, JOB),
    ],
)
async def test_a_returned_address_is_used_if_it_is_on_the_queue(ticket: dict[str, str], kept: str) -> None:
    provider, sent = mock_fal(lambda _: httpx.Response(200, json={"request_id": "r1", "status": "IN_QUEUE", **ticket}))
    generation_id = await submit(provider)
    assert generation_id == kept
    await provider.retrieve(generation_id)
    assert sent[1].url == f"{QUEUE}/{kept}/status"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(401, json={"detail": "Authentication is required"}), AuthenticationFailed),
        (httpx.Response(403, json={"detail": "User is locked. Reason: Exhausted balance."}), QuotaExhausted),
        (httpx.Response(404, json={"detail": "Application not found"}), NotFound),
        (httpx.Response(429, json={"detail": "slow"}, headers={"retry-after": "3"}), RateLimited),
        (httpx.Response(422, json={"detail": [{"loc": ["body"], "msg": "no", "type": "missing"}]}), RequestRejected),
        (
            httpx.Response(422, json={"detail": [{"msg": "no", "type": "content_policy_violation"}]}),
            ContentPolicyError,
        ),
        (httpx.Response(500, json={"detail": "x", "error_type": "internal_error"}), SubmitOutcomeUnknown),
        (httpx.Response(504), SubmitOutcomeUnknown),
        (httpx.Response(200, text="<html>"), SubmitOutcomeUnknown),
    ],
)
async def test_answers_to_a_submit(answer: httpx.Response, kind: type[ProviderError]) -> None:
    provider, sent = mock_fal(lambda _: answer)
    with pytest.raises(kind):
        await submit(provider)
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (
            httpx.Response(422, json={"detail": [{"loc": ["body", "x"], "msg": "no", "type": "value_error"}]}),
            "value_error",
        ),
        (httpx.Response(422, json={"detail": "not like this"}), "error"),
        (httpx.Response(400, json={"detail": "gone", "error_type": "bad_request"}), "bad_request"),
        (httpx.Response(504, json={"detail": "too long", "error_type": "request_timeout"}), "request_timeout"),
        (httpx.Response(503, headers={"x-fal-error-type": "runner_disconnected"}), "runner_disconnected"),
    ],
)
async def test_a_result_that_is_the_jobs_error_is_its_end(result: httpx.Response, code: str) -> None:
    seen = await mock_result(result).retrieve(JOB)
    assert seen.status is Status.FAILED
    assert seen.fault is not None
    assert seen.fault.code == code


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (httpx.Response(502, text="<html>nginx"), ProviderUnavailable),
        (httpx.Response(500, json={"detail": "oops"}), ProviderUnavailable),
        (httpx.Response(400, json={"detail": "Request is still in progress"}), ProviderUnavailable),
        (httpx.Response(400, json={"detail": "not like this"}), ProviderUnavailable),
        (httpx.Response(422, text="<html>proxy"), ProviderUnavailable),
        *((httpx.Response(code, text="<html>proxy"), ProviderUnavailable) for code in (400, 405, 407, 409, 413, 451)),
        (httpx.Response(404, json={"detail": "Not found"}), NotFound),
        (httpx.Response(401, json={"detail": "no"}), AuthenticationFailed),
        (httpx.Response(200, json={"image": {"url": "x"}}), InvalidResponse),
        (httpx.Response(200, text="<html>"), InvalidResponse),
    ],
)
async def test_what_may_pass_is_no_verdict_on_a_paid_job(result: httpx.Response, kind: type[ProviderError]) -> None:
    with pytest.raises(kind):
        await mock_result(result).retrieve(JOB)


@pytest.mark.parametrize(("code", "of_request"), [(422, True), (500, False)])
async def test_a_status_tells_a_wrong_request_by_the_code_of_its_result(code: int, of_request: bool) -> None:
    fields = {"error": f"Invalid status code: {code}", "error_type": "bad_request"}
    seen = await mock_result(httpx.Response(500), **fields).retrieve(JOB)
    assert seen.fault is not None
    assert seen.fault.of_request is of_request


async def test_a_status_ahead_of_its_result_is_not_believed_yet() -> None:
    assert (await mock_result(httpx.Response(202, json={})).retrieve(JOB)).status is Status.PROCESSING


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        ({"error": "boom", "error_type": "runner_disconnected"}, Status.FAILED),
        ({"error": "gone", "error_type": "client_cancelled"}, Status.CANCELLED),
        ({"status": "MODERATING"}, Status.PROCESSING),
        ({"status": "IN_QUEUE"}, Status.QUEUED),
    ],
)
async def test_statuses(status: dict[str, object], seen: Status) -> None:
    assert (await mock_result(httpx.Response(500), **status).retrieve(JOB)).status is seen


@pytest.mark.parametrize(
    "payload",
    [
        {"video": {"url": "https://cdn.example/v.mp4", "file_size": 7}},
        {"video": "https://cdn.example/v.mp4"},
        {"videos": [{"url": "https://cdn.example/v.mp4"}]},
        {"video_url": "https://cdn.example/v.mp4"},
        {"output": {"url": "https://cdn.example/v.mp4"}},
    ],
)
async def test_videos_under_the_names_that_models_use(payload: dict[str, object]) -> None:
    seen = await mock_result(httpx.Response(200, json=payload)).retrieve(JOB)
    assert seen.result is not None
    assert seen.result.video_url == "https://cdn.example/v.mp4"


async def test_a_result_address_elsewhere_does_not_get_the_key() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json={"status": "COMPLETED", "response_url": "https://evil.example/x"})
        return httpx.Response(200, json={"video": {"url": "https://cdn.example/v.mp4"}})

    provider, sent = mock_fal(answer)
    await provider.retrieve(JOB)
    assert [str(request.url) for request in sent] == [f"{QUEUE}/{JOB}/status", f"{QUEUE}/{JOB}"]
