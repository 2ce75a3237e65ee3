"""Flow that makes a whole project."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import prefect.runtime
from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from prefect_video._counted import counted
from prefect_video.errors import ProjectFailed
from prefect_video.flows.artifacts import Progress, publish_table
from prefect_video.flows.cancellation import cancel_generations
from prefect_video.flows.parts import Parts, ProjectPart, find_splitting_run
from prefect_video.flows.suspension import Approvals, can_suspend
from prefect_video.ledger import Requester
from prefect_video.pipeline import OnReport, ProjectReport, publish_run, reserve_project, run_project, split_project
from prefect_video.projects import Project
from prefect_video.session import Session, Settings
from prefect_video.tasks import SessionRef, TaskRunner, read_links, use_session


@dataclass
class Outcome:
    """Outcome of the flow that was called in a `keeping_outcome` context.

    Attributes:
        report: The report of its shots; None until all have ended.
    """

    report: ProjectReport | None = None


@contextmanager
def keeping_outcome() -> Iterator[Outcome]:
    """Keep the report of the flow that is called in the context, even where the flow run fails."""
    outcome = Outcome()
    token = _outcome.set(outcome)
    try:
        yield outcome
    finally:
        _outcome.reset(token)


def keep_report(report: ProjectReport) -> None:
    """Hand a report to the caller's `keeping_outcome` context, if there is one."""
    if outcome := _outcome.get():
        outcome.report = report


_outcome: ContextVar[Outcome | None] = ContextVar("outcome", default=None)


def _run_name() -> str:
    parameters = prefect.runtime.flow_run.parameters
    project = Project.model_validate(parameters["project"])
    if part := parameters.get("part"):
        return ProjectPart.model_validate(part).name_run(project)
    return f"{project.name} ({counted(len(project.shots), 'shot')})"


@flow(name="generate-project", flow_run_name=_run_name, on_cancellation=[cancel_generations])
async def generate_project(
    project: Project,
    provider: str | None = None,
    store: str | None = None,
    ledger: str | None = None,
    max_in_flight: int | None = None,
    refresh: bool = False,
    wait: bool = True,
    rebuy_missing: bool = False,
    requester: Requester | None = None,
    fan_out: int | None = None,
    part: ProjectPart | None = None,
) -> ProjectReport:
    """Make every shot of a project that is not stored yet, side by side; a failed shot fails alone.

    Where the project has a `cut:`, its film follows once all shots that it needs are stored. A run that is repeated,
    after a crash or by hand, resumes from the ledger and pays nothing twice.

    Where shots need an approval, a deployment's run is suspended when all else that can be made is stored, and holds no
    worker; the answer, in Prefect or by `prefect-video approve`, lets it go on. Any other run leaves them pending.

    Args:
        project: The shots.
        provider: `sora`, `emulator`, `sora-credentials/name` …, or `auto`; by default what the project names, else
            `sora` when SORA_API_KEY is set.
        store: A folder, `s3://bucket/prefix` or `video-store/name`; by default PREFECT_VIDEO_STORE or `./videos`.
        ledger: `video-ledger/name` or a file; by default PREFECT_VIDEO_LEDGER_URL or SQLite under Prefect's home.
        max_in_flight: Unfinished generations at once; by default what credentials and plan allow.
        refresh: Buy again what is stored.
        wait: Wait for the videos; otherwise leave as soon as the last shot is at the provider. What is `in_flight`
            then is finished by `collect_generations`.
        rebuy_missing: Accept the store, although videos are missing or it is another one: what is not there
            is fetched again where the provider still has it, and bought again where not.
        requester: The client of `prefect-video serve` that is charged, with its monthly limit.
        fan_out: Into how many runs of this deployment the shots are split, which the pool makes side by side; this run
            reserves the budget of all, waits for them and reports. By default what the project says, else one.
        part: Set for those runs, never by hand.

    Returns:
        One report for each take of each shot.

    Raises:
        ProjectFailed: Some shot was not stored, and the others were; or all were and the film could not be made. The
            message says what to do.
        InvalidInput: A shot or a setting is wrong; nothing was sent.
        BudgetExceeded: The project does not fit a limit; nothing was sent.
        StoreOutage: The store is not the one that the ledger knows, or several videos are missing; nothing was sent.
    """
    refs = SessionRef.for_project(project, provider, store, ledger, max_in_flight)
    order = Order(project, refs, refresh=refresh, wait=wait, rebuy_missing=rebuy_missing, requester=requester)
    if part is not None:
        return await _make_part(order, part)
    approvals = Approvals(project.name, Settings.from_environment().environment, refs[0].ledger)
    splitting = find_splitting_run(fan_out or project.fan_out)
    given = {"provider": provider, "store": store, "ledger": ledger, "max_in_flight": max_in_flight}
    while True:
        if splitting is not None:
            await _make_parts(order, splitting, fan_out or project.fan_out or 1, given)
        report = await _make(order, began_at=splitting.created if splitting else None)
        if report.has_failed:
            raise ProjectFailed(report)
        # All tasks have ended: suspending would cancel those that are running.
        if not (report.awaits_approval and can_suspend() and await approvals.wait_for_answer()):
            return report


