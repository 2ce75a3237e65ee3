"""Prefect's own cache for whole shots, keyed on the prompt hash.

A cache key that cannot be computed makes Prefect run the task uncached; that costs a look into the ledger, never a
second payment.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

from prefect_video.errors import VideoError
from prefect_video.fingerprints import fingerprint
from prefect_video.shots import as_shot
from prefect_video.tasks.studios import StudioRef

logger = logging.getLogger(__name__)


@dataclass
class FingerprintPolicy(CachePolicy):
    """Caches a generated video under its fingerprint, its project and the studio that made it."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """The cache key, or None to run uncached; never raises, as Prefect would pay for that with a rerun."""
        try:
            return _key(inputs)
        except (VideoError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            logger.warning("no cache key for this shot, asking the ledger instead: %s", error)
            return None


FINGERPRINT = FingerprintPolicy()


def _key(inputs: dict[str, Any]) -> str | None:
    shot = as_shot(inputs["shot"])
    if inputs.get("refresh"):
        return None
    studio = StudioRef.of(inputs.get("provider"), inputs.get("store"), inputs.get("ledger"))
    digests = tuple(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in shot.references)
    hashed = fingerprint(shot, provider=studio.provider, reference_digests=digests)
    where = hashlib.sha256(f"{studio.store}\n{studio.ledger}\n{inputs.get('project')}\n{shot.id}".encode())
    return f"prefect-video-{hashed.replace(':', '-')}-{where.hexdigest()[:16]}"
