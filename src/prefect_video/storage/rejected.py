"""Rejected videos: files that were paid for and are not as requested, kept beside the videos until a human decides.

A rejected video lies at the place of its video, with `.rejected.mp4` in place of `.mp4`, and `.rejected.json` beside it
says why. Readers that look for videos by their sidecars do not find it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from prefect_video._shield import run_in_thread
from prefect_video.downloads import Downloaded
from prefect_video.errors import StoreError
from prefect_video.storage.base import NewFile, Store
from prefect_video.storage.publish import AssetDraft, file_sha256


def rejected_paths(video: PurePosixPath) -> tuple[PurePosixPath, PurePosixPath]:
    """Return the paths of the rejected video at a video's place, and of the record of its reasons."""
    return video.with_suffix(".rejected.mp4"), video.with_suffix(".rejected.json")


async def keep_rejected(store: Store, video: Downloaded, reasons: Sequence[str], *, draft: AssetDraft) -> str:
    """Store a downloaded file that is not as requested, with the reasons; an earlier one of the job is replaced.

    Args:
        store: The store.
        video: The file.
        reasons: Why it was rejected.
        draft: The record that its video would have.

    Returns:
        The file's URI.

    Raises:
        StoreError: The store cannot be written.
    """
    file, record = rejected_paths(draft.path)
    described = NewFile(_write_record(video, reasons, draft), record, "application/json")
    _, uri = await store.publish_all([described, NewFile(video.path, file, "video/mp4", video.sha256)])
    return uri


async def find_rejected(store: Store, draft: AssetDraft) -> tuple[str, tuple[str, ...]] | None:
    """Return the URI of the rejected video of a generation and the reasons; None where none is kept.

    Raises:
        StoreError: The store cannot be read.
    """
    file, record = rejected_paths(draft.path)
    described = await _read_record(store, record, draft)
    if described is None or await store.size(store.uri(file)) is None:
        return None
    return store.uri(file), described.reasons


async def fetch_rejected(store: Store, draft: AssetDraft, folder: Path) -> Downloaded:
    """Fetch a rejected video to a local folder, with its reasons as notes.

    Raises:
        StoreError: It is not in the store, or is damaged there.
    """
    file, record = rejected_paths(draft.path)
    uri, path = store.uri(file), folder / "rejected.mp4"
    described = await _read_record(store, record, draft)
    if described is None:
        raise StoreError(f"{uri} is not in the store, or nothing says that it is of generation {draft.generation_id}")
    if await store.size(uri) is None:
        raise StoreError(f"{uri} is not in the store")
    await store.fetch(uri, path)
    if await run_in_thread(file_sha256, path) != described.sha256:
        raise StoreError(f"{uri} is damaged: it is not the file that was rejected")
    return Downloaded(path, described.sha256, path.stat().st_size, notes=described.reasons)


@dataclass(frozen=True)
class KeptVideo:
    """A rejected video in a store, described by its record.

    Attributes:
        uri: URI of the video.
        draft: The record that its video would have.
        reasons: Why it was rejected.
        kept_at: When it was stored.
    """

    uri: str
    draft: AssetDraft
    reasons: tuple[str, ...]
    kept_at: datetime


async def read_kept(store: Store, record_uri: str) -> KeptVideo | None:
    """Read the record of a rejected video; None where it cannot be read, or names no ledger.

    Raises:
        StoreError: The store cannot be read.
    """
    try:
        described: dict[str, Any] = json.loads(await store.read_bytes(record_uri))
        draft = AssetDraft.model_validate(
            {name: described[name] for name in AssetDraft.model_fields if name in described}
        )
        kept_at = datetime.fromisoformat(described["kept_at"])
        reasons = tuple(map(str, described["reasons"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if draft.ledger is None or kept_at.tzinfo is None:
        return None
    return KeptVideo(f"{record_uri.removesuffix('.json')}.mp4", draft, reasons, kept_at)


async def delete_rejected(store: Store, draft: AssetDraft) -> None:
    """Delete a rejected video and its record, once it has been accepted and stored."""
    for path in rejected_paths(draft.path):
        await store.delete(store.uri(path))


@dataclass(frozen=True)
class _Rejected:
    sha256: str
    reasons: tuple[str, ...]


async def _read_record(store: Store, record: PurePosixPath, draft: AssetDraft) -> _Rejected | None:
    """Read why a video was rejected; None where nothing says so of this generation."""
    try:
        described: dict[str, Any] = json.loads(await store.read_bytes(store.uri(record)))
        # Of a job whose generation was lost and that has got another one, the earlier one's may be there.
        if described["generation_id"] != draft.generation_id:
            return None
        return _Rejected(str(described["sha256"]), tuple(map(str, described["reasons"])))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_record(video: Downloaded, reasons: Sequence[str], draft: AssetDraft) -> bytes:
    record = {
        **draft.model_dump(mode="json", exclude_none=True),
        "reasons": list(reasons),
        "sha256": video.sha256,
        "bytes": video.bytes,
        "kept_at": datetime.now(UTC).isoformat(),
    }
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
