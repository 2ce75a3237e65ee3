"""`resolve`: the user's decision about a job that is held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final

from cyclopts import Parameter

from prefect_video.cli.job_view import public_job
from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.output import DONE, display_path, print_json, stdout, usd
from prefect_video.cli.sessions import find_job, open_ledger, run_async, use_session, use_store
from prefect_video.errors import InvalidInput, NotFound
from prefect_video.generations import MOST_USD, Generation
from prefect_video.ledger import HoldReason, Job, Ledger, State, command_line, hold_message
from prefect_video.pipeline import accept_rejected, settle_deleted
from prefect_video.providers import Match, match_prompt
from prefect_video.session import Session, Settings, ref_for_job

_SENT: Final = frozenset({State.SUBMITTING, State.UNKNOWN})
_AT_PROVIDER: Final = frozenset({State.SUBMITTED, State.COMPLETED})
_WITHOUT_VIDEO: Final = frozenset({State.LOST, State.EXPIRED})

Resolved = tuple[Job, str]
"""The job after the decision, and what follows from it."""


def resolve(
    job_id: Annotated[str, Parameter(help="The job's id, or its first characters; see `prefect-video jobs --held`.")],
    /,
    *,
    generation: Annotated[
        str | None,
        Parameter(help="The unanswered submit was accepted, or the lost video exists: the provider's generation."),
    ] = None,
    absent: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="The unanswered submit was not accepted: nothing is owed, it may be sent again.",
        ),
    ] = False,
    buy_again: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="The paid video is missing or unusable: a later run may buy it again."
        ),
    ] = False,
    give_up: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="The paid video is missing or unusable: no run buys it again.",
        ),
    ] = False,
    accept: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="The video is not as requested: store it as it is, with a note."
        ),
    ] = False,
    cost: Annotated[
        Decimal | None,
        Parameter(help="The reported cost is disputed: the cost of the generation in USD, by the provider's bill."),
    ] = None,
    keep_waiting: Annotated[
        bool,
        Parameter(
            negative="", show_default=False, help="The generation or its video is overdue: wait for it once more."
        ),
    ] = False,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Decide about a job that is held.

    After an unanswered submit, check the provider's console first: was it accepted (`--generation ID`) or not
    (`--absent`)? `--generation ID` also resumes a generation that counts as lost but is in the console, and one that
    was sent with a key that a new one of the same account has replaced. `--keep-waiting` waits once more for a
    generation that is past its deadline or whose link is dead. `--accept` stores a video that is not as requested and
    was kept as `….rejected.mp4`. For a paid video that is lost, expired, overdue or different from the request:
    `--buy-again` lets the next run buy it again, `--give-up` keeps every run from doing so until `--buy-again`. The
    same two are for a stored video whose file was deleted on purpose: `--give-up` lets no run miss it, `--buy-again`
    has it fetched again, free, or bought where the provider no longer has it. Where the provider reports a cost far
    above the estimate, `--cost USD` records the cost by its bill.

    Try:

        prefect-video resolve 3fa94c07 --generation gen_8d1e

        prefect-video resolve 3fa94c07 --absent
    """
    if sum((generation is not None, absent, accept, buy_again, give_up, keep_waiting, cost is not None)) != 1:
        raise InvalidInput(
            "resolve: give exactly one of --generation ID, --absent, --accept, --buy-again, --give-up, --keep-waiting,"
            " --cost USD"
        )
    name = ledger_name(ledger)
    if cost is not None:
        decision = _settle_cost(name, job_id, _require_amount(cost))
    elif accept:
        decision = _accept(name, job_id)
    elif keep_waiting:
        decision = _keep_waiting(name, job_id)
    else:
        decision = _resolve(name, job_id, generation, absent, give_up)
    job, outcome = run_async(decision)
    if json:
        print_json({**public_job(job), "outcome": outcome})
    else:
        stdout().print(f"{job.project}/{job.shot.id}: {outcome}", markup=False, soft_wrap=True)
    return DONE


