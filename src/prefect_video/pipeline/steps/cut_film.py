"""Final cut: make a project's film from its stored clips, and publish it like any asset.

It costs nothing at a provider, so that it is no job of the ledger. What goes in decides its name in the store: the same
cut of the same clips is found there and made once.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from prefect_video._shield import run_in_thread, shielded
from prefect_video.assets import Asset
from prefect_video.downloads import prepare_private_folder
from prefect_video.errors import FilmError, InvalidInput
from prefect_video.film import Cut, StoredFilm, list_clips
from prefect_video.pipeline.steps.film_place import FilmPlace, digest_files, file_sha256
from prefect_video.pipeline.steps.sign_film import load_signer, sign_film
from prefect_video.pipeline.steps.store_identity import claim_store
from prefect_video.projects import Project
from prefect_video.session import Session, Settings
from prefect_video.storage import Store, fetch_anywhere

if TYPE_CHECKING:
    from prefect_video.film import ProducedFilm

logger = logging.getLogger(__name__)

OnProgress = Callable[[float], None]
"""Called, from a thread, with the share of a film that is done."""

_SPOOL_PREFIX: Final = ".film-"
_STALE_SECONDS: Final = 24 * 3600.0
_LOGGED_STEP: Final = 0.25


@contextmanager
def observe_films(observer: OnProgress) -> Iterator[None]:
    """Call an observer with the progress of every film of this process, for as long as the context lasts."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


_observers: list[OnProgress] = []


async def require_cut(project: Project, settings: Settings) -> None:
    """Check a project's cut, before anything is paid: files, texts, what this machine can encode, its signature.

    Raises:
        InvalidInput: It cannot be made; one line for each reason.
    """
    cut = project.cut
    if cut is None:
        return
    # Imported late: it loads PyAV, which a project without a cut does not need.
    from prefect_video.film import find_unusable

    problems = await asyncio.to_thread(lambda: list(find_unusable(cut, project.requested_seconds)))
    if problems:
        raise InvalidInput("\n".join(f"cut: {problem.message}" for problem in problems))
    await asyncio.to_thread(load_signer, settings, cut)


def needed_takes(project: Project, cut: Cut) -> list[str]:
    """Return the labels of the takes that a cut uses, each once, in the order in which they are first seen."""
    return list(dict.fromkeys(clip.label for clip in list_clips(cut, [shot.id for shot in project.shots])))


async def cut_film(
    session: Session, project: Project, clips: Mapping[str, Asset], *, on_progress: OnProgress | None = None
) -> tuple[StoredFilm, bool]:
    """Make the film of a project and publish it, unless the store holds it already.

    Args:
        session: The store.
        project: The project, with its cut.
        clips: The stored takes, by their labels.
        on_progress: Called from a thread with the share that is done.

    Returns:
        The film, and whether it was found in the store.

    Raises:
        FilmError: A clip is missing or damaged, or the film cannot be made; nothing was published.
        StoreError: The store cannot be read or written.
    """
    cut = project.cut
    if cut is None:
        raise FilmError(f"project {project.name!r} has no `cut:`")
    labels = needed_takes(project, cut)
    if not labels:
        raise FilmError("every shot of the cut was dropped: change its `order`")
    if absent := [label for label in labels if label not in clips]:
        raise FilmError(f"not stored yet: {', '.join(absent)}")
    used = {label: clips[label] for label in labels}
    shots = {shot.id: shot.continue_from for shot in project.shots}
    signer = await asyncio.to_thread(load_signer, session.settings, cut)
    digests = await asyncio.to_thread(digest_files, cut)
    place = FilmPlace(session.store, project.name, cut, shots, used, digests, signer=signer.digest if signer else None)
    if (stored := await place.find()) is not None:
        await place.point_to(stored)
        return stored, True
    await run_in_thread(_prepare_spool, session.settings.spool)
    with tempfile.TemporaryDirectory(prefix=_SPOOL_PREFIX, dir=session.settings.spool) as name:
        folder = Path(name)
        files = await _fetch_clips(session.store, used, folder)
        produced = await _produce(cut, shots, files, folder, _log_progress(project.name, on_progress))
        credentials = None
        if signer is not None:
            produced, credentials = await sign_film(signer, project.name, produced, used, files)
        await claim_store(session)
        film = await place.publish(produced, folder, credentials)
    return film, False


def _prepare_spool(spool: Path) -> None:
    """Make the spool ready, and remove what dead processes left in it more than a day ago."""
    prepare_private_folder(spool)
    for left in spool.glob(f"{_SPOOL_PREFIX}*"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


async def _fetch_clips(store: Store, clips: Mapping[str, Asset], folder: Path) -> dict[str, Path]:
    """Fetch the clips into a folder, each once, and compare their contents with their records."""
    files: dict[str, Path] = {}
    for number, (label, asset) in enumerate(clips.items()):
        path = folder / f"clip-{number}{PurePosixPath(asset.uri).suffix or '.mp4'}"
        await fetch_anywhere(store, asset.uri, path)
        if await run_in_thread(file_sha256, path) != asset.sha256:
            raise FilmError(f"clip {label!r}: {asset.uri} is damaged: see `prefect-video verify`")
        files[label] = path
    return files


class _Stopped(Exception):
    """Signal that a production was stopped by a cancellation."""


async def _produce(
    cut: Cut, shots: Mapping[str, str | None], files: Mapping[str, Path], folder: Path, progress: OnProgress
) -> ProducedFilm:
    """Make a film in a thread; when cancelled, stop it at its next frame and wait for its end."""
    from prefect_video.film import produce_film

    stopped = threading.Event()

    def check(share: float) -> None:
        if stopped.is_set():
            raise _Stopped
        progress(share)

    running = asyncio.ensure_future(asyncio.to_thread(produce_film, cut, shots, files, folder, check))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stopped.set()
        await shielded(asyncio.gather(running, return_exceptions=True))
        raise


def _log_progress(project: str, on_progress: OnProgress | None) -> OnProgress:
    """Return a callback that logs each quarter of the work, and calls all observers."""
    logged = 0.0

    def report(share: float) -> None:
        nonlocal logged
        if share >= logged + _LOGGED_STEP:
            logged = share
            logger.info("%s: film %.0f %% done", project, 100 * share)
        for observer in (*_observers, *filter(None, [on_progress])):
            observer(share)

    return report
