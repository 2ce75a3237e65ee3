"""`export`: a project's shots as rows for other programs, and as a sheet to work from by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from prefect_video._counted import counted
from prefect_video.cli.options import LedgerOption, StoreOption, find_project, ledger_name
from prefect_video.cli.output import DONE, print_status, write_stdout
from prefect_video.cli.sessions import open_ledger, run_async, use_store
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.gallery import Manifest, compile_manifest, require_parquet, write_rows, write_sheet
from prefect_video.projects import Project
from prefect_video.session import SessionRef

Format = Literal["csv", "jsonl", "parquet", "sheet"]


def export(
    project: Annotated[str, Parameter(help="Name of a project, or its project file, which also tells the order.")],
    /,
    *,
    format: Annotated[
        Format,
        Parameter(help="`csv`, `jsonl` and `parquet`: one row a take. `sheet`: prompts and references, to read."),
    ] = "csv",
    output: Annotated[Path | None, Parameter(help="File to write; by default standard output.")] = None,
    store: StoreOption = None,
    ledger: LedgerOption = None,
) -> int:
    """Write the shots of a project as rows: prompts, status, provider, cost, times, digests, addresses. Buys nothing.

    Try:

        prefect-video export coffee-ad > shots.csv

        prefect-video export film.yaml --format parquet --output shots.parquet

        prefect-video export film.yaml --format sheet
    """
    if format == "parquet":
        require_parquet()
        if output is None:
            raise InvalidInput("export: a Parquet file is not text: name it with --output")
    ref = SessionRef.from_names(None, store, ledger_name(ledger))
    name, loaded = find_project(project)
    manifest, url = run_async(_read(ref, name, loaded))
    if format == "sheet":
        content = write_sheet(manifest, loaded.shots if loaded else ())
    else:
        content = write_rows(manifest, format, folder=f"{url}/{manifest.project}")
    if output is None:
        write_stdout(content)
        return DONE
    try:
        output.expanduser().write_bytes(content)
    except OSError as error:
        raise StoreError(f"{output} cannot be written ({error.strerror}): give another file with --output") from error
    print_status(f"{counted(len(manifest.takes), 'row')}: {output}")
    return DONE


async def _read(ref: SessionRef, name: str, loaded: Project | None) -> tuple[Manifest, str]:
    """Build a project's manifest from ledger and store, without writing it; return it with the store's address."""
    async with open_ledger(ref.ledger) as ledger, use_store(ref.store) as store:
        return await compile_manifest(ledger, store, name, project=loaded), store.url
