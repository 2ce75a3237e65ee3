"""Responses of the OpenAI Videos dialect: jobs, failures, errors and ids, rendered by profile."""

from __future__ import annotations

import base64
from typing import Any, Final

from prefect_video.emulator.dialects.base import status_with_fault
from prefect_video.emulator.dialects.openai.profiles import EngineProfile
from prefect_video.emulator.dialects.openai.requests import DEFAULT_SECONDS
from prefect_video.emulator.errors import ApiError, ErrorKind
from prefect_video.emulator.faults import FaultRule
from prefect_video.emulator.generation import EmulatedGeneration, EmulatedStatus, Failure

_STATUSES: Final[dict[EmulatedStatus, str]] = {"processing": "in_progress"}
_RUNNING: Final = {"trtllm": "generating", "litellm": "processing"}

_FAILURE_CODES: Final = {"content_policy_violation": "moderation_blocked"}
_FAILURE_NUMBERS: Final = {"content_policy_violation": 400}
_TYPES: Final[dict[ErrorKind, str]] = {
    "authentication": "invalid_request_error",
    "capacity": "rate_limit_error",
    "rate": "rate_limit_error",
    "quota": "insufficient_quota",
    "generation": "server_error",
    "server": "server_error",
}
_CODES: Final[dict[ErrorKind, str]] = {
    "authentication": "invalid_api_key",
    "capacity": "rate_limit_exceeded",
    "rate": "rate_limit_exceeded",
    "quota": "insufficient_quota",
    "policy": "content_policy_violation",
}


def render_job(
    generation: EmulatedGeneration, profile: EngineProfile, rule: FaultRule | None, *, expires: float
) -> dict[str, Any]:
    """Render a generation as a job of the profile.

    Args:
        generation: Generation.
        profile: Profile of the server.
        rule: Fault due for the request.
        expires: Unix time until which the video is served.
    """
    running = _RUNNING.get(profile.name, "in_progress")
    status = running if generation.status == "processing" else _STATUSES.get(generation.status, generation.status)
    request = generation.request
    width, height = request.frame_size
    finished = int(generation.finished) if generation.finished is not None else None
    job: dict[str, Any] = {
        "id": generation.id,
        "object": "video",
        "model": request.model,
        "status": status_with_fault(status, rule),
        "progress": _progress(generation, profile),
        "created_at": int(generation.created),
        "completed_at": finished if generation.status == "completed" else None,
        "expires_at": int(expires) if generation.status == "completed" and profile.priced else None,
        "prompt": request.prompt,
        "size": f"{width}x{height}",
        "seconds": str(request.duration),
        "remixed_from_video_id": request.remix_of,
        "error": render_failure(generation.failure, profile),
    }
    return _apply_profile(job, generation, profile)


def _apply_profile(job: dict[str, Any], generation: EmulatedGeneration, profile: EngineProfile) -> dict[str, Any]:
    file_name, request = f"{generation.id}.mp4", generation.request
    match profile.name:
        case "vllm_omni":
            measured: dict[str, Any] = {"inference_time_s": None, "stage_durations": {}, "peak_memory_mb": 0.0}
            if request.frames:
                # The client sent no seconds: the engine reports its default, and the frames once they are rendered.
                job["seconds"] = str(DEFAULT_SECONDS)
            if request.frames and generation.status == "completed":
                seconds = request.frames / request.fps
                measured |= {"num_frames": request.frames, "fps": request.fps, "duration_s": seconds}
            return {**job, "quality": "default", "media_type": "video/mp4", "file_name": file_name, **measured}
        case "sglang" | "sglang_cloud":
            del job["prompt"]
            folder = request.metadata.get("output_path", "outputs")
            file_path = f"/srv/{folder}/{file_name}"
            return {**job, "quality": "standard", "url": None, "file_path": file_path, "num_outputs": 1}
        case "trtllm":
            job["duration"] = float(job.pop("seconds"))
            del job["remixed_from_video_id"]
            return {**job, "progress": None, "fps": generation.request.fps, "response_format": None}
        case "litellm":
            del job["prompt"]
            return {**job, "usage": {"duration_seconds": float(generation.request.duration)}}
        case _:
            return job


def _progress(generation: EmulatedGeneration, profile: EngineProfile) -> int:
    """Return the progress in percent; vLLM-Omni reports only 0 and 100."""
    if generation.status == "completed":
        return 100
    if profile.name == "vllm_omni" or generation.status == "queued":
        return 0
    return 50


def render_failure(failure: Failure | None, profile: EngineProfile) -> Any:
    """Render the failure of a job in the profile's format; None if it has not failed."""
    if failure is None:
        return None
    match profile.failure_format:
        case "object":
            return {"code": _FAILURE_CODES.get(failure.code, failure.code), "message": failure.message}
        case "numbered":
            return {"code": _FAILURE_NUMBERS.get(failure.code, profile.failed_status), "message": failure.message}
        case "message":
            return {"message": failure.message}
        case "text":
            return failure.message


def render_error(error: ApiError, profile: EngineProfile) -> dict[str, Any]:
    """Render the body of an error response."""
    kind = _TYPES.get(error.kind, "invalid_request_error")
    match profile.error_format:
        case "openai":
            return {"error": {"message": error.message, "type": kind, "param": None, "code": _CODES.get(error.kind)}}
        case "vllm":
            return {"error": {"message": error.message, "type": kind, "param": None, "code": error.status}}
        case "detail":
            return {"detail": error.message}
        case "flat":
            flat = {"message": error.message, "type": kind, "param": None, "code": error.status}
            return {"object": "error", **flat}


def wrap_id(generation_id: str, model: str) -> str:
    """Return an id in the form in which LiteLLM returns it."""
    text = f"litellm:custom_llm_provider:openai;model_id:{model};video_id:{generation_id}"
    return "video_" + base64.b64encode(text.encode()).decode()


def unwrap_id(wrapped: str) -> str:
    """Return the id inside one of LiteLLM's; any other unchanged."""
    try:
        code = wrapped.removeprefix("video_")
        text = base64.b64decode(code + "=" * (-len(code) % 4), validate=True).decode()
    except ValueError:
        return wrapped
    return text.rpartition(";video_id:")[2] if text.startswith("litellm:") else wrapped
