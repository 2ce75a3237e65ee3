"""`resolve`: what a human decides about a job that nobody else can decide about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final

from cyclopts import Parameter

from prefect_video.cli.commands.jobs import public_job
from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.output import DONE, print_json, stdout, usd
from prefect_video.cli.sessions import find_job, open_ledger, run_async, use_session
from prefect_video.errors import InvalidInput, NotFound
from prefect_video.generations import MOST_USD, Generation
from prefect_video.ledger import HoldReason, Job, Ledger, State, command_line, hold_message
from prefect_video.providers import Match, match_prompt
from prefect_video.session import Session, Settings, ref_for_job

_SENT: Final = frozenset({State.SUBMITTING, State.UNKNOWN})
_AT_PROVIDER: Final = frozenset({State.SUBMITTED, State.COMPLETED})
_GONE: Final = frozenset({State.LOST, State.EXPIRED})

Resolved = tuple[Job, str]
"""The row as it then stands, and what that means for the user."""


def resolve(
    job_id: Annotated[str, Parameter(help="The job's id, or its first characters; see `prefect-video jobs --held`.")],
    /,
    *,
    generation: Annotated[
        str | None,
        Parameter(help="The unanswered submit was accepted, or the lost video is there: the provider's generation."),
    ] = None,
    absent: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="The unanswered submit was not accepted: nothing is owed, it may be sent anew.",
        ),
    ] = False,
    buy_again: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="The paid video is gone or unusable: a later run may buy it again."
        ),
    ] = False,
    give_up: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="The paid video is gone or unusable: it is not bought again by any run.",
        ),
    ] = False,
    cost: Annotated[
        Decimal | None,
        Parameter(help="The provider's figure is not believed: what the generation cost in USD, by its bill."),
    ] = None,
    keep_waiting: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="The generation or its video is overdue: it is waited for once more."
        ),
    ] = False,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Decide about a job that waits for a human.

    After an unanswered submit, look at the provider's console first: was it accepted (`--generation ID`) or not
    (`--absent`)? `--generation ID` also takes up again what counts as lost and is in the console after all, and what
    was sent with a key that a new one of the same account has replaced. A generation that is past its deadline, or
    whose link is dead, is waited for once more with `--keep-waiting`. For a paid video that is lost, expired, overdue
    or not what was asked for: `--buy-again` lets the next run buy it anew, `--give-up` keeps every run from doing so
    until you change your mind with `--buy-again`. Where the provider says that it cost far more than was expected,
    `--cost USD` books what its bill says.

    Try:

        prefect-video resolve 3fa94c07 --generation gen_8d1e

        prefect-video resolve 3fa94c07 --absent
    """
    if sum((generation is not None, absent, buy_again, give_up, keep_waiting, cost is not None)) != 1:
        raise InvalidInput(
            "resolve: give exactly one of --generation ID, --absent, --buy-again, --give-up, --keep-waiting, --cost USD"
        )
    name = ledger_name(ledger)
    if cost is not None:
        decision = _settle_cost(name, job_id, _demand_amount(cost))
    elif keep_waiting:
        decision = _keep_waiting(name, job_id)
    else:
        decision = _resolve(name, job_id, generation, absent, give_up)
    job, told = run_async(decision)
    if json:
        print_json({**public_job(job), "outcome": told})
    else:
        stdout().print(f"{job.project}/{job.shot.id}: {told}", markup=False, soft_wrap=True)
    return DONE


async def _resolve(ledger: str | None, job_id: str, generation: str | None, absent: bool, give_up: bool) -> Resolved:
    async with open_ledger(ledger) as books:
        job = await find_job(books, job_id)
        if generation is not None:
            await _demand_at_provider(books, job)
            return await _accepted(job, generation, ledger)
        if absent:
            await _demand_unanswered(books, job)
            return await _absent(books, job)
        _demand_without_video(job)
        return await (_give_up(books, job) if give_up else _buy_again(books, job))


async def _keep_waiting(ledger: str | None, job_id: str) -> Resolved:
    async with open_ledger(ledger) as books:
        job = await find_job(books, job_id)
        if job.state not in _AT_PROVIDER:
            raise InvalidInput(
                f"job {job.id} is {job.state.value}: --keep-waiting is for one that is submitted or completed"
            )
        seconds = Settings.from_environment().deadline_seconds
        await books.jobs.set_deadline(job.id, datetime.now(UTC) + timedelta(seconds=seconds))
        after = await books.jobs.unhold(job.id)
    fetch = command_line("collect", "--wait", ledger=books.command_option)
    return after, f"waited for once more. Fetch it with: {fetch}"


