"""`account rename` and `account share`: an account under another name, and a key under two."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_video._counted import counted
from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.output import DONE, print_json, stdout
from prefect_video.cli.sessions import open_ledger, run_async

Old = Annotated[str, Parameter(help="Id of the account, as `prefect-video spend --by account` shows it.")]
New = Annotated[str, Parameter(help="Id of the account under its other name, as the refusal of a run names it.")]


def rename(
    old: Old,
    new: New,
    /,
    *,
    credentials: Annotated[
        str | None,
        Parameter(
            help="Block or provider by which its unfinished jobs are resumed and its deferred runs completed from now"
            " on; by default as before."
        ),
    ] = None,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Move the jobs, slots, budgets, circuit breaker and keys of an account to its other name. Pays for nothing.

    It is done as a whole or not at all, and refused while a process works on jobs of the account.

    Try:

        prefect-video account rename sora-1f2e3d4c5b6a7980 sora:main:0a1b2c3d
    """
    moved = run_async(_rename(ledger_name(ledger), old, new, credentials))
    if json:
        print_json({"account": new, "jobs": moved})
    else:
        stdout().print(f"{counted(moved, 'job')} of {old} are recorded as {new} now", highlight=False, markup=False)
    return DONE


def share(old: Old, new: New, /, *, ledger: LedgerOption = None, json: JsonFlag = False) -> int:
    """Let a second account use the keys of an account, with budgets and slots of its own.

    Try:

        prefect-video account share sora:main:0a1b2c3d sora:trailers:0a1b2c3d
    """
    run_async(_share(ledger_name(ledger), old, new))
    if json:
        print_json({"account": new, "shares_keys_of": old})
    else:
        stdout().print(f"{new} may use the keys of {old}", highlight=False, markup=False)
    return DONE


async def _rename(name: str | None, old: str, new: str, credentials: str | None) -> int:
    async with open_ledger(name) as ledger:
        return await ledger.names.rename(old, new, credentials=credentials)


async def _share(name: str | None, old: str, new: str) -> None:
    async with open_ledger(name) as ledger:
        await ledger.names.share(old, new)
