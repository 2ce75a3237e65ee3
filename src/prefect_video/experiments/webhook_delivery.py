"""Experiment: how many webhooks of a provider arrive, how late, and how often twice."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from prefect_video._counted import counted
from prefect_video.errors import InvalidInput
from prefect_video.experiments.charts import Chart, Series
from prefect_video.experiments.delivery_log import DeliveryLog, open_receiver
from prefect_video.experiments.experiment import Experiment, Measurement, describe_failures, find_jobs, sum_paid
from prefect_video.ledger import Job
from prefect_video.pipeline import run_project
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.shots import Shot

_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class WebhookDelivery(Experiment):
    """Delivery and delay of webhooks.

    Attributes:
        count: Generations that are bought, each of which is to be announced once.
        url: The public https address that leads here; None for a provider on this machine, such as the emulator.
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        grace_seconds: How long after the last end a webhook is waited for.
    """

    name: ClassVar[str] = "webhooks"
    incidental: ClassVar[frozenset[str]] = Experiment.incidental | {"url", "host", "port", "grace_seconds"}

    count: int = Field(default=10, ge=1, le=500, strict=True)
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^/?#@]+[^?#]*$", max_length=2_000)] | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8125, ge=0, le=65_535)
    grace_seconds: float = Field(default=60.0, ge=0)

    def build_shots(self, session: Session) -> tuple[Shot, ...]:
        shortest = self.choose_seconds(session, (5,))[0]
        return tuple(
            self.build_shot(session, f"webhook-{number:03d}", f"Webhook test {number}", duration=shortest)
            for number in range(1, self.count + 1)
        )


class Announcement(BaseModel):
    """The webhooks of one generation.

    Attributes:
        job_id: Its job.
        deliveries: How often its end was announced, repetitions included.
        delay_seconds: Time from its end to the first of them; None where none came.
    """

    model_config = ConfigDict(frozen=True)

    job_id: str
    deliveries: int
    delay_seconds: float | None


class WebhookMeasurement(Measurement):
    """Delivery and delay of webhooks.

    Attributes:
        announcements: One for each generation that this run has bought and that has ended.
        unverified: Deliveries that were refused.
        refusal: Why the last of them was, such as a signature that does not fit.
    """

    experiment: Literal["webhooks"] = "webhooks"
    announcements: tuple[Announcement, ...]
    unverified: int = 0
    refusal: str | None = None

    @property
    def delays(self) -> list[float]:
        """The delays of the generations that were announced, in seconds, the shortest first."""
        return sorted(item.delay_seconds for item in self.announcements if item.delay_seconds is not None)

    @property
    def lost(self) -> int:
        """Generations that were not announced."""
        return sum(item.deliveries == 0 for item in self.announcements)

    @property
    def duplicates(self) -> int:
        """Deliveries beyond the first of each generation."""
        return sum(max(0, item.deliveries - 1) for item in self.announcements)

    def percentile(self, percent: int) -> float | None:
        """Return a percentile of the delays in seconds; None where none came."""
        delays = self.delays
        if len(delays) < 2:
            return delays[0] if delays else None
        return statistics.quantiles(delays, n=100, method="inclusive")[percent - 1]

    @property
    def summary(self) -> str:
        ended = len(self.announcements)
        if not ended:
            return "no generation has ended, so that nothing was measured"
        came = ended - self.lost
        text = f"{came} of {ended} webhooks came ({100 * came / ended:.0f} %), {self.duplicates} came again"
        if (half := self.percentile(50)) is not None:
            text += f"; delay p50 {half:.2f} s, p95 {self.percentile(95):.2f} s"
        return text

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"refused {counted(self.unverified, 'webhook')}: {self.refusal}",) if self.unverified else ()

    def table(self) -> list[dict[str, str]]:
        def seconds(value: float | None) -> str:
            return "–" if value is None else f"{value:.2f} s"

        return [
            {
                "generations": str(len(self.announcements)),
                "announced": str(len(self.announcements) - self.lost),
                "lost": str(self.lost),
                "duplicates": str(self.duplicates),
                "p50": seconds(self.percentile(50)),
                "p95": seconds(self.percentile(95)),
                "longest": seconds(max(self.delays, default=None)),
            }
        ]

    def chart(self) -> Chart:
        shares = tuple(100 * (number + 1) / len(self.announcements) for number in range(len(self.delays)))
        series = (
            Series("announced so far", (0.0, *self.delays), (0.0, *shares), "line"),
            Series("webhooks", tuple(self.delays), shares),
        )
        title = f"{self.provider} {self.model}: webhooks after the end of the generation"
        return Chart(title, "delay (s)", "generations announced (%)", series, (100.0, "all"))


async def measure_webhooks(
    session: Session, experiment: WebhookDelivery, project: Project, *, refresh: bool, flow_run_id: str
) -> WebhookMeasurement:
    """Buy generations whose ends are announced here, wait for all, and compare the ends with the announcements.

    Raises:
        InvalidInput: The provider cannot reach this machine by the address.
        VideoError: The run was refused as a whole, or the address cannot be listened on; nothing was sent.
    """
    _require_reachable(session, experiment)
    began = datetime.now(UTC)
    async with open_receiver(session.provider, experiment.host, experiment.port) as (log, port):
        host = f"[{experiment.host}]" if ":" in experiment.host else experiment.host
        address = (experiment.url or f"http://{host}:{port}").rstrip("/")
        with _announced_at(session, address):
            await run_project(session, project, wait=False, refresh=refresh, flow_run_id=flow_run_id)
        # Without an address a run polls as often as it always does, and so sees the ends by itself.
        await run_project(session, project, flow_run_id=flow_run_id)
        jobs = await find_jobs(session, project)
        bought = [job for job in jobs if job.sent_at is not None and job.sent_at >= began and job.generation_id]
        ended = [job for job in bought if job.completed_at is not None]
        await _wait_for_deliveries(log, ended, experiment.grace_seconds)
    missed = len(jobs) - len(bought) - sum(job.generation_id is None for job in jobs)
    earlier = f"{counted(missed, 'generation')} of an earlier run, whose webhooks are past: --refresh buys new ones"
    return WebhookMeasurement(
        project=project.name,
        provider=session.provider.name,
        model=experiment.model,
        digest=experiment.digest(session),
        measured_at=datetime.now(UTC),
        cost_usd=sum_paid(jobs, began),
        failures=(*describe_failures(project, jobs), *((earlier,) if missed else ())),
        announcements=tuple(_build_announcement(job, log) for job in ended),
        unverified=log.unverified,
        refusal=log.refusal,
    )


@contextmanager
def _announced_at(session: Session, address: str) -> Iterator[None]:
    """Have the ends of the generations that are sent announced at an address."""
    before = session.settings
    session.settings = before.model_copy(update={"webhook_url": f"{address}/webhook/{{job_id}}"})
    try:
        yield
    finally:
        session.settings = before


def _require_reachable(session: Session, experiment: WebhookDelivery) -> None:
    """Refuse an experiment in which no webhook could ever come.

    Raises:
        InvalidInput: The message says what to give.
    """
    if experiment.url is not None:
        return
    if not session.provider.capabilities.supports_webhook_url:
        raise InvalidInput(
            f"{session.account_name}: its webhooks go to an address that is registered at the provider; register"
            " one that leads here, and give it with --url"
        )
    if not _is_local(urlsplit(session.provider.account.base_url).hostname or ""):
        raise InvalidInput(
            f"{session.account_name} cannot reach this machine: give the public https address that leads to"
            f" {experiment.host}:{experiment.port} with --url, for instance that of a tunnel"
        )


def _is_local(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host in _LOCAL_NAMES


async def _wait_for_deliveries(log: DeliveryLog, ended: Sequence[Job], grace_seconds: float) -> None:
    """Wait until each generation was announced, at most as long as the experiment grants."""
    until = time.monotonic() + grace_seconds
    while any(not log.of_generation(job.generation_id) for job in ended):
        log.changed.clear()
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await log.changed.wait()
        except TimeoutError:
            return


def _build_announcement(job: Job, log: DeliveryLog) -> Announcement:
    deliveries = log.of_generation(job.generation_id)
    if not deliveries:
        return Announcement(job_id=job.id, deliveries=0, delay_seconds=None)
    first = min(delivery.received_at for delivery in deliveries)
    # Polling sees an end a little late: a webhook that came before shows that it was then.
    ended = min(first, _end_of(job) or first)
    return Announcement(
        job_id=job.id, deliveries=len(deliveries), delay_seconds=max(0.0, (first - ended).total_seconds())
    )


def _end_of(job: Job) -> datetime | None:
    if job.submitted_at is not None and job.seconds_taken:
        return job.submitted_at + timedelta(seconds=job.seconds_taken)
    return job.completed_at
