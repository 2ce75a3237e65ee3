"""`setup`: everything that the deployments of a folder need, made in Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag
from prefect_video.cli.output import DONE, FAILED, escape, one_line, print_json, print_status, stdout
from prefect_video.cli.prefect_startup import PrefectUnavailable, ensure_api
from prefect_video.cli.sessions import run_async
from prefect_video.deployments import Change, DeploymentFile, Outcome, read_deployment_file
from prefect_video.errors import InvalidInput

_WOULD: Final = {Outcome.CREATED: "would create", Outcome.UPDATED: "would update"}
_COLORS: Final = {Outcome.CREATED: "green", Outcome.UPDATED: "yellow", Outcome.UNCHANGED: "dim", Outcome.MISSING: "red"}


def setup(
    folder: Annotated[Path, Parameter(help="Where prefect.yaml lies; `prefect-video init` writes one.")] = Path(),
    /,
    *,
    pool: Annotated[str | None, Parameter(help="Use this work pool instead of the one in prefect.yaml.")] = None,
    pool_type: Annotated[
        str | None,
        Parameter(help="Type of a pool that has to be created: `process`, `docker`, `kubernetes`. Default: process."),
    ] = None,
    environment: Annotated[
        Literal["development", "staging", "production"] | None,
        Parameter(
            help="Use the blocks of this name, and listen to its events only. Other names than production's end in it."
        ),
    ] = None,
    notify: Annotated[
        str | None, Parameter(help="A saved notification block (`slack-webhook/ops`) for budgets and unusual volumes.")
    ] = None,
    dry_run: Annotated[
        bool, Parameter(negative="", show_default=False, help="Say what would be done, and do nothing.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Make in Prefect what prefect.yaml needs: block types, pool, queues, limits, deployments, automations.

    Can be repeated: what is as it should be stays as it is, and nothing is removed. Schedules and automations that were
    paused or resumed by hand stay so. Exit status 1 while a block is missing.

    Try:

        prefect-video setup --dry-run

        prefect-video setup films --notify slack-webhook/ops
    """
    file = read_deployment_file(folder)
    ensure_api()
    _require_server()
    changes = run_async(_setup(file, folder, json, dry_run, pool, pool_type, environment, notify))
    missing = [change for change in changes if change.outcome is Outcome.MISSING]
    if json:
        print_json(
            {"ok": not missing, "dry_run": dry_run, "changes": [change.model_dump(mode="json") for change in changes]}
        )
    else:
        _show_next_step(changes, len(missing), dry_run)
    return FAILED if missing else DONE


async def _setup(
    file: DeploymentFile,
    folder: Path,
    json: bool,
    dry_run: bool,
    pool: str | None,
    pool_type: str | None,
    environment: str | None,
    notify: str | None,
) -> list[Change]:
    """Set up Prefect, and print a line for each change when it is done."""
    import httpx
    from prefect.exceptions import PrefectException

    from prefect_video.deployments import setup_prefect

    changes: list[Change] = []
    try:
        async for change in setup_prefect(
            file,
            folder,
            environment=environment,
            pool=pool,
            pool_type=pool_type,
            notify=notify,
            dry_run=dry_run,
        ):
            changes.append(change)
            if not json:
                _show(change, dry_run)
    except (httpx.HTTPError, PrefectException) as error:
        raise PrefectUnavailable(
            f"Prefect's API did not do what was asked ({one_line(error)}). What is listed above is done: correct the"
            " cause and run the same command again"
        ) from error
    return changes


def _require_server() -> None:
    """Raise an error where no server is configured: workers could not reach the embedded one."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise InvalidInput(
            "deployments need a Prefect server that workers can reach: start one (`prefect server start`) or use"
            " Prefect Cloud, and set PREFECT_API_URL. Nothing was changed."
        )


def _show(change: Change, dry_run: bool) -> None:
    label = _WOULD.get(change.outcome, change.outcome.value) if dry_run else change.outcome.value
    detail = f"  ({change.detail})" if change.detail else ""
    stdout().print(
        f"[{_COLORS[change.outcome]}]{label:<12}[/] {change.kind:<17} {escape(change.name)}{escape(detail)}",
        soft_wrap=True,
    )


def _show_next_step(changes: Sequence[Change], missing: int, dry_run: bool) -> None:
    if missing:
        are = "block is" if missing == 1 else "blocks are"
        print_status(
            f"{missing} {are} missing or wrong: runs fail until it is mended as the lines above say", error=True
        )
    pools = [change.name for change in changes if change.kind == "work pool"]
    if not dry_run and pools:
        print_status(f"Next, on any machine with the package: prefect worker start --pool {pools[0]}")
