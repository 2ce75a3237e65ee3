"""`ledger upgrade` and `ledger check`."""

from __future__ import annotations

from prefect_video.cli.answers import DONE, out, print_json
from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.studios import open_ledger, run_async
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Ledger
from prefect_video.session.refs import names_ledger_block


def upgrade(*, ledger: LedgerOption = None, json: JsonFlag = False) -> int:
    """Create the ledger's tables, or bring them up to this version; does nothing on a current one.

    Try:

        prefect-video ledger upgrade --ledger postgresql://user:password@host/video
    """
    return _tell(run_async(_upgrade(ledger_name(ledger))), "is up to date", json)


def check(*, ledger: LedgerOption = None, json: JsonFlag = False) -> int:
    """Prove that the ledger can be reached and written and that its tables are current."""
    return _tell(run_async(_check(ledger_name(ledger))), "can be written and is up to date", json)


async def _upgrade(name: str | None) -> str:
    if names_ledger_block(name):
        raise InvalidInput("ledger upgrade: give the URL; a block's user may not have the right to change tables")
    async with await Ledger.open(name, migrate=True) as ledger:
        return ledger.url_label


async def _check(name: str | None) -> str:
    async with open_ledger(name) as ledger:
        await ledger.check()
        return ledger.url_label


def _tell(label: str, state: str, json: bool) -> int:
    if json:
        print_json({"ledger": label, "ok": True})
    else:
        out().print(f"{label} {state}", markup=False, soft_wrap=True)
    return DONE
