"""Opens servers of the OpenAI Videos dialect from the environment: the entry points of `openai` and its profiles."""

from __future__ import annotations

from collections.abc import Mapping

from prefect_video.errors import InvalidInput
from prefect_video.providers.openai.profiles import find_profile
from prefect_video.providers.openai.provider import OpenAIProvider

__all__ = [
    "OpenAIProvider",
    "open_litellm",
    "open_provider",
    "open_sglang",
    "open_trtllm",
    "open_vllm_omni",
]


def open_provider(environ: Mapping[str, str]) -> OpenAIProvider:
    """The provider that `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_WEBHOOK_SECRET` and the profile's name in
    `PREFECT_VIDEO_OPENAI_PROFILE` describe.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open(environ.get("PREFECT_VIDEO_OPENAI_PROFILE") or "generic", "OPENAI", environ)


def open_vllm_omni(environ: Mapping[str, str]) -> OpenAIProvider:
    """The vLLM-Omni server at `VLLM_OMNI_BASE_URL`, with the key in `VLLM_OMNI_API_KEY` if it wants one.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open("vllm_omni", "VLLM_OMNI", environ)


def open_sglang(environ: Mapping[str, str]) -> OpenAIProvider:
    """The SGLang server at `SGLANG_BASE_URL`, with the key in `SGLANG_API_KEY` if it wants one.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open("sglang", "SGLANG", environ)


def open_trtllm(environ: Mapping[str, str]) -> OpenAIProvider:
    """The TensorRT-LLM server at `TRTLLM_BASE_URL`, with the key in `TRTLLM_API_KEY` if it wants one.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open("trtllm", "TRTLLM", environ)


def open_litellm(environ: Mapping[str, str]) -> OpenAIProvider:
    """The LiteLLM proxy at `LITELLM_BASE_URL`, with the key in `LITELLM_API_KEY`.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open("litellm", "LITELLM", environ)


def _open(profile: str, prefix: str, environ: Mapping[str, str]) -> OpenAIProvider:
    needed = find_profile(profile)
    missing = [
        variable
        for variable, must_be_there in (
            (f"{prefix}_API_KEY", needed.needs_key),
            (f"{prefix}_BASE_URL", needed.default_url is None),
        )
        if must_be_there and not environ.get(variable)
    ]
    if missing:
        raise InvalidInput(
            f"provider {needed.provider!r}: set {' and '.join(missing)}, or name a saved openai-credentials block"
        )
    return OpenAIProvider(
        api_key=environ.get(f"{prefix}_API_KEY"),
        base_url=environ.get(f"{prefix}_BASE_URL"),
        profile=profile,
        webhook_secrets=tuple(filter(None, environ.get(f"{prefix}_WEBHOOK_SECRET", "").split(","))),
    )
