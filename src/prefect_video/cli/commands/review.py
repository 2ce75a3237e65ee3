"""`review`: prompts that were refused, and the exceptions that a reviewer allows."""

from __future__ import annotations

import getpass
from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.job_view import public_job
from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.output import DONE, escape, print_json, relative_time, stdout
from prefect_video.cli.sessions import open_ledger, run_async
from prefect_video.errors import InvalidInput
from prefect_video.ledger import Job, Ledger, command_line


def review(
    *,
    allow: Annotated[
        str | None,
        Parameter(
            help="Let the prompt with this fingerprint (or its beginning) pass the local screen and be sent once more."
        ),
    ] = None,
    note: Annotated[str | None, Parameter(help="The reason; kept in the ledger.")] = None,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """List prompts that the provider's policy or the local screen refused; allow one.

    Allowing overrules the local screen, not a provider's policy: a prompt that the provider refused is sent once
    more, and may be refused, and billed, again.

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
    jobs = run_async(_read_refused(ledger_name(ledger)))
    if json:
        print_json({"refused": [public_job(job) for job in jobs]})
    else:
        _show(jobs)
    return DONE


async def _read_refused(name: str | None) -> list[Job]:
    async with open_ledger(name) as ledger:
        return await ledger.reviews.refused()


async def _allow(name: str | None, text: str, note: str) -> str:
    async with open_ledger(name) as ledger:
        fingerprint = await _find_fingerprint(ledger, text)
        await ledger.reviews.allow(fingerprint, note)
        return fingerprint


async def _find_fingerprint(ledger: Ledger, text: str) -> str:
    """Find the one refused prompt whose fingerprint begins with a text.

    Raises:
        InvalidInput: None does, or several do.
    """
    refused = {job.fingerprint for job in await ledger.reviews.refused()}
    # The version prefix alone begins every fingerprint.
    matches = [fingerprint for fingerprint in refused if fingerprint.startswith(text) and len(text) > len("v1:")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InvalidInput(f"--allow: {text!r} is the beginning of {len(matches)} fingerprints; give more of it")
    listing = command_line("review", ledger=ledger.command_option)
    raise InvalidInput(f"--allow: no refused prompt has the fingerprint {text!r}; see: {listing}")


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
