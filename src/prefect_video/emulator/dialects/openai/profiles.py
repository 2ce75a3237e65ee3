"""Profiles of the servers that offer the OpenAI Videos API, and their deviations from it.

Based on the sources and documents of vLLM-Omni 0.30, SGLang 0.5.23, TensorRT-LLM (main) and LiteLLM 1.106, none of
which was run on a GPU; `generic` conforms to OpenAI's document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FIELDS: Final = frozenset({"model", "prompt", "seconds", "size", "input_reference"})
"""Fields of OpenAI's API."""

EXTRAS: Final = frozenset(
    {"seed", "negative_prompt", "fps", "num_frames", "num_inference_steps", "guidance_scale", "extra_params"}
)
"""Fields that inference engines add."""


@dataclass(frozen=True)
class EngineProfile:
    """Profile of one server: its deviations from OpenAI's API.

    Attributes:
        name: Name of the profile.
        prefix: Path under which its routes are mounted.
        id_prefix: Beginning of ids.
        wraps_ids: True if a proxy wraps the ids; the id of one video then differs from call to call.
        lists: True if GET /videos answers; LiteLLM always rejects it, and has no prompt in its jobs.
        form_only: True if JSON bodies are rejected.
        requires_file: True if a form without a file is rejected.
        checks_reference: True if `input_reference` in JSON must be the object that OpenAI documents.
        reads_extra_body: True if extra fields are read from `extra_body` too.
        fields: Known fields.
        other_fields: Treatment of unknown fields.
        requires_text_seconds: True if `seconds` must be a string.
        accepted_status: HTTP status of an accepted create.
        failed_status: HTTP status with which a failed job is returned.
        error_format: Format of error bodies: OpenAI's, vLLM's (a number as code), FastAPI's, or TensorRT-LLM's.
        failure_format: Format of a failed job's `error`.
        delete: Effect of DELETE on work in progress: rejected, aborted, stopped, or hidden while the GPU continues.
        paging: A cursor with `has_more`, a cursor without it, or one list of all.
        unready_status: HTTP status of content that is not ready.
        cloud: True if videos are in a bucket: the job carries the link, and the content endpoint rejects requests.
        redirects: True if content is a redirect to another host.
        queueing: True if any number of jobs is accepted.
        priced: True if OpenAI's prices apply; a self-hosted engine costs nothing.
        remixes: True if a finished video can be remixed.
    """

    name: str
    prefix: str
    id_prefix: str = "video_"
    wraps_ids: bool = False
    lists: bool = True
    form_only: bool = False
    requires_file: bool = False
    checks_reference: bool = False
    reads_extra_body: bool = False
    fields: frozenset[str] = FIELDS | EXTRAS
    other_fields: Literal["refused", "ignored"] = "ignored"
    requires_text_seconds: bool = False
    accepted_status: int = 200
    failed_status: int = 200
    error_format: Literal["openai", "vllm", "detail", "flat"] = "openai"
    failure_format: Literal["object", "numbered", "message", "text"] = "object"
    delete: Literal["ended", "aborts", "stops", "forgets"] = "ended"
    paging: Literal["cursor", "bare_cursor", "none"] = "cursor"
    unready_status: int = 404
    cloud: bool = False
    redirects: bool = False
    queueing: bool = True
    priced: bool = False
    remixes: bool = False


def _generic(name: str, prefix: str, *, redirects: bool = False) -> EngineProfile:
    return EngineProfile(
        name=name,
        prefix=prefix,
        fields=FIELDS,
        other_fields="refused",
        requires_text_seconds=True,
        checks_reference=True,
        redirects=redirects,
        queueing=False,
        priced=True,
        remixes=True,
    )


def _sglang(name: str, *, cloud: bool = False) -> EngineProfile:
    return EngineProfile(
        name=name,
        prefix=f"/profiles/{name}/v1",
        id_prefix="",
        requires_file=True,
        reads_extra_body=True,
        fields=FIELDS | EXTRAS | {"output_path"},
        error_format="detail",
        failure_format="message",
        delete="forgets",
        paging="bare_cursor",
        cloud=cloud,
    )


PROFILES: Final = (
    _generic("generic", "/v1"),
    _generic("generic_redirecting", "/profiles/generic_redirecting/v1", redirects=True),
    EngineProfile(
        name="vllm_omni",
        prefix="/profiles/vllm_omni/v1",
        id_prefix="video_gen_",
        fields=FIELDS | EXTRAS | {"generate_sound"},
        form_only=True,
        failed_status=500,
        error_format="vllm",
        failure_format="numbered",
        delete="aborts",
    ),
    _sglang("sglang"),
    _sglang("sglang_cloud", cloud=True),
    EngineProfile(
        name="trtllm",
        prefix="/profiles/trtllm/v1",
        other_fields="refused",
        accepted_status=202,
        error_format="flat",
        failure_format="text",
        delete="stops",
        paging="none",
        unready_status=400,
    ),
    EngineProfile(
        name="litellm",
        prefix="/profiles/litellm/v1",
        wraps_ids=True,
        lists=False,
        fields=FIELDS | EXTRAS,
        queueing=False,
        priced=True,
    ),
)
"""Every profile that is mounted."""
