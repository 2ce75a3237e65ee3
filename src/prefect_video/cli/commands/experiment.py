"""`experiment`: measurements of a provider's account, bought within a budget."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import ValidationError

from prefect_video._counted import counted
from prefect_video.cli.options import JsonFlag, QuietFlag, SessionOptions
from prefect_video.cli.output import DONE, FAILED, display_path, escape, print_json, print_status, stdout, table
from prefect_video.cli.prefect_startup import ensure_api
from prefect_video.cli.sessions import run_async, use_session
from prefect_video.errors import InvalidInput
from prefect_video.ledger import as_number, usd
from prefect_video.session import SessionRef

if TYPE_CHECKING:
    from prefect_video.experiments import AnyMeasurement, Experiment, ExperimentPlan, Measurement


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """The options that all experiments have.

    Attributes:
        budget: The most that all runs of this experiment may commit.
        model: The model.
        resolution: The resolution.
        project: The project in ledger and store.
        refresh: Measure anew.
        yes: Do not ask.
    """

    budget: Annotated[
        str | None, Parameter(help="The most in USD that all runs of this experiment may ever commit. Default: 10.")
    ] = None
    model: Annotated[str | None, Parameter(help="The provider's name of the model. Default: sora-2.")] = None
    resolution: Annotated[str | None, Parameter(help="Such as `720p`. Default: the lowest that is offered.")] = None
    project: Annotated[
        str | None, Parameter(help="The folder in the store and the name in the ledger. Default: experiment-NAME.")
    ] = None
    refresh: Annotated[bool, Parameter(negative="", show_default=False, help="Measure anew: buy all videos again.")] = (
        False
    )
    yes: Annotated[bool, Parameter(negative="", show_default=False, help="Do not ask before videos are bought.")] = (
        False
    )


_NO_SESSION = SessionOptions()
_NO_OPTIONS = ExperimentOptions()


def response_time(
    *,
    duration: Annotated[
        list[int] | None,
        Parameter(name="--duration", negative="", help="Seconds; may be given repeatedly. Default: 5 to 30."),
    ] = None,
    takes: Annotated[int, Parameter(help="Videos of each length.")] = 1,
    options: ExperimentOptions = _NO_OPTIONS,
    session: SessionOptions = _NO_SESSION,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Measure how long generations take by the length of their videos, one after the other.

    Says first what it costs, and what an earlier run has measured is not bought again.

    Try:

        prefect-video experiment response-time --provider emulator

        prefect-video experiment response-time --provider sora --duration 5 --duration 10 --budget 8
    """
    from prefect_video.experiments import ResponseTime

    experiment = _parse(ResponseTime, options, durations=duration, takes=takes)
    return _execute(experiment, session, options, json=json, quiet=quiet)


