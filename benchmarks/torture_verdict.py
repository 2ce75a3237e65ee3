"""Verdict on a torture run: judged by the provider's usage and the stored files, not by the ledger."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from prefect_video.assets import Asset
from prefect_video.downloads import check_media, probe
from prefect_video.errors import InvalidVideo
from prefect_video.ledger import Job, Ledger, State
from prefect_video.shots import Shot
from prefect_video.storage import read_sidecar


@dataclass
class Shelf:
    """View of the store as a reader has it; every visible MP4 is checked once.

    Attributes:
        folder: Folder of the store.
        half_files: Descriptions of videos that are not whole or do not match their sidecar.
        assets: Assets of the others, by path.
    """

    folder: Path
    half_files: list[str] = field(default_factory=list)
    assets: dict[Path, Asset] = field(default_factory=dict)
    _seen: set[tuple[Path, int]] = field(default_factory=set)

    def inspect(self, shots: Mapping[str, Shot]) -> None:
        """Check the videos that are visible now and were not checked before.

        Args:
            shots: By prompt, the shots that the videos should match.
        """
        for path in sorted(self.folder.glob("*/*.mp4")):
            if path.name.startswith("."):
                continue
            version = (path, path.stat().st_mtime_ns)
            if version not in self._seen:
                self._seen.add(version)
                self._check(path, shots)

    def _check(self, path: Path, shots: Mapping[str, Shot]) -> None:
        content = path.read_bytes()
        sidecar = path.with_suffix(".json")
        asset = read_sidecar(sidecar.read_bytes()) if sidecar.exists() else None
        if asset is None or asset.bytes != len(content) or asset.sha256 != hashlib.sha256(content).hexdigest():
            self.half_files.append(f"{path}: does not match its sidecar")
            return
        self.assets[path] = asset
        try:
            check_media(probe(path), shots[asset.prompt])
        except InvalidVideo as error:
            self.half_files.append(f"{path}: {error}")


@dataclass(frozen=True)
class Cost:
    """Cost according to the ledger, in USD.

    Attributes:
        spent: Cost of generations that have ended.
        assumed: Part of `spent` that no provider has reported.
        held: What may have been paid besides, for held jobs.
        unpriced: Number of generations of unknown cost.
    """

    spent: Decimal
    assumed: Decimal
    held: Decimal
    unpriced: int

    def agrees_with(self, billed: Decimal) -> bool:
        """Return True if the provider's bill is compatible; with generations of unknown cost, any bill is."""
        return self.unpriced > 0 or self.spent - self.assumed <= billed <= self.spent + self.held

    def __str__(self) -> str:
        held = f" and ${self.held:f} held" if self.held else ""
        unpriced = f" and {self.unpriced} of unknown price" if self.unpriced else ""
        return f"${self.spent:f}{held}{unpriced}"


@dataclass(frozen=True)
class Verdict:
    """Figures of a run: those that must be zero, and those that they are computed from.

    `held` generations wait for a human. It is unknown whether they were paid, so they need not be stored.
    """

    submitted: int
    accepted: int
    billed: int
    expected: int
    held: int
    billed_twice: int
    not_billed: int
    billed_and_not_stored: int
    half_files: int
    stale_reservations: int
    leaked_keys: int
    provider_usd: Decimal
    ledger_cost: Cost

    @property
    def holds(self) -> bool:
        """True if every promise was kept."""
        broken = (
            self.billed_twice,
            self.not_billed,
            self.billed_and_not_stored,
            self.half_files,
            self.stale_reservations,
            self.leaked_keys,
        )
        return not any(broken) and self.ledger_cost.agrees_with(self.provider_usd)

    def __str__(self) -> str:
        return "\n".join(
            (
                f"  generations: {self.submitted} submits, {self.accepted} accepted, {self.billed} billed,"
                f" {self.expected} expected" + (f", {self.held} held" if self.held else ""),
                f"  billed twice:            {self.billed_twice}",
                f"  expected and not billed: {self.not_billed}",
                f"  billed and not stored:   {self.billed_and_not_stored}",
                f"  half files visible:      {self.half_files}",
                f"  stale reservations:      {self.stale_reservations}",
                f"  leaked keys:             {self.leaked_keys}",
                f"  cost: ${self.provider_usd:f} by the provider's usage, {self.ledger_cost} by the ledger",
            )
        )


def judge(
    usage: Mapping[str, Any], shelf: Shelf, expected: Mapping[str, int], ledger: str, *, may_hold: bool = False
) -> Verdict:
    """Compare the provider's usage with what was requested and what is stored.

    Args:
        usage: The provider's own account.
        shelf: The store.
        expected: Number of generations that should have been paid, by prompt.
        ledger: URL of the ledger, for its reservations.
        may_hold: True if unanswered submits may be held for a human, because the provider cannot reconcile.
    """
    billed = Counter({prompt: counts["billed"] for prompt, counts in usage["by_prompt"].items()})
    stored: dict[str, set[str]] = {}
    for asset in shelf.assets.values():
        stored.setdefault(asset.prompt, set()).add(asset.generation_id)
    unfinished, cost = asyncio.run(_read_ledger(ledger))
    held = Counter(job.shot.prompt for job in unfinished if may_hold and _is_held_submit(job))
    return Verdict(
        submitted=usage["submitted"],
        accepted=usage["accepted"],
        billed=usage["billed"],
        expected=sum(expected.values()),
        held=held.total(),
        billed_twice=sum(max(0, paid - expected.get(prompt, 0)) for prompt, paid in billed.items()),
        not_billed=sum(max(0, count - billed[prompt] - held[prompt]) for prompt, count in expected.items()),
        billed_and_not_stored=sum(
            max(0, paid - len(stored.get(prompt, ())) - held[prompt]) for prompt, paid in billed.items()
        ),
        half_files=len(shelf.half_files),
        stale_reservations=len(unfinished) - held.total(),
        leaked_keys=usage["leaked_keys"],
        provider_usd=Decimal(usage["billed_usd"]),
        ledger_cost=cost,
    )


def _is_held_submit(job: Job) -> bool:
    return job.state is State.UNKNOWN and job.hold_reason is not None


async def _read_ledger(url: str) -> tuple[list[Job], Cost]:
    async with await Ledger.open(url) as ledger:
        unfinished = await ledger.jobs.unfinished()
        lines = await ledger.spend.report(by="project")
    spent = sum((line.spent_usd for line in lines), Decimal(0))
    reserved = sum((line.reserved_usd for line in lines), Decimal(0))
    assumed = sum((line.assumed_usd for line in lines), Decimal(0))
    return unfinished, Cost(spent=spent, assumed=assumed, held=reserved, unpriced=sum(line.unpriced for line in lines))
