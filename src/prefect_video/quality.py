"""Quality of a video: what is measured after its download, what counts as a finding, and what follows from one."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_video.inputs import Input, Number

FindingKind = Literal["black", "frozen", "silent", "abrupt_end", "length", "size"]
"""Kinds of findings; `length` and `size` are deviations from the request."""

FindingPolicy = Literal["accept", "flag", "retake"]
"""Consequence of a finding: ignore it, store the video with it on record, or keep the video as rejected and buy another
take of the shot within the attempts and the budget."""

_SILENT_FACTOR: Final = 0.5
_ABRUPT_FACTOR: Final = 0.9
_SIZE_FACTOR: Final = 0.8


def _policy(default: FindingPolicy, description: str) -> Any:
    return Field(default=default, description=f"{description}: `accept`, `flag` or `retake`")


class QualityPolicy(Input):
    """Quality gates of a project: thresholds, and the consequence of each kind of finding.

    A video is measured only where a project has this section.
    """

    black: FindingPolicy = _policy("flag", "Consequence of a picture that is black for too long")
    frozen: FindingPolicy = _policy("flag", "Consequence of a picture that stands still for too long")
    silent: FindingPolicy = _policy("flag", "Consequence of silence where the shot asks for sound")
    abrupt_end: FindingPolicy = _policy(
        "accept", "Consequence of sound that is cut off at full level, or of a picture that ends before its stated end"
    )
    length: FindingPolicy | None = Field(
        default=None,
        description="Consequence of another length than requested: `accept`, `flag` or `retake`; unset: as"
        " `on_mismatch` says",
    )
    size: FindingPolicy | None = Field(
        default=None,
        description="Consequence of another size than requested: `accept`, `flag` or `retake`; unset: as `on_mismatch`"
        " says",
    )
    black_share: Number = Field(
        default=0.5, gt=0, le=1, description="Share of the length that is black from which a video counts as black"
    )
    frozen_seconds: Number = Field(
        default=2.0,
        gt=0,
        le=3600,
        description="Length of the longest still picture from which a video counts as frozen; a shorter video does when"
        " it never moves",
    )
    silence_db: Number = Field(
        default=-50.0, ge=-120, le=0, description="Level in dB below full scale under which sound counts as silence"
    )
    silent_share: Number = Field(
        default=0.9, gt=0, le=1, description="Share of the length that is silence from which a video counts as silent"
    )
    abrupt_end_db: Number = Field(
        default=-40.0,
        ge=-120,
        le=0,
        description="Level in dB below full scale above which sound that does not fade counts as cut off at the end",
    )
    abrupt_end_seconds: Number = Field(
        default=0.25, ge=0, le=3600, description="Missing end of the picture beyond which the end counts as abrupt"
    )
    length_tolerance_seconds: Number | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="Accepted deviation from the requested length; unset: 0.5 s, or 5 % of it where that is more",
    )
    size_tolerance_share: Number | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Accepted deviation from the requested width and height, as a share of each; unset: 16 pixels, or"
        " 4 % where that is more",
    )

    @property
    def measures_content(self) -> bool:
        """True where picture or sound must be decoded: length and size are known without."""
        return any(policy != "accept" for policy in (self.black, self.frozen, self.silent, self.abrupt_end))

    def policy_of(self, kind: FindingKind) -> FindingPolicy | None:
        """Return the consequence of a kind of finding; None where `on_mismatch` decides."""
        policies: dict[FindingKind, FindingPolicy | None] = {
            "black": self.black,
            "frozen": self.frozen,
            "silent": self.silent,
            "abrupt_end": self.abrupt_end,
            "length": self.length,
            "size": self.size,
        }
        return policies[kind]


class _Record(BaseModel):
    # Read from sidecars, which a later version may have written.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Finding(_Record):
    """One respect in which a video fails its quality gates.

    Attributes:
        kind: The kind.
        detail: The measured value, in words.
        policy: The consequence: `flag` or `retake`.
    """

    kind: FindingKind
    detail: str
    policy: FindingPolicy


class Measures(_Record):
    """Measured content of a video.

    Attributes:
        black_share: Share of the length that is black, 0 to 1.
        frozen_seconds: Length of the longest stretch in which the picture stands still and is not black.
        frozen_share: Share of the length in such stretches of half a second and more, 0 to 1.
        silent_share: Share of the sound below the level of silence, 0 to 1; None where there is no sound track.
        abrupt_end: Why the end counts as abrupt; None where it does not.
    """

    black_share: float = 0.0
    frozen_seconds: float = 0.0
    frozen_share: float = 0.0
    silent_share: float | None = None
    abrupt_end: str | None = None


class Quality(_Record):
    """Result of a video's quality gates.

    Attributes:
        score: Quality from 0 to 1, to compare takes of one shot.
        findings: The respects in which it fails.
        measures: The measured content; None where only length and size were compared.
    """

    score: float
    findings: tuple[Finding, ...] = ()
    measures: Measures | None = None

    @property
    def retake_reasons(self) -> tuple[str, ...]:
        """The findings for which another take is to be bought."""
        return tuple(finding.detail for finding in self.findings if finding.policy == "retake")

    @property
    def summary(self) -> str:
        """All findings on one line; empty where there is none."""
        return "; ".join(finding.detail for finding in self.findings)


def score_quality(
    measures: Measures, *, wants_audio: bool, length_error: float = 0.0, is_size_right: bool = True
) -> float:
    """Compute the quality of a video, from 0 (nothing to be seen) to 1 (no fault found), to compare takes of one shot.

    Args:
        measures: Its measured content.
        wants_audio: The shot asks for sound.
        length_error: Deviation from the requested length as a share of it.
        is_size_right: It has the requested size.
    """
    score = max(0.0, 1.0 - measures.black_share - measures.frozen_share)
    score *= max(0.0, 1.0 - abs(length_error))
    if wants_audio:
        silent = 1.0 if measures.silent_share is None else measures.silent_share
        score *= 1.0 - (1.0 - _SILENT_FACTOR) * silent
    if measures.abrupt_end:
        score *= _ABRUPT_FACTOR
    return round(score if is_size_right else score * _SIZE_FACTOR, 4)
