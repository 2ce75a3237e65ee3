"""Producing a whole project: route and claim all shots at once, make what is missing side by side, report on each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from prefect_video.costs import with_costs
from prefect_video.errors import BudgetExceeded
from prefect_video.making import Making, OnReport
from prefect_video.reports import ProjectReport
from prefect_video.shots import Project
from prefect_video.steps.adoption import adopt_stored
from prefect_video.steps.claiming import budgets_of, claim_shots
from prefect_video.steps.departing import Departure
from prefect_video.steps.producing import PlainSteps, Steps
from prefect_video.studio import Studio
from prefect_video.wanting import Wanted, look_up, studios_used, wanted_of

StepsOf = Callable[[Studio], Steps]
"""Makes the steps of a studio's rows; an orchestrator gives its tasks."""


async def produce_project(
    studio: Studio,
    project: Project,
    *,
    others: Sequence[Studio] = (),
    steps_of: StepsOf = PlainSteps,
    refresh: bool = False,
    flow_run_id: str | None = None,
    on_report: OnReport | None = None,
    wait: bool = True,
) -> ProjectReport:
    """Makes every shot of a project that is not stored yet; a shot that fails fails alone.

    Args:
        studio: With what to make them.
        project: What to make.
        others: Further accounts, with the same ledger and store: those that `provider: auto` may choose from too,
            and those that the project's fallbacks name.
        steps_of: Makes the steps of a studio's rows; plain coroutines unless an orchestrator gives its tasks.
        refresh: Buy again what is stored.
        flow_run_id: The run on whose behalf, within which attempts are counted; None makes up an id of its own.
        on_report: Told of each shot as it ends.
        wait: Wait for the videos; otherwise leave as soon as the last shot is at the provider, with what is not done
            by then `in_flight` for `collect`.

    Returns:
        One report for each take of each shot.

    Raises:
        InvalidInput: A shot cannot be made; nothing was sent.
        BudgetExceeded: The project does not fit a limit; nothing was sent.
        LedgerError: The ledger cannot be used; nothing was sent.
    """
    began, began_at = time.monotonic(), datetime.now(UTC)
    flow_run_id = flow_run_id or f"run-{uuid.uuid4()}"
    asking = {
        "refresh": refresh,
        "ttl_seconds": studio.settings.ttl_seconds,
        "flow_run_id": flow_run_id,
    }
    studios = [studio, *others]
    wanted = await wanted_of(project, studios, **asking)
    making = Making(project, studios, steps_of, on_report, departure=None if wait else Departure())
    await _claim(project, wanted, making)
    reports = await making.all(wanted)
    intents = [one.intent for one in wanted]
    shots = await with_costs(reports, intents, studio.ledger, flow_run_id=flow_run_id, since=began_at)
    return ProjectReport(project=project.name, shots=shots, seconds=time.monotonic() - began)


async def _claim(project: Project, wanted: Sequence[Wanted], making: Making) -> None:
    """Claims everything, studio by studio; when the project must fit as a whole and does not, nothing is kept.

    Raises:
        BudgetExceeded: It does not fit; nothing was sent.
    """
    fit = project.over_budget == "fit" or bool(project.fallbacks)
    try:
        await _settle_on_what_exists(wanted, making)
        for studio in studios_used(wanted):
            mine = [one for one in wanted if one.route.studio is studio]
            intents = [one.intent for one in mine]
            claims = await claim_shots(studio, intents, budgets=budgets_of(studio, project), partial=fit)
            for one, claim in zip(mine, claims, strict=True):
                one.claim = claim
            for claim in claims:
                if claim.kind == "over_budget" and not fit:
                    raise BudgetExceeded(f"project {project.name!r}: {claim.refusal}. Nothing was sent.")
        await making.find_copies(wanted)
    except BaseException:
        await making.give_back(wanted, release="the run was refused")
        raise


async def _settle_on_what_exists(wanted: Sequence[Wanted], making: Making) -> None:
    """Lets what is stored, under way or held decide how a take is made, before prices and health do."""
    ways = [way for one in wanted for way in one.ways]
    for studio in studios_used(ways):
        await making.steps(studio).find_asset([way.intent for way in ways if way.route.studio is studio])
    undecided = [one for one in wanted if len(one.ways) > 1]
    if undecided:
        await look_up(making.studios[0].ledger, undecided)
        if await _adopt_undecided(undecided):
            await look_up(making.studios[0].ledger, undecided)
    for one in undecided:
        one.settle()


async def _adopt_undecided(undecided: Sequence[Wanted]) -> int:
    """Adopts what the store holds of takes for which no way exists; where one does, no other is looked for."""
    ways = [way for one in undecided if not any(way.exists for way in one.ways) for way in one.ways]
    adopted = [
        await adopt_stored(studio, [way.intent for way in ways if way.route.studio is studio])
        for studio in studios_used(ways)
    ]
    return sum(adopted)
