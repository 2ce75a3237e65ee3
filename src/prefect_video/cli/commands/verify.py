"""`verify`: the store compared with the ledger, in both directions."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final

from cyclopts import Parameter

from prefect_video._counted import counted
from prefect_video.cli.options import JsonFlag, LedgerOption, ledger_name
from prefect_video.cli.output import DONE, FAILED, display_path, escape, print_json, print_status, stdout, table
from prefect_video.cli.sessions import open_ledger, run_async, use_session, use_store
from prefect_video.downloads import require_reader
from prefect_video.ledger import command_line
from prefect_video.pipeline import Verification, verify_store
from prefect_video.session import STORE_BLOCK, SessionRef

_FILES_SHOWN: Final = 20


def verify(
    store: Annotated[
        str | None,
        Parameter(
            help="A folder, `s3://bucket/prefix` or a saved block (`video-store/films`)."
            " Default: PREFECT_VIDEO_STORE, else `./videos`."
        ),
    ] = None,
    /,
    *,
    repair: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Fetch again, free, what the provider still has; rewrite missing sidecars and copies.",
        ),
    ] = False,
    c2pa: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Read the C2PA manifest of every video anew; needs the extra `prefect-video[c2pa]`.",
        ),
    ] = False,
    ledger: LedgerOption = None,
    json: JsonFlag = False,
) -> int:
    """Compare a store with the ledger: every video (presence, size, SHA-256, sidecar) and every file. Buys nothing.

    The manifests of its projects are compared too: with the ledger, and with the files that the ledger does not know.

    Exit status: 0 every video is whole, 1 something is missing, damaged or not repaired, a manifest does not hold, or
    the store holds videos that this ledger has paid for and does not know (it is an old backup). Other files without a
    job are no error, nor is a C2PA manifest that is not there or does not hold: it is listed.

    Try:

        prefect-video verify s3://films/ads

        prefect-video verify --repair
    """
    ref = SessionRef.from_names(None, store, ledger_name(ledger))
    if c2pa:
        require_reader()
    verification, command_ledger = run_async(_verify(ref, repair, c2pa))
    if json:
        print_json(verification.public())
    else:
        name = _block_name(ref) or verification.store
        _show(verification, name, command_ledger)
    return DONE if verification.is_whole else FAILED


async def _verify(ref: SessionRef, repair: bool, c2pa: bool) -> tuple[Verification, str | None]:
    """Verify a store; return the outcome, and the `--ledger` that a further command needs."""
    async with open_ledger(ref.ledger) as ledger, use_store(ref.store) as store:
        verification = await verify_store(
            ledger,
            store,
            name=_block_name(ref),
            open_session=(lambda job: use_session(ref.model_copy(update={"provider": job.credentials})))
            if repair
            else None,
            read_credentials=c2pa,
        )
        return verification, ledger.command_option


def _block_name(ref: SessionRef) -> str | None:
    return ref.store if ref.store.startswith(f"{STORE_BLOCK}/") else None


def _show(verification: Verification, name: str, command_ledger: str | None) -> None:
    if verification.outage:
        print_status(verification.outage, error=True)
    if verification.unrecorded:
        print_status(
            f"this ledger has paid for {counted(len(verification.unrecorded), 'video')} that it does not know: it is an"
            f" old backup. Before anything is bought, run: {verification.recover_command}",
            error=True,
        )
    if verification.flaws:
        grid = table("job", "project", "shot", "problem", "outcome", "file")
        for flaw in verification.flaws:
            outcome = "repaired" if flaw.repaired else "not repaired" if flaw.error else ""
            grid.add_row(
                flaw.job_id[:8],
                escape(flaw.project),
                escape(flaw.shot),
                flaw.problem,
                outcome,
                escape(display_path(flaw.uri)),
            )
        stdout().print(grid)
    for flaw in verification.flaws:
        print_status(
            f"{flaw.project}/{flaw.shot}: {flaw.detail}" + (f"; not repaired: {flaw.error}" if flaw.error else "")
        )
    for broken in verification.manifest_flaws:
        print_status(f"{broken.project}/{broken.path}: {broken.detail}", error=True)
    _show_credentials(verification)
    for uri in verification.unknown_files[:_FILES_SHOWN]:
        print_status(f"no job knows {display_path(uri)}")
    if (more := len(verification.unknown_files) - _FILES_SHOWN) > 0:
        print_status(f"and {more} more files that no job knows; --json lists all")
    _show_totals(verification, command_line("verify", name, "--repair", ledger=command_ledger))
    if unrepaired := next((flaw for flaw in verification.flaws if flaw.error), None):
        print_status(
            "a video that was deleted on purpose is left out from then on with:"
            f" {command_line('resolve', unrepaired.job_id, '--give-up', ledger=command_ledger)}"
        )


def _show_totals(verification: Verification, repair_command: str) -> None:
    broken = sum(not flaw.repaired for flaw in verification.flaws)
    repaired = len(verification.flaws) - broken
    text = f"{verification.store}: {verification.assets - broken} of {counted(verification.assets, 'video')} whole"
    if repaired:
        text += f", {repaired} of them repaired"
    if verification.unknown_files:
        text += f"; {counted(len(verification.unknown_files), 'file')} that no job knows"
    stdout().print(text, markup=False, soft_wrap=True)
    if broken and not any(flaw.error for flaw in verification.flaws):
        print_status(f"to fetch again, free, what the provider still has, run: {repair_command}")


def _show_credentials(verification: Verification) -> None:
    """Print how many videos have a C2PA manifest, by its state, and each flaw."""
    states = Counter(line.found.state for line in verification.content_credentials)
    if states:
        counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
        print_status(f"C2PA manifests: {counts}")
    for line in verification.content_credentials:
        if line.flaw:
            print_status(f"{line.project}/{line.shot}: {line.flaw}")
