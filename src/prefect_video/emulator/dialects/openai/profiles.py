"""How each server of the OpenAI Videos dialect deviates from it.

By the sources and documents of vLLM-Omni 0.30, SGLang 0.5.23, TensorRT-LLM (main) and LiteLLM 1.106, none of which was
tried on a GPU; `generic` keeps to OpenAI's document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FIELDS: Final = frozenset({"model", "prompt", "seconds", "size", "input_reference"})
"""What the dialect takes."""

EXTRAS: Final = frozenset(
    {"seed", "negative_prompt", "fps", "num_frames", "num_inference_steps", "guidance_scale", "extra_params"}
)
"""What engines take besides."""


@dataclass(frozen=True)
class EngineProfile:
    """One server's way of speaking.

    Attributes:
        name: Of the profile; its routes lie under `prefix`.
        prefix: Where it is mounted.
        id_prefix: What ids begin with.
        wraps_ids: Whether ids are wrapped by a proxy, for one video differently from call to call.
        form_only: Whether JSON is refused.
        file_wanted: Whether a form without a file is refused.
        checked_reference: Whether `input_reference` in JSON must be the document's object.
        nested_extras: Whether extras are looked for in `extra_body` as well.
        fields: Fields that are known.
        other_fields: What becomes of unknown ones.
        text_seconds: Whether `seconds` must be a string.
        accepted: HTTP status of a create.
        failed: HTTP status with which a failed job is told; 200 tells it as any other.
        error: The words of a refusal: OpenAI's, vLLM's (a number as code), FastAPI's, or TensorRT-LLM's.
        fault: The shape of a failed job's `error`.
        delete: DELETE refuses work under way, aborts it, stops it, or forgets it while the GPU goes on.
        paging: A cursor with `has_more`, a cursor without, or one list of all.
        unready: HTTP status of content that is not there yet.
        cloud: Whether videos lie in a bucket: the job names the link and the content endpoint refuses.
        redirects: Whether content is a redirect to another host.
        queueing: Whether any number of jobs is let in.
        priced: Whether OpenAI's prices hold; an engine at home costs nothing.
    """

    name: str
    prefix: str
    id_prefix: str = "video_"
    wraps_ids: bool = False
    form_only: bool = False
    file_wanted: bool = False
    checked_reference: bool = False
    nested_extras: bool = False
    fields: frozenset[str] = FIELDS | EXTRAS
    other_fields: Literal["refused", "ignored"] = "ignored"
    text_seconds: bool = False
    accepted: int = 200
    failed: int = 200
    error: Literal["openai", "vllm", "detail", "flat"] = "openai"
    fault: Literal["object", "numbered", "message", "text"] = "object"
    delete: Literal["ended", "aborts", "stops", "forgets"] = "ended"
    paging: Literal["cursor", "bare_cursor", "none"] = "cursor"
    unready: int = 404
    cloud: bool = False
    redirects: bool = False
    queueing: bool = True
    priced: bool = False


def _generic(name: str, prefix: str, *, redirects: bool = False) -> EngineProfile:
    return EngineProfile(
        name=name,
        prefix=prefix,
        fields=FIELDS,
        other_fields="refused",
        text_seconds=True,
        checked_reference=True,
        redirects=redirects,
        queueing=False,
        priced=True,
    )


def _sglang(name: str, *, cloud: bool = False) -> EngineProfile:
    return EngineProfile(
        name=name,
        prefix=f"/profiles/{name}/v1",
        id_prefix="",
        file_wanted=True,
        nested_extras=True,
        fields=FIELDS | EXTRAS | {"output_path"},
        error="detail",
        fault="message",
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
        form_only=True,
        failed=500,
        error="vllm",
        fault="numbered",
        delete="aborts",
    ),
    _sglang("sglang"),
    _sglang("sglang_cloud", cloud=True),
    EngineProfile(
        name="trtllm",
        prefix="/profiles/trtllm/v1",
        other_fields="refused",
        accepted=202,
        error="flat",
        fault="text",
        delete="stops",
        paging="none",
        unready=400,
    ),
    EngineProfile(
        name="litellm",
        prefix="/profiles/litellm/v1",
        wraps_ids=True,
        fields=FIELDS | EXTRAS,
        queueing=False,
        priced=True,
    ),
)
"""Every way of speaking that is mounted."""
