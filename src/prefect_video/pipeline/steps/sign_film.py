"""Signature of a film: by the certificate that the settings name, checked before it is published."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_video._shield import run_in_thread
from prefect_video.assets import Asset, ContentCredentials
from prefect_video.downloads import read_content_credentials, require_reader
from prefect_video.errors import FilmError, InvalidInput
from prefect_video.film import SIGNED_CONTAINERS, Cut, FilmSigner, SignedClip
from prefect_video.session import Settings

if TYPE_CHECKING:
    from prefect_video.film import ProducedFilm

logger = logging.getLogger(__name__)


def load_signer(settings: Settings, cut: Cut) -> FilmSigner | None:
    """Load the signer of a film; None where no certificate is configured, or its container cannot be signed.

    Raises:
        InvalidInput: Certificate or key cannot be used.
    """
    if settings.c2pa_certificate is None and settings.c2pa_private_key is None:
        return None
    if settings.c2pa_certificate is None or settings.c2pa_private_key is None:
        raise InvalidInput(
            "a film is signed by a certificate and its key: set PREFECT_VIDEO_C2PA_CERTIFICATE and"
            " PREFECT_VIDEO_C2PA_PRIVATE_KEY, or neither"
        )
    if cut.container not in SIGNED_CONTAINERS:
        logger.warning("a film in %s is not signed: C2PA has a form for MP4 only", cut.container)
        return None
    require_reader()
    return FilmSigner.load(settings.c2pa_certificate, settings.c2pa_private_key, settings.c2pa_timestamp_url)


async def sign_film(
    signer: FilmSigner, project: str, produced: ProducedFilm, clips: Mapping[str, Asset], files: Mapping[str, Path]
) -> tuple[ProducedFilm, ContentCredentials]:
    """Sign a film, and check that its pictures are as before and its manifest holds.

    Args:
        signer: The certificate.
        project: Name of the project.
        produced: The film.
        clips: Its clips, by their labels.
        files: Their files.

    Returns:
        The signed film, and what its manifest says.

    Raises:
        FilmError: It cannot be signed.
    """
    return await run_in_thread(_sign, signer, project, produced, clips, files)


def _sign(
    signer: FilmSigner, project: str, produced: ProducedFilm, clips: Mapping[str, Asset], files: Mapping[str, Path]
) -> tuple[ProducedFilm, ContentCredentials]:
    from prefect_video.film import digest_packets  # it loads PyAV

    target = produced.path.with_name(f"signed{produced.path.suffix}")
    signer.sign(
        produced.path,
        target,
        title=project,
        generator=("prefect-video", version("prefect-video")),
        clips=[SignedClip(label, files[label], _is_generated(asset, files[label])) for label, asset in clips.items()],
    )
    if digest_packets(target) != digest_packets(produced.path):
        raise FilmError("the film cannot be signed: its pictures are not the same afterwards")
    found = read_content_credentials(target)
    if found is None or found.state not in ("valid", "trusted"):
        raise FilmError(f"the film cannot be signed: {found.flaw if found else 'its manifest cannot be read'}")
    return replace(produced, path=target), found


def _is_generated(asset: Asset, file: Path) -> bool:
    """Return whether a model has made a clip: by its record, or for one made by hand by its own manifest."""
    if asset.origin == "generated":
        return True
    found = read_content_credentials(file)
    return found is not None and found.state != "invalid" and "trainedAlgorithmicMedia" in found.source_types
