"""Stored matches: the stored videos that the searches of a run have found for its requests."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_video.assets import Asset
from prefect_video.ledger import ClaimOutcome, ClaimResult, JobRequest, StoredMatch


class StoredMatches:
    """The latest match of each request; two shots of one fingerprint may have different ones."""

    def __init__(self) -> None:
        self._matches: dict[tuple[str, str], StoredMatch] = {}

    def update(self, job_requests: Sequence[JobRequest], matches: Sequence[StoredMatch | None]) -> None:
        """Put what a search has found in place of what earlier ones have, whose files may be gone since."""
        for job_request, match in zip(job_requests, matches, strict=True):
            self._matches.pop(_key(job_request), None)
            if match is not None:
                self._matches[_key(job_request)] = match

    def find_asset(self, job_request: JobRequest) -> Asset | None:
        """Return the stored video of a request; None where none was found."""
        match = self._matches.get(_key(job_request))
        return match and match.job.asset

    def answer(self, job_request: JobRequest) -> ClaimResult | None:
        """Return what a claim of a request would return; None where only a claim can say it."""
        match = self._matches.get(_key(job_request))
        # A claim frees the reservation that it uses up, too.
        if match is None or match.is_made_anew or job_request.reservation is not None:
            return None
        return ClaimResult(kind=ClaimOutcome.STORED, request=job_request, job=match.job)


def _key(job_request: JobRequest) -> tuple[str, str]:
    return job_request.fingerprint, job_request.shot.id