async def _resolve(name: str | None, job_id: str, generation: str | None, absent: bool, give_up: bool) -> Resolved:
    async with open_ledger(name) as ledger:
        job = await find_job(ledger, job_id)
        if generation is not None:
            await _require_at_provider(ledger, job)
            return await _record_accepted(job, generation, name)
        if absent:
            await _require_unanswered(ledger, job)
            return await _record_absent(ledger, job)
        if job.state is State.STORED:
            return await _resolve_deleted(ledger, job, give_up)
        _require_without_video(job)
        return await (_give_up(ledger, job) if give_up else _buy_again(ledger, job))


async def _keep_waiting(name: str | None, job_id: str) -> Resolved:
    async with open_ledger(name) as ledger:
        job = await find_job(ledger, job_id)
        if job.state not in _AT_PROVIDER:
            raise InvalidInput(
                f"job {job.id} is {job.state.value}: --keep-waiting is for one that is submitted or completed"
            )
        seconds = Settings.from_environment().deadline_seconds
        # The deadline first: a sweep in between would hold the job again for the old one.
        await ledger.jobs.set_deadline(job.id, datetime.now(UTC) + timedelta(seconds=seconds))
        after = await ledger.jobs.unhold(job.id)
    fetch = command_line("collect", "--wait", ledger=ledger.command_option)
    return after, f"waits once more. Fetch it with: {fetch}"


async def _accept(name: str | None, job_id: str) -> Resolved:
    async with open_ledger(name) as ledger:
        job = await find_job(ledger, job_id)
    async with use_session(ref_for_job(job, name)) as session:
        after = await accept_rejected(session, job)
    place = display_path(after.asset.uri) if after.asset else "the store"
    return after, f"accepted as it is, and stored as {place}"


async def _settle_cost(name: str | None, job_id: str, cost: Decimal) -> Resolved:
    async with open_ledger(name) as ledger:
        job = await find_job(ledger, job_id)
        if job.disputed_usd is None:
            raise InvalidInput(
                f"job {job.id} is {job.state.value} and its cost is not disputed: --cost is for one that is held"
                " because the reported cost is disputed"
            )
        after = await ledger.jobs.settle_cost(job.id, cost)
    return after, f"its cost is booked as {usd(cost)}; the provider had reported {usd(job.disputed_usd)}"


async def _record_accepted(job: Job, generation_id: str, name: str | None) -> Resolved:
    async with use_session(ref_for_job(job, name)) as session:
        generation_id = session.provider.qualify_id(generation_id, job.shot)
        try:
            generation = await session.provider.retrieve(generation_id)
        except NotFound as error:
            raise InvalidInput(
                f"--generation: {session.provider.name} does not know {generation_id!r} on this account ({error})"
            ) from error
        # Providers respell prompts, so only a prompt that differs in its words is another shot's.
        if match_prompt(job.shot.prompt, generation.prompt) is Match.DIFFERENT:
            raise InvalidInput(
                f"--generation: {generation_id!r} was made from another prompt than that of shot {job.shot.id!r};"
                " nothing was changed"
            )
        after = await _resume_generation(session, job, generation)
        fetch = command_line("collect", "--wait", ledger=session.ledger.command_option)
    return after, f"accepted as {generation_id}. Fetch it with: {fetch}"


async def _resume_generation(session: Session, job: Job, generation: Generation) -> Job:
    """Record that the provider has the generation of a job, under the account that it was found with."""
    account = session.provider.account
    is_of_this_key = job.account == account.id and job.key_fingerprint in (None, account.key_fingerprint)
    if job.state in _AT_PROVIDER and (is_of_this_key or job.generation_id != generation.id):
        raise InvalidInput(f"job {job.id} is {job.state.value} as generation {job.generation_id}: nothing was changed")
    # A new key may change the id of the same account: the provider has just proven that the generation is its own.
    job = await session.ledger.jobs.assign_account(
        job.id, account=account.id, credentials=job.credentials, key_fingerprint=account.sole_key_fingerprint
    )
    if job.state in _AT_PROVIDER:
        return job
    if job.state is State.LOST:
        deadline_at = datetime.now(UTC) + timedelta(seconds=session.settings.deadline_seconds)
        return await session.ledger.jobs.record_found(job.id, generation, deadline_at=deadline_at)
    return await session.ledger.jobs.record_submitted(job.id, generation, detail="resolved: it was accepted")


