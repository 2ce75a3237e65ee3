"""Options that several commands share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from prefect_video.ledger import URL_VARIABLE, default_ledger_url, parse_database_url
from prefect_video.project_files import load_project
from prefect_video.projects import Project
from prefect_video.rows import TABLE_SUFFIXES, project_from_rows
from prefect_video.session import SessionRef, names_ledger_block

_PROJECT_FILES: Final = (".yaml", ".yml", ".json")

JsonFlag = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON object on stdout.")
]
QuietFlag = Annotated[
    bool, Parameter(name=("--quiet", "-q"), negative="", show_default=False, help="No progress; errors only.")
]
RefreshFlag = Annotated[bool, Parameter(negative="", show_default=False, help="Buy again what is stored already.")]
RebuyMissingFlag = Annotated[
    bool,
    Parameter(
        negative="",
        show_default=False,
        help="Accept the store as it is, although videos are missing or it is another store: fetch again what the"
        " provider still has, and buy the rest again.",
    ),
]
WaitFlag = Annotated[
    bool,
    Parameter(
        name="--wait",
        negative="--no-wait",
        show_default=False,
        help="`--no-wait` ends the run when all shots are submitted; `prefect-video collect` fetches them.",
    ),
]
TemplateOption = Annotated[
    Path | None,
    Parameter(
        name="--template",
        help="For a table of rows (CSV, JSONL, Parquet): a project file with a `shot` in place of `shots`, in whose"
        " texts `{column}` is the row's value.",
    ),
]
ProjectName = Annotated[str | None, Parameter(name="--project", help="Only this project.")]
ProviderOption = Annotated[
    str | None,
    Parameter(
        name="--provider",
        help="A provider's name (`sora`, `emulator`), a saved block (`sora-credentials/production`), or `auto`."
        " Default: what the project names, else `sora` when SORA_API_KEY is set, else the embedded emulator.",
    ),
]
ServiceAccountsOption = Annotated[
    list[str] | None,
    Parameter(name="--account", negative="", help="A provider's name or a saved block; may be given repeatedly."),
]
ServiceDeploymentOption = Annotated[
    str | None,
    Parameter(help="Deployment of generate-project whose workers make what is requested, instead of this process."),
]
StoreOption = Annotated[
    str | None,
    Parameter(
        name="--store",
        help="A folder, `s3://bucket/prefix` or a saved block (`video-store/films`)."
        " Default: PREFECT_VIDEO_STORE, else `./videos`.",
    ),
]
LedgerOption = Annotated[
    str | None,
    Parameter(
        name="--ledger",
        help="An SQLite file, `postgresql://user:password@host/database` or a saved block (`video-ledger/name`)."
        " Default: PREFECT_VIDEO_LEDGER_URL, else a file under Prefect's home.",
    ),
]
InFlightOption = Annotated[
    int | None,
    Parameter(name="--max-in-flight", help="Unfinished generations at once. Default: what the plan allows."),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """The options that select provider, store, ledger and concurrency of a command.

    Attributes:
        provider: A provider's name, a saved block, or `auto`.
        store: A folder, an S3 address or a saved block.
        ledger: A database or a saved block.
        max_in_flight: Unfinished generations at once.
    """

    provider: ProviderOption = None
    store: StoreOption = None
    ledger: LedgerOption = None
    max_in_flight: InFlightOption = None

    @property
    def command_ledger(self) -> str | None:
        """Return the `--ledger` that commands about these videos need; None where they find the ledger without it.

        Raises:
            InvalidInput: The ledger's name cannot be used.
        """
        return command_ledger(self.ledger)

    def ref(self) -> SessionRef:
        """Build the reference of the session.

        Raises:
            InvalidInput: A number is out of range.
        """
        return SessionRef.from_names(self.provider, self.store, ledger_name(self.ledger), self.max_in_flight)

    def refs(self, project: Project) -> list[SessionRef]:
        """Build the references of every session that a project needs, the default one first.

        Raises:
            InvalidInput: A number is out of range, or `auto` has no accounts to choose from.
        """
        return SessionRef.for_project(project, self.provider, self.store, ledger_name(self.ledger), self.max_in_flight)


def read_project(path: Path, template: Path | None) -> Project:
    """Read a project file, or a table of rows with its template.

    Raises:
        InvalidInput: The file, the template or a shot is not valid.
    """
    is_table = template is not None or path.suffix.lower() in TABLE_SUFFIXES
    return project_from_rows(path, template) if is_table else load_project(path)


def find_project(text: str) -> tuple[str, Project | None]:
    """Return the name of a project, and its file's content where a file is named instead.

    Raises:
        InvalidInput: The file cannot be read, or is no project.
    """
    if not text.endswith(_PROJECT_FILES):
        return text, None
    project = load_project(Path(text))
    return project.name, project


def command_ledger(option: str | None) -> str | None:
    """Return the `--ledger` for commands about the same ledger; None where they find it without the option.

    Raises:
        InvalidInput: The ledger's name cannot be used.
    """
    if names_ledger_block(option):
        return option
    return parse_database_url(option or default_ledger_url()).command_option


def ledger_name(option: str | None) -> str | None:
    """Return the name by which a ledger may be passed on, None for the environment's.

    A URL goes into this process's environment, so that its password never becomes a flow's parameter. A URL without a
    password, as messages print it, stands for the environment's own if they differ by the password only.
    """
    if not option or names_ledger_block(option):
        return option or None
    if "://" in option:
        if not _matches_environment(option):
            os.environ[URL_VARIABLE] = option
        return None
    return str(Path(option).expanduser().absolute())


def _matches_environment(url: str) -> bool:
    """Check if a URL has no password and is otherwise the environment's."""
    option, configured = parse_database_url(url), parse_database_url(default_ledger_url())
    return option.url.password is None and option.command_option == configured.command_option
