"""Manifests of projects that were never made: every status, takes, dependencies, a film."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from prefect_video.gallery import FilmRecord, Manifest, ShotRecord, SpendRecord, TakeRecord, TakeStatus, VideoFile

NOON: Final = datetime(2026, 11, 26, 12, tzinfo=UTC)


def build_video(name: str, **changes: Any) -> VideoFile:
    """Build the record of a stored video."""
    values = {
        "path": f"{name}.mp4",
        "thumbnail": f"{name}.jpg",
        "sha256": f"{len(name):064x}",
        "bytes": 400_000,
        "duration_seconds": 4.0,
        "width": 1280,
        "height": 720,
        "stored_at": NOON,
    }
    return VideoFile.model_validate({**values, **changes})


def build_take(name: str, status: TakeStatus = "stored", **changes: Any) -> TakeRecord:
    """Build the record of a take, with a video where it is stored."""
    values = {
        "status": status,
        "prompt": f"{name}, seen from far",
        "model": "sora-2",
        "provider": "sora",
        "attempts": 1,
        "cost_usd": Decimal("0.40"),
        "sent_at": NOON,
        "completed_at": NOON + timedelta(seconds=30),
        "video": build_video(name) if status == "stored" else None,
    }
    return TakeRecord.model_validate({**values, **changes})


def build_shot(name: str, *takes: TakeRecord, **changes: Any) -> ShotRecord:
    """Build the record of a shot; of one stored take where none is given."""
    takes = takes or (build_take(name),)
    values = {"id": name, "prompt": takes[0].prompt, "takes": takes, **changes}
    return ShotRecord.model_validate(values)


def build_manifest(*shots: ShotRecord, film: FilmRecord | None = None, **spend: Any) -> Manifest:
    """Build a manifest of shots."""
    return Manifest(
        project="coffee-ad",
        made_at=NOON,
        generator="prefect-video",
        ledger="ledger-1",
        spend=SpendRecord.model_validate(spend),
        film=film,
        shots=shots,
    )


def build_large_manifest(number: int) -> Manifest:
    """Build a manifest of many shots of two providers, each after the one before it but every tenth."""
    shots = []
    for index in range(number):
        name = f"shot-{index:03d}"
        status: TakeStatus = "failed" if index % 25 == 24 else "stored"
        provider = "fal" if index % 3 == 0 else "sora"
        error = "the provider could not make it" if status == "failed" else None
        after = (f"shot-{index - 1:03d}",) if index % 10 else ()
        shots.append(build_shot(name, build_take(name, status, provider=provider, error=error), depends_on=after))
    return build_manifest(*shots, spent_usd=Decimal(100), budget_usd=Decimal(150))