async def _settle_cost(ledger: str | None, job_id: str, cost: Decimal) -> Resolved:
    async with open_ledger(ledger) as books:
        job = await find_job(books, job_id)
        if job.disputed_usd is None:
            raise InvalidInput(
                f"job {job.id} is {job.state.value} and its cost is not disputed: --cost is for one that is held"
                " because the provider's figure is not believed"
            )
        after = await books.jobs.settle_cost(job.id, cost)
    return after, f"its cost is booked as {usd(cost)}; the provider had said {usd(job.disputed_usd)}"


async def _accepted(job: Job, generation_id: str, ledger: str | None) -> Resolved:
    async with use_session(ref_for_job(job, ledger)) as session:
        try:
            generation = await session.provider.retrieve(generation_id)
        except NotFound as error:
            raise InvalidInput(
                f"--generation: {session.provider.name} does not know {generation_id!r} on this account ({error})"
            ) from error
        # Providers respell prompts: only words that were exchanged are those of another shot.
        if match_prompt(job.shot.prompt, generation.prompt) is Match.DIFFERENT:
            raise InvalidInput(
                f"--generation: {generation_id!r} was made from another prompt than shot {job.shot.id!r};"
                " nothing was changed"
            )
        after = await _taken_up(session, job, generation)
        fetch = command_line("collect", "--wait", ledger=session.ledger.command_option)
    return after, f"accepted as {generation_id}. Fetch it with: {fetch}"


async def _taken_up(session: Session, job: Job, generation: Generation) -> Job:
    account = session.provider.account.id
    if job.state in _AT_PROVIDER and (job.account == account or job.generation_id != generation.id):
        raise InvalidInput(f"job {job.id} is {job.state.value} as generation {job.generation_id}: nothing was changed")
    # A key that was replaced makes another account of the same one: the provider has just shown that it has it.
    job = await session.ledger.jobs.assign_account(job.id, account=account, credentials=job.credentials)
    if job.state in _AT_PROVIDER:
        return job
    if job.state is State.LOST:
        deadline_at = datetime.now(UTC) + timedelta(seconds=session.settings.deadline_seconds)
        return await session.ledger.jobs.record_found(job.id, generation, deadline_at=deadline_at)
    return await session.ledger.jobs.record_submitted(job.id, generation, detail="resolved: it was accepted")


async def _absent(books: Ledger, job: Job) -> Resolved:
    if job.hold_reason is None:
        await books.claims.take_over(job.id)
    after = await books.jobs.release_reservation(job.id, "resolved: it was not accepted")
    return after, "released, nothing is owed. The next run sends it again"


async def _buy_again(books: Ledger, job: Job) -> Resolved:
    if job.state in _AT_PROVIDER:
        after = await books.jobs.record_ended(
            job.id, State.LOST, "resolved: there is no usable video, to be bought again", actual_usd=None
        )
    else:
        after = await books.jobs.unhold(job.id)
    if after.hold_reason:
        return after, f"settled, and still held: {after.hold_reason}"
    return after, "settled: what it cost stays in the books, and the next run that asks for it buys it again"


async def _give_up(books: Ledger, job: Job) -> Resolved:
    if job.state in _AT_PROVIDER:
        await books.jobs.record_ended(
            job.id, State.LOST, "resolved: there is no usable video, and it is given up", actual_usd=None
        )
    message = hold_message(HoldReason.GIVEN_UP, job=job.id, shot=job.shot.id, ledger=books.command_option)
    after = await books.jobs.hold(job.id, message)
    return after, "given up: no run buys it again. Take the shot out of the project, or change your mind: --buy-again"


def _demand_amount(cost: Decimal) -> Decimal:
    if not cost.is_finite() or not 0 <= cost <= MOST_USD:
        raise InvalidInput(f"--cost: an amount in USD, such as 1.50, not {cost}")
    return cost


async def _demand_at_provider(books: Ledger, job: Job) -> None:
    if job.state is not State.LOST and job.state not in _AT_PROVIDER:
        await _demand_unanswered(books, job)


async def _demand_unanswered(books: Ledger, job: Job) -> None:
    if job.state not in _SENT:
        raise InvalidInput(
            f"job {job.id} is {job.state.value}: --generation and --absent are for a submit that was not answered,"
            " --generation also for one that is lost"
        )
    if job.hold_reason is None and job.owner and await books.claims.is_owner_alive(job.owner):
        raise InvalidInput(f"job {job.id} is being worked on by {job.owner}: let it finish, or stop it first")


def _demand_without_video(job: Job) -> None:
    if job.state in _GONE or (job.state in _AT_PROVIDER and job.hold_reason is not None):
        return
    raise InvalidInput(
        f"job {job.id} is {job.state.value}: --buy-again and --give-up are for a paid video that is lost, expired,"
        " overdue or not what was asked for"
    )