def rate_limit(
    *,
    level: Annotated[
        list[int] | None,
        Parameter(name="--level", negative="", help="Generations at once; may be given repeatedly. Default: 5 to 25."),
    ] = None,
    options: ExperimentOptions = _NO_OPTIONS,
    session: SessionOptions = _NO_SESSION,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Measure how many generations the provider lets an account have unfinished, whatever its plan says.

    Each level adds to what is in progress; the first that is refused ends it. Other runs of the account count too.

    Try:

        prefect-video experiment rate-limit --provider emulator

        prefect-video experiment rate-limit --provider sora --level 2 --level 4 --level 8 --budget 12
    """
    from prefect_video.experiments import RateLimit

    return _execute(_parse(RateLimit, options, levels=level), session, options, json=json, quiet=quiet)


def webhooks(
    *,
    count: Annotated[int, Parameter(help="Generations, each of which is to be announced.")] = 10,
    url: Annotated[str | None, Parameter(help="Public https address that leads to this machine's port.")] = None,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 for a free one.")] = 8125,
    grace: Annotated[float, Parameter(help="Seconds after the last end for which a webhook is waited for.")] = 60.0,
    options: ExperimentOptions = _NO_OPTIONS,
    session: SessionOptions = _NO_SESSION,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Measure how many webhooks of a provider arrive, how late, and how often twice.

    It receives them itself while it runs; `prefect-video serve` is not needed, and gets none of them.

    Try:

        prefect-video experiment webhooks --provider emulator

        prefect-video experiment webhooks --provider sora --url https://tunnel.example.com --count 50 --budget 30
    """
    from prefect_video.experiments import WebhookDelivery

    experiment = _parse(WebhookDelivery, options, count=count, url=url, host=host, port=port, grace_seconds=grace)
    return _execute(experiment, session, options, json=json, quiet=quiet)


def _parse(kind: type[Experiment], options: ExperimentOptions, **fields: Any) -> Experiment:
    """Build an experiment; an option that is not given leaves the default.

    Raises:
        InvalidInput: An option cannot be used.
    """
    common = {
        "budget_usd": options.budget,
        "model": options.model,
        "resolution": options.resolution,
        "project": options.project,
    }
    try:
        return kind(**{name: value for name, value in {**common, **fields}.items() if value is not None})
    except ValidationError as error:
        faults = error.errors(include_input=False)
        lines = (f"experiment: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise InvalidInput("\n".join(lines)) from error


def _execute(
    experiment: Experiment, session: SessionOptions, options: ExperimentOptions, *, json: bool, quiet: bool
) -> int:
    ref = session.ref()
    planned = run_async(_plan(ref, experiment, options.refresh))
    if planned.measurement is not None:
        _show(planned.measurement, ref, json=json)
        return DONE
    if not quiet:
        print_status(_describe_cost(planned, experiment))
    planned.plan.raise_if_over_budget()
    if planned.buys and not options.yes:
        _confirm()
    ensure_api()
    # Stdout belongs to the answer alone; Prefect and its libraries print there too.
    with contextlib.redirect_stdout(sys.stderr):
        found = asyncio.run(_run_flow(experiment, session, ref, options.refresh))
    _show(found, ref, json=json)
    return FAILED if found.failures else DONE


async def _plan(ref: SessionRef, experiment: Experiment, refresh: bool) -> ExperimentPlan:
    from prefect_video.experiments import plan_experiment

    async with use_session(ref) as session:
        return await plan_experiment(session, experiment, refresh=refresh)


def _describe_cost(planned: ExperimentPlan, experiment: Experiment) -> str:
    plan = planned.plan
    limit = f"{usd(experiment.budget_usd)} for all runs of project {planned.project.name!r} (--budget)"
    stored = len(plan.shots) - planned.buys
    used = f"; {stored} of {len(plan.shots)} are there already and are used" if stored else ""
    return (
        f"cost: at most {plan.describe_cost()} for {counted(planned.buys, 'video')} at {plan.provider}, within"
        f" {limit}{used}"
        if planned.buys
        else f"cost: nothing: all of it is there already and is used ({counted(stored, 'video')})"
    )


def _confirm() -> None:
    """Ask on the terminal whether to buy.

    Raises:
        InvalidInput: There is no terminal to ask on, or the answer is no.
    """
    if not sys.stdin.isatty():
        raise InvalidInput("experiment: it buys videos, and there is no terminal to ask on: add --yes")
    print("Buy them? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInput("experiment: not confirmed; nothing was sent")


async def _run_flow(experiment: Experiment, session: SessionOptions, ref: SessionRef, refresh: bool) -> AnyMeasurement:
    from prefect_video.experiments import RateLimit, ResponseTime, WebhookDelivery
    from prefect_video.flows import measure_rate_limit, measure_response_time, measure_webhooks

    names: dict[str, Any] = {"provider": ref.provider, "store": ref.store, "ledger": ref.ledger, "refresh": refresh}
    match experiment:
        case ResponseTime():
            found: AnyMeasurement = await measure_response_time(
                experiment, max_in_flight=session.max_in_flight or 1, **names
            )
        case RateLimit():
            found = await measure_rate_limit(experiment, **names)
        case WebhookDelivery():
            found = await measure_webhooks(experiment, **names)
        case _:
            raise TypeError(f"{type(experiment).__name__} is no experiment")
    return found


def _show(found: Measurement, ref: SessionRef, *, json: bool) -> None:
    from prefect_video.experiments import CHART_ADVICE, can_draw_charts

    chart = f"{ref.store}/{found.project}/measurement.png" if "://" in ref.store else None
    if json:
        fields = found.model_dump(mode="json", exclude={"digest", "cost_usd"})
        print_json({**fields, "cost_usd": as_number(found.cost_usd), "summary": found.summary, "chart": chart})
        return
    console = stdout()
    if rows := found.table():
        grid = table(*rows[0], right=tuple(rows[0]))
        for row in rows:
            grid.add_row(*map(escape, row.values()))
        console.print(grid)
    console.print(f"\n[bold]{escape(found.summary)}[/]", soft_wrap=True)
    for note in (*found.notes, *found.failures):
        console.print(f"[yellow]![/] {escape(note)}", soft_wrap=True)
    if found.reused:
        again = f"measured {found.measured_at:%Y-%m-%d %H:%M} UTC; nothing was sent. --refresh measures anew"
        console.print(f"[dim]{again}[/]", soft_wrap=True)
    if not can_draw_charts():
        print_status(CHART_ADVICE)
    elif chart is not None:
        console.print(f"[dim]chart[/] {escape(display_path(chart))}", soft_wrap=True)
