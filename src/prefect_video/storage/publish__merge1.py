"""The JSON file beside every stored video that says what it is, where it came from and which ledger paid for it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from prefect_video.assets import Asset
from prefect_video.generations import Cost
from prefect_video.shots import Shot

_NAME: Final = re.compile(r"\.(?P<digest>[0-9a-f]{10})\.(?P<job>[^.]{1,6})\.json$")
_COST: Final[TypeAdapter[Decimal | None]] = TypeAdapter(Cost)
DIGEST_LENGTH: Final = 10
"""Hex digits of the fingerprint in a file's name."""
JOB_LENGTH: Final = 6
"""Last characters of the job's id in a file's name."""


class LedgerReference(BaseModel):
    """The row that a video belongs to, with what a ledger that has lost the row needs to make it again.

    Attributes:
        id: The ledger's identity.
        job: The row's id.
        project: The row's project; a copy in another project's folder belongs to the same row.
        environment: As in the row.
        account: As in the row.
        credentials: As in the row: a name, never a key.
        shot: As in the row.
        reserved_usd: What was reserved; counts as spent where the provider has not told the cost.
        reserved_at: When the row was made; budgets of a month go by it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    job: str
    project: str
    environment: str
    account: str
    credentials: str
    shot: Shot
    reserved_usd: Cost = None
    reserved_at: AwareDatetime


@dataclass(frozen=True)
class Sidecar:
    """A sidecar's content.

    Attributes:
        asset: The stored video.
        ledger: Which ledger paid for it; None where it was written by a version that did not say.
    """

    asset: Asset
    ledger: LedgerReference | None = None

    @property
    def cost_usd(self) -> Decimal | None:
        """What the provider charged; None where it did not say, or the sidecar says what no video can cost."""
        return _COST.validate_python(self.asset.cost_usd)


@dataclass(frozen=True)
class SidecarName:
    """What the name of a sidecar tells without reading it.

    Attributes:
        digest: The first digits of the fingerprint.
        job: The last characters of the job's id.
    """

    digest: str
    job: str

    @classmethod
    def parse(cls, uri: str) -> Self | None:
        """Read a file's URI; None when it is not that of a sidecar."""
        found = _NAME.search(uri)
        return cls(found["digest"], found["job"]) if found else None

    @classmethod
    def of(cls, fingerprint: str, job_id: str) -> Self:
        """Name what a row's files are called."""
        return cls(fingerprint_digest(fingerprint), job_id[-JOB_LENGTH:])


def fingerprint_digest(fingerprint: str) -> str:
    """Cut a fingerprint to the digits that a file's name holds."""
    return fingerprint.rpartition(":")[2][:DIGEST_LENGTH]


def sidecar_path(video: PurePosixPath) -> PurePosixPath:
    """Where the sidecar of a video lies."""
    return video.with_suffix(".json")


def thumbnail_path(video: PurePosixPath) -> PurePosixPath:
    """Where the still picture of a video lies."""
    return video.with_suffix(".jpg")


def write_sidecar(asset: Asset, ledger: LedgerReference | None = None) -> bytes:
    """The sidecar's content: the asset's record, and its ledger's, as indented UTF-8 JSON with sorted keys."""
    record = asset.model_dump(mode="json")
    if ledger is not None:
        record["ledger"] = ledger.model_dump(mode="json", exclude_none=True)
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_sidecar(content: bytes) -> Asset | None:
    """The asset that a sidecar describes; None when it is not one of ours."""
    try:
        return Asset.model_validate_json(content)
    except ValidationError:
        return None


def parse_sidecar(content: bytes) -> Sidecar | None:
    """Read a whole sidecar; None when it is not one of ours, or what it says of its ledger cannot be read."""
    asset = read_sidecar(content)
    if asset is None:
        return None
    try:
        reference = json.loads(content).get("ledger")
        return Sidecar(asset, None if reference is None else LedgerReference.model_validate(reference))
    except (ValidationError, RecursionError):
        return None
