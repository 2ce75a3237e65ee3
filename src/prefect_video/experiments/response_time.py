"""Experiment: how long a generation takes by the length of its video."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_video.experiments.charts import Chart, Series
from prefect_video.experiments.experiment import Experiment, Measurement, Seconds, describe_failures, find_jobs
from prefect_video.pipeline import run_project
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.shots import Shot

_DURATIONS: Final = (5, 10, 15, 20, 30)


class ResponseTime(Experiment):
    """Time of generations against the length of their videos.

    Attributes:
        durations: Lengths in seconds; empty for those that the account offers, of 5, 10, 15, 20 and 30.
        takes: Videos of each length.
    """

    name: ClassVar[str] = "response-time"

    durations: tuple[Seconds, ...] = Field(default=(), max_length=20)
    takes: int = Field(default=1, ge=1, le=10, strict=True)

    def build_shots(self, session: Session) -> tuple[Shot, ...]:
        durations = self.durations or self.choose_seconds(session, _DURATIONS)
        return tuple(
            self.build_shot(session, f"{seconds}-seconds", duration=seconds, takes=self.takes)
            for seconds in sorted(set(durations))
        )


class TimedVideo(BaseModel):
    """One generation and its time.

    Attributes:
        job_id: Its job.
        duration_seconds: Length of the requested video.
        seconds: Seconds from its acceptance to its end.
    """

    model_config = ConfigDict(frozen=True)

    job_id: str
    duration_seconds: int
    seconds: float

    @property
    def ratio(self) -> float:
        """Seconds of work for one second of video."""
        return self.seconds / self.duration_seconds


class ResponseTimeMeasurement(Measurement):
    """Times of generations, and the line that fits them best.

    Attributes:
        videos: The generations, the shortest video first.
        expected_ratio: Seconds of work for one second of video, lowest and highest, as the provider is known.
    """

    experiment: Literal["response-time"] = "response-time"
    videos: tuple[TimedVideo, ...]
    expected_ratio: tuple[float, float]

    @property
    def ratio(self) -> float | None:
        """Seconds of work for one second of video, over all of them; None without any."""
        length = sum(video.duration_seconds for video in self.videos)
        return sum(video.seconds for video in self.videos) / length if length else None

    @property
    def fit(self) -> tuple[float, float] | None:
        """Seconds for each second of video, and seconds that do not depend on it; None for fewer than two lengths."""
        lengths = [float(video.duration_seconds) for video in self.videos]
        if len(set(lengths)) < 2:
            return None
        line = statistics.linear_regression(lengths, [video.seconds for video in self.videos])
        return line.slope, line.intercept

    @property
    def summary(self) -> str:
        if self.ratio is None:
            return "no generation has ended, so that nothing was measured"
        low, high = self.expected_ratio
        text = f"{self.ratio:.1f} s of work for a second of video (expected: {low:g} to {high:g})"
        if self.fit is not None:
            text += f"; by length: {self.fit[0]:.1f} s for each second and {self.fit[1]:.1f} s besides"
        return text

    def table(self) -> list[dict[str, str]]:
        return [
            {
                "length": f"{video.duration_seconds} s",
                "took": f"{video.seconds:.1f} s",
                "ratio": f"{video.ratio:.1f}x",
                "job": video.job_id,
            }
            for video in self.videos
        ]

    def chart(self) -> Chart:
        xs = tuple(float(video.duration_seconds) for video in self.videos)
        series = [Series("generations", xs, tuple(video.seconds for video in self.videos))]
        if self.fit is not None:
            slope, intercept = self.fit
            ends = (min(xs), max(xs))
            label = f"{slope:.1f} s a second of video"
            series.append(Series(label, ends, tuple(intercept + slope * x for x in ends), "line"))
        title = f"{self.provider} {self.model}: time by length"
        return Chart(title, "length of the video (s)", "time of the generation (s)", tuple(series))


async def measure_response_time(
    session: Session, experiment: ResponseTime, project: Project, *, refresh: bool, flow_run_id: str
) -> ResponseTimeMeasurement:
    """Buy the videos that are missing, and read the times of all.

    Raises:
        VideoError: The run was refused as a whole; nothing was sent.
    """
    report = await run_project(session, project, refresh=refresh, flow_run_id=flow_run_id)
    jobs = await find_jobs(session, project)
    videos = [
        TimedVideo(job_id=job.id, duration_seconds=job.shot.duration, seconds=job.seconds_taken)
        for job in jobs
        if job.seconds_taken and job.asset is not None
    ]
    untimed = [
        f"{job.shot.id}: its end was not seen" for job in jobs if job.asset is not None and not job.seconds_taken
    ]
    return ResponseTimeMeasurement(
        project=project.name,
        provider=session.provider.name,
        model=experiment.model,
        digest=experiment.digest(session),
        measured_at=datetime.now(UTC),
        cost_usd=report.cost_usd,
        failures=(*describe_failures(project, jobs), *untimed),
        videos=tuple(sorted(videos, key=lambda video: video.duration_seconds)),
        expected_ratio=session.provider.capabilities.seconds_per_video_second,
    )