@dataclass(frozen=True)
class Order:
    """Order of a run: the shots to make, and how.

    Attributes:
        project: The shots.
        refs: The references of its accounts, the one that makes the shots first.
        refresh: Buy again what is stored.
        wait: Wait for the videos.
        rebuy_missing: Accept the store, although videos are missing or it is another one.
        requester: The client of the service that is charged.
    """

    project: Project
    refs: Sequence[SessionRef]
    refresh: bool
    wait: bool
    rebuy_missing: bool
    requester: Requester | None

    @asynccontextmanager
    async def open_sessions(self) -> AsyncIterator[list[Session]]:
        """Open the sessions of the accounts."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(use_session(ref)) for ref in self.refs]


async def _make(order: Order, *, began_at: datetime | None) -> ProjectReport:
    """Make what can be made now, and publish it."""
    project = order.project
    async with order.open_sessions() as sessions, Progress(project) as progress:
        run_id = flow_run_id()
        report = await _run(order, sessions, run_id, on_report=progress.shot_ended, began_at=began_at)
        report = await publish_run(sessions[0], project, report)
        links = await read_links(sessions[0].store, [shot.asset for shot in report.shots if shot.asset])
    keep_report(report)
    await publish_table(report, links)
    return report


async def _make_part(order: Order, part: ProjectPart) -> ProjectReport:
    """Make a part of a project for the run that has split it, which publishes the whole."""
    async with order.open_sessions() as sessions, Progress(order.project) as progress:
        report = await _run(order, sessions, str(part.of), on_report=progress.shot_ended, is_part=True)
    await publish_table(report)
    if report.has_failed:
        raise ProjectFailed(report)
    return report


async def _make_parts(order: Order, parent: FlowRun, number: int, given: Mapping[str, Any]) -> None:
    """Reserve the budget of a project, and have its parts made by runs of their own."""
    parts = split_project(order.project, number)
    if len(parts) < 2:
        return
    chosen = {"refresh": order.refresh, "wait": order.wait, "rebuy_missing": order.rebuy_missing}
    requester = order.requester.model_dump(mode="json") if order.requester else None
    async with order.open_sessions() as (session, *others):
        await reserve_project(
            session,
            order.project,
            others=others,
            flow_run_id=str(parent.id),
            refresh=order.refresh,
            rebuy_missing=order.rebuy_missing,
            wait=order.wait,
            requester=order.requester,
        )
    await Parts(parent, parts, {**given, **chosen, "requester": requester}).make()


async def _run(
    order: Order,
    sessions: Sequence[Session],
    run_id: str | None,
    *,
    on_report: OnReport,
    began_at: datetime | None = None,
    is_part: bool = False,
) -> ProjectReport:
    session, *others = sessions
    return await run_project(
        session,
        order.project,
        others=others,
        runner=TaskRunner(order.refs),
        refresh=order.refresh,
        rebuy_missing=order.rebuy_missing,
        flow_run_id=run_id,
        on_report=on_report,
        wait=order.wait,
        requester=order.requester,
        began_at=began_at,
        is_part=is_part,
    )


def flow_run_id() -> str | None:
    """Return the id of the current flow run, which jobs are recorded under."""
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None
