"""Labels of a submit: where a provider echoes them, a ledger can restore a job that it has lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from prefect_video.ledger import Job
from prefect_video.shots import Shot

ENVIRONMENT_LABEL: Final = "ledger_environment"
"""Key of the label; users have labels of their own that are called `environment`."""

_FINGERPRINT: Final = re.compile(r"v\d+:[0-9a-f]{64}")


@dataclass(frozen=True)
class Labels:
    """The labels in a generation's metadata, which identify the job that it was sent for.

    Attributes:
        job: The job's id, which is the idempotency key.
        ledger: Identity of the ledger; None for generations sent by a version without it.
        fingerprint: The job's fingerprint, where the label is one.
        take: The job's take.
        environment: The job's environment, in which alone it is found again; None where the label is missing.
        project: The job's project.
        shot_id: The shot's id.
    """

    job: str
    ledger: str | None
    fingerprint: str | None
    take: int
    environment: str | None
    project: str | None
    shot_id: str | None

    @classmethod
    def parse(cls, metadata: Mapping[str, str]) -> Self | None:
        """Read the metadata that a provider echoes; None where it names no idempotency key."""
        if not (job := metadata.get("idempotency_key")):
            return None
        fingerprint, take = metadata.get("fingerprint", ""), metadata.get("take", "")
        return cls(
            job=job,
            ledger=metadata.get("ledger_id") or None,
            fingerprint=fingerprint if _FINGERPRINT.fullmatch(fingerprint) else None,
            take=int(take) if re.fullmatch(r"[1-9][0-9]?", take) else 1,
            environment=metadata.get(ENVIRONMENT_LABEL) or None,
            project=metadata.get("project_id") or None,
            shot_id=metadata.get("shot_number") or None,
        )


def add_labels(job: Job, ledger_id: str) -> Shot:
    """Label a job's shot with ledger, environment, fingerprint and take; the provider adds key, project and shot."""
    labels = {
        "ledger_id": ledger_id,
        ENVIRONMENT_LABEL: job.environment,
        "fingerprint": job.fingerprint,
        "take": str(job.take),
    }
    return job.shot.model_copy(update={"metadata": {**job.shot.metadata, **labels}})
