"""`review`: prompts that were refused, and those that a human allows."""

from __future__ import annotations

import getpass
from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.commands.jobs import public_job
from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.output import DONE, escape, print_json, relative_time, stdout
from prefect_video.cli.sessions import open_ledger, run_async
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, Ledger


def review(
    *,
    allow: Annotated[
        str | None,
        Parameter(
            help="Let the prompt with this fingerprint (or its beginning) pass the local screen, and be sent once more."
        ),
    ] = None,
    note: Annotated[str | None, Parameter(help="Why it is allowed; kept in the ledger.")] = None,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """List prompts that the provider's policy or the local screen refused; allow one.

    Allowing overrules the local screen. A provider's policy is the provider's: a prompt that it stopped is sent once
    more, and may be stopped, and billed, again.

    Try:

        prefect-video review

        prefect-video review --allow v1:3fa94c07d2 --note "the client's own brand"
    """
    if note is not None and allow is None:
        raise InvalidInput("--note: it belongs to --allow FINGERPRINT")
    if allow is not None:
        fingerprint = run_async(_allow(ledger_name(ledger), allow, note or f"allowed by {getpass.getuser()}"))
        if json:
            print_json({"allowed": fingerprint})
        else:
            stdout().print(f"allowed: {fingerprint}", soft_wrap=True)
        return DONE
    jobs = run_async(_refused(ledger_name(ledger)))
    if json:
        print_json({"refused": [public_job(job) for job in jobs]})
    else:
        _show(jobs)
    return DONE


async def _refused(ledger: str | None) -> list[Job]:
    async with open_ledger(ledger) as books:
        return await books.reviews.refused()


async def _allow(ledger: str | None, text: str, note: str) -> str:
    async with open_ledger(ledger) as books:
        fingerprint = await _meant(books, text)
        await books.reviews.allow(fingerprint, note)
        return fingerprint


async def _meant(books: Ledger, text: str) -> str:
    refused = {job.fingerprint for job in await books.reviews.refused()}
    matches = [fingerprint for fingerprint in refused if fingerprint.startswith(text) and len(text) > len("v1:")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InvalidInput(f"--allow: {text!r} is the beginning of {len(matches)} fingerprints; give more of it")
    raise InvalidInput(f"--allow: no refused prompt has the fingerprint {text!r}; see: prefect-video review")


def _show(jobs: list[Job]) -> None:
    console = stdout()
    if not jobs:
        console.print("no refused prompts")
    for job in jobs:
        console.print(
            f"[bold]{escape(job.project)}/{escape(job.shot.id)}[/] [dim]{relative_time(job.created_at)} ago[/]",
            soft_wrap=True,
        )
        console.print(f"  [dim]fingerprint[/] {job.fingerprint}", soft_wrap=True)
        console.print(f"  [dim]prompt     [/] {escape(' '.join(job.shot.prompt.split())[:300])}", soft_wrap=True)
        console.print(f"  [dim]refused    [/] {escape(job.error_message)}", soft_wrap=True)
