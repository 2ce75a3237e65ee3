"""Content credentials: the C2PA manifest inside of a video, read and never changed.

The reader comes with the extra `c2pa`. It is given the file alone: no manifest and no certificate is looked up in the
network, so that a file of a stranger makes no request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from prefect_video.assets import ContentCredentials
from prefect_video.errors import InvalidInput

EXTRA: Final = "prefect-video[c2pa]"
_OFFLINE: Final = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_STATES: Final = {"Trusted": "trusted", "Valid": "valid"}
_PROBLEMS_LIMIT: Final = 10
_SELF_MADE: Final = "signingCredential.untrusted"
"""Says only that no trust list names the certificate, which is what `valid` means."""


def can_read_credentials() -> bool:
    """Return whether the reader is installed."""
    return find_spec("c2pa") is not None


def require_reader() -> None:
    """Refuse to go on without the reader.

    Raises:
        InvalidInput: It is not installed; the message names what to install.
    """
    if not can_read_credentials():
        raise InvalidInput(f"C2PA manifests are read by c2pa-python, which is not installed: pip install '{EXTRA}'")


def read_content_credentials(path: Path, *, promised: bool = False) -> ContentCredentials | None:
    """Read the C2PA manifest of a video file.

    Args:
        path: The file; its content decides about its format.
        promised: The provider promises a manifest.

    Returns:
        What was found; None where the reader is not installed.
    """
    if not can_read_credentials():
        return None
    from c2pa import C2paError, Reader

    try:
        with path.open("rb") as file, Reader("video/mp4", file, context=_offline_context()) as reader:
            return _describe(json.loads(reader.json()), promised)
    except C2paError.ManifestNotFound:
        return no_content_credentials(promised=promised)
    except (C2paError, ValueError, TypeError, AttributeError) as error:
        # The last three: a manifest is a stranger's JSON, and may have any shape.
        return ContentCredentials(state="invalid", promised=promised, problems=(_first_line(error),))


def no_content_credentials(*, promised: bool = False) -> ContentCredentials | None:
    """Return what `read_content_credentials` does for a file without a manifest."""
    return ContentCredentials(state="absent", promised=promised) if can_read_credentials() else None


@cache
def _offline_context() -> Any:
    from c2pa import Context, Settings

    return Context(settings=Settings.from_dict(_OFFLINE))


def _describe(found: Mapping[str, Any], promised: bool) -> ContentCredentials:
    manifest = found.get("manifests", {}).get(found.get("active_manifest"), {})
    signature = manifest.get("signature_info", {})
    state = _STATES.get(found.get("validation_state", ""), "invalid")
    return ContentCredentials(
        state=state,
        promised=promised,
        signed_by=signature.get("issuer") or signature.get("common_name"),
        generator=_generator(manifest),
        source_types=tuple(dict.fromkeys(_source_types(manifest))),
        problems=tuple(dict.fromkeys(_problems(found)))[:_PROBLEMS_LIMIT] if state == "invalid" else (),
    )


def _generator(manifest: Mapping[str, Any]) -> str | None:
    for info in manifest.get("claim_generator_info") or ():
        if name := info.get("name"):
            return f"{name} {info['version']}" if info.get("version") else str(name)
    return manifest.get("claim_generator")


def _source_types(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the digital source types of a manifest's actions by their last word, `trainedAlgorithmicMedia`."""
    for assertion in manifest.get("assertions", ()):
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            for action in assertion.get("data", {}).get("actions", ()):
                if source := action.get("digitalSourceType"):
                    yield str(source).rpartition("/")[2]


def _problems(found: Mapping[str, Any]) -> Iterator[str]:
    for problem in found.get("validation_status") or ():
        if (code := str(problem.get("code", ""))) and code != _SELF_MADE:
            yield code


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
