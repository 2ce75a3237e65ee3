"""The OpenAI Videos dialect: provider, profiles, requests, responses and refusals, and an entry point for each profile.

May import the shared modules of `providers`, never another vendor's.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefect_video.errors import InvalidInput
from prefect_video.providers.openai.profiles import find_profile
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.providers.webhook_signatures import split_secrets

__all__ = [
    "OpenAIProvider",
    "open_litellm",
    "open_provider",
    "open_sglang",
    "open_trtllm",
    "open_vllm_omni",
]


def open_provider(environ: Mapping[str, str]) -> OpenAIProvider:
    """Open the server that `OPENAI_API_KEY`, `OPENAI_BASE_URL` and `OPENAI_WEBHOOK_SECRET` describe.

    `PREFECT_VIDEO_OPENAI_PROFILE` names its profile; without it, the profile is `generic`.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open(environ.get("PREFECT_VIDEO_OPENAI_PROFILE") or "generic", "OPENAI", environ)


def open_vllm_omni(environ: Mapping[str, str]) -> OpenAIProvider:
    """Open the vLLM-Omni server at `VLLM_OMNI_BASE_URL`, with the key in `VLLM_OMNI_API_KEY` if it needs one.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open("vllm_omni", "VLLM_OMNI", environ)


def open_sglang(environ: Mapping[str, str]) -> OpenAIProvider:
    """Open the SGLang server at `SGLANG_BASE_URL`, with the key in `SGLANG_API_KEY` if it needs one.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open("sglang", "SGLANG", environ)


def open_trtllm(environ: Mapping[str, str]) -> OpenAIProvider:
    """Open the TensorRT-LLM server at `TRTLLM_BASE_URL`, with the key in `TRTLLM_API_KEY` if it needs one.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open("trtllm", "TRTLLM", environ)


def open_litellm(environ: Mapping[str, str]) -> OpenAIProvider:
    """Open the LiteLLM proxy at `LITELLM_BASE_URL`, with the key in `LITELLM_API_KEY`.

    Raises:
        InvalidInput: A variable is missing or wrong.
    """
    return _open("litellm", "LITELLM", environ)


def _open(profile_name: str, prefix: str, environ: Mapping[str, str]) -> OpenAIProvider:
    """Open a server by its profile and the variables with a prefix; a key never goes to another prefix's address."""
    profile = find_profile(profile_name)
    required = {f"{prefix}_API_KEY": profile.needs_key, f"{prefix}_BASE_URL": profile.default_url is None}
    missing = [variable for variable, is_required in required.items() if is_required and not environ.get(variable)]
    if missing:
        raise InvalidInput(
            f"provider {profile.provider!r}: set {' and '.join(missing)}, or name a saved openai-credentials block"
        )
    secret = f"{prefix}_WEBHOOK_SECRET"
    return OpenAIProvider(
        api_key=environ.get(f"{prefix}_API_KEY"),
        base_url=environ.get(f"{prefix}_BASE_URL"),
        profile=profile_name,
        webhook_secrets=split_secrets(environ.get(secret), named=secret, standard=True),
    )