async def _record_absent(ledger: Ledger, job: Job) -> Resolved:
    if job.hold_reason is None:
        # Only an owner may release a job that is not held; its former owner is dead, as was checked.
        await ledger.claims.take_over(job.id)
    after = await ledger.jobs.release_reservation(job.id, "resolved: it was not accepted")
    return after, "released, nothing is owed. The next run sends it again"


async def _buy_again(ledger: Ledger, job: Job) -> Resolved:
    if job.state in _AT_PROVIDER:
        after = await ledger.jobs.record_ended(
            job.id, State.LOST, "resolved: there is no usable video, to be bought again", actual_usd=None
        )
    else:
        after = await ledger.jobs.unhold(job.id)
    if after.hold_reason:
        return after, f"settled, and still held: {after.hold_reason}"
    outcome = "settled: its cost stays in the ledger, and the next run that requests it buys it again"
    if after.stored_at and after.generation_id:
        fetch = command_line("resolve", job.id, "--generation", after.generation_id, ledger=ledger.command_option)
        outcome += f". Where the provider still has it, it is fetched again, free, after: {fetch}"
    return after, outcome


async def _resolve_deleted(ledger: Ledger, job: Job, give_up: bool) -> Resolved:
    """Settle a stored job whose file was deleted; change nothing where its store has the file or cannot be read."""
    async with use_store(job.store) as store:
        deleted = await settle_deleted(ledger, store, job, give_up=give_up)
    if deleted.state is State.STORED:
        assert deleted.asset is not None
        return deleted, f"its file is missing, and a whole copy takes its place: {deleted.asset.uri}"
    if give_up:
        return await _give_up(ledger, deleted)
    if deleted.state is State.LOST:
        return deleted, "its file, made by hand, is missing. The next run that requests it generates it"
    fetch = command_line("collect", "--wait", ledger=ledger.command_option)
    return deleted, (
        f"its file is missing. The next run that requests it, or {fetch}, fetches it again, free; a run buys it only"
        " where the provider no longer has it"
    )


async def _give_up(ledger: Ledger, job: Job) -> Resolved:
    if job.state in _AT_PROVIDER:
        await ledger.jobs.record_ended(
            job.id, State.LOST, "resolved: there is no usable video, and it is given up", actual_usd=None
        )
    message = hold_message(HoldReason.GIVEN_UP, job=job.id, shot=job.shot.id, ledger=ledger.command_option)
    after = await ledger.jobs.hold(job.id, message)
    revoke = command_line("resolve", job.id, "--buy-again", ledger=ledger.command_option)
    return after, f"given up: no run buys it again. Remove the shot from the project, or revoke this with: {revoke}"


def _require_amount(cost: Decimal) -> Decimal:
    if not cost.is_finite() or not 0 <= cost <= MOST_USD:
        raise InvalidInput(f"--cost: an amount in USD, such as 1.50, not {cost}")
    return cost


async def _require_at_provider(ledger: Ledger, job: Job) -> None:
    if job.state is not State.LOST and job.state not in _AT_PROVIDER:
        await _require_unanswered(ledger, job)


async def _require_unanswered(ledger: Ledger, job: Job) -> None:
    if job.state not in _SENT:
        raise InvalidInput(
            f"job {job.id} is {job.state.value}: --generation and --absent are for a submit that was not answered,"
            " --generation also for one that is lost"
        )
    if job.hold_reason is None and job.owner and await ledger.claims.is_owner_alive(job.owner):
        raise InvalidInput(f"job {job.id} belongs to the live owner {job.owner}: let it finish, or stop it first")


def _require_without_video(job: Job) -> None:
    if job.state in _WITHOUT_VIDEO or (job.state in _AT_PROVIDER and job.hold_reason is not None):
        return
    raise InvalidInput(
        f"job {job.id} is {job.state.value}: --buy-again and --give-up are for a paid video that is lost, expired,"
        " overdue or different from the request, or whose file was deleted from its store"
    )
