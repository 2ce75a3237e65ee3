"""`ledger upgrade`, `check`, `recover` and `prune`: the ledger's database."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter

from prefect_video._counted import counted
from prefect_video.cli.options import JsonFlag, LedgerOption, StoreOption, ledger_name
from prefect_video.cli.output import DONE, FAILED, escape, print_json, stdout, table, usd
from prefect_video.cli.sessions import open_ledger, run_async, use_sessions
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Ledger, Removal, command_line
from prefect_video.pipeline import Recovery, recover_ledger
from prefect_video.session import SessionRef, names_ledger_block


def upgrade(*, ledger: LedgerOption = None, json: JsonFlag = False) -> int:
    """Create the ledger's tables, or bring them up to this version; a current ledger stays as it is.

    Try:

        prefect-video ledger upgrade --ledger postgresql://user:password@host/video
    """
    return _print_state(run_async(_upgrade(ledger_name(ledger))), "is up to date", json)


def check(*, ledger: LedgerOption = None, json: JsonFlag = False) -> int:
    """Prove that the ledger can be reached and written and that its tables are current."""
    return _print_state(run_async(_check(ledger_name(ledger))), "can be written and is up to date", json)


def recover(
    *,
    store: StoreOption = None,
    provider: Annotated[
        tuple[str, ...],
        Parameter(
            name="--provider",
            help="An account whose list is read (a provider's name or a saved block); may be given repeatedly."
            " Default: `sora` when SORA_API_KEY is set, else the embedded emulator.",
        ),
    ] = (),
    lost_ledger: Annotated[
        tuple[str, ...],
        Parameter(
            name="--lost-ledger",
            help="Identity of another ledger that is lost for good: what it has paid is counted here."
            " May be given repeatedly.",
        ),
    ] = (),
    dry_run: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print what would be done, and write nothing.")
    ] = False,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Bring a restored or new ledger up to what the store and the providers' lists prove. Pays for nothing.

    Videos in the store get rows with their cost; generations that a provider lists with our key get rows that
    `prefect-video collect` finishes. What cannot be proven is listed. It can be repeated at any time.

    Exit status 1 when something is left to decide.

    Try:

        prefect-video ledger recover --store s3://films/ads --dry-run
    """
    refs = [SessionRef.from_names(name, store, ledger_name(ledger)) for name in provider or (None,)]
    recovery, command_ledger = run_async(_recover(refs, lost_ledger, dry_run))
    if json:
        print_json(recovery.public())
    else:
        _show_recovery(recovery, command_line("collect", "--wait", ledger=command_ledger))
    return FAILED if recovery.left else DONE


def prune(
    *,
    older_than: Annotated[str, Parameter(help="Age in days, 7 or more, such as `90d`.")],
    dry_run: Annotated[
        bool, Parameter(negative="", show_default=False, help="Count what would be removed, and remove nothing.")
    ] = False,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Remove what is old and needed by nothing, beside live runs.

    Removed are: the histories of jobs that have ended, released reservations and jobs that ended free without a
    generation, idempotency keys of jobs that have ended, and webhook events that were handled. Kept are: every job
    whose generation was accepted, with its cost, so that nothing is paid twice and sums stay as they are; what is
    held; what was refused for its prompt.

    Try:

        prefect-video ledger prune --older-than 90d --dry-run
    """
    removal = run_async(_prune(ledger_name(ledger), _parse_age(older_than), dry_run))
    counts = removal.model_dump()
    if json:
        print_json({"removed": counts, "dry_run": dry_run})
        return DONE
    console = stdout()
    for name, number in counts.items():
        console.print(f"{number:>9,}  {name.replace('_', ' ')}", highlight=False)
    console.print("nothing was removed (--dry-run)" if dry_run else "removed")
    return DONE


def _parse_age(text: str) -> timedelta:
    """Read an age in whole days.

    Raises:
        InvalidInput: It is none.
    """
    found = re.fullmatch(r"([0-9]{1,5})d?", text.strip())
    if found is None:
        raise InvalidInput(f"ledger prune: --older-than {text!r} is no age in days: write it as in `90d`")
    return timedelta(days=int(found[1]))


async def _prune(name: str | None, older_than: timedelta, dry_run: bool) -> Removal:
    async with open_ledger(name) as ledger:
        return await ledger.retention.prune(older_than, dry_run=dry_run)


async def _upgrade(name: str | None) -> str:
    if names_ledger_block(name):
        raise InvalidInput(
            "ledger upgrade: give --ledger as a URL: the user of a block may not have the right to change tables"
        )
    async with await Ledger.open(name, migrate=True) as ledger:
        return ledger.url_label


async def _check(name: str | None) -> str:
    async with open_ledger(name) as ledger:
        await ledger.check()
        return ledger.url_label


async def _recover(refs: list[SessionRef], lost_ledgers: tuple[str, ...], dry_run: bool) -> tuple[Recovery, str | None]:
    """Recover a ledger; return the outcome, and the `--ledger` that a further command needs."""
    async with use_sessions(refs) as (session, *others):
        recovery = await recover_ledger(session, others=others, lost_ledgers=lost_ledgers, dry_run=dry_run)
        return recovery, session.ledger.command_option


def _show_recovery(recovery: Recovery, collect_command: str) -> None:
    console = stdout()
    if not recovery.jobs:
        console.print("the ledger knows everything that the store and the providers' lists show")
    else:
        grid = table("outcome", "project", "shot", "generation", "cost", right=("cost",))
        for job in recovery.jobs:
            names = (job.project or "", job.shot_id or "", job.generation_id or "")
            grid.add_row(job.outcome, *map(escape, names), "" if job.cost_usd is None else usd(job.cost_usd))
        console.print(grid)
    for job in recovery.left:
        console.print(f"[yellow]![/] {escape(job.source)}: {escape(job.reason)}", soft_wrap=True)
    for account, count in recovery.unlabelled.items():
        console.print(
            f"[yellow]![/] account {escape(account)} lists {counted(count, 'generation')} unknown to the ledger,"
            " without a key of it: made by other software, or at a provider that echoes no key; see its console",
            soft_wrap=True,
        )
    if recovery.dry_run:
        console.print("nothing was written (--dry-run)")
    elif any(job.outcome in ("submitted", "held") for job in recovery.jobs):
        console.print(f"now run `{escape(collect_command)}`, which stores what is at the provider", soft_wrap=True)


def _print_state(label: str, state: str, json: bool) -> int:
    if json:
        print_json({"ledger": label, "ok": True})
    else:
        stdout().print(f"{label} {state}", markup=False, soft_wrap=True)
    return DONE
