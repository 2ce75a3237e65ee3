"""Options that several commands share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_video.ledger import URL_VARIABLE, default_ledger_url, parse_database_url
from prefect_video.session import SessionRef, names_ledger_block
from prefect_video.shots import Project

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
        help="Take the store as it stands, although videos are missing or it is another one: fetch again what the"
        " provider still has, buy the rest again.",
    ),
]
WaitFlag = Annotated[
    bool,
    Parameter(
        name="--wait",
        negative="--no-wait",
        show_default=False,
        help="`--no-wait` leaves when all shots are at the provider; `prefect-video collect` fetches them.",
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
    """With what videos are made."""

    provider: ProviderOption = None
    store: StoreOption = None
    ledger: LedgerOption = None
    max_in_flight: InFlightOption = None

    @property
    def command_ledger(self) -> str | None:
        """The `--ledger` that commands about these videos need; None where they find the ledger without one.

        Raises:
            InvalidInput: The ledger's name cannot be used.
        """
        if names_ledger_block(self.ledger):
            return self.ledger
        return parse_database_url(self.ledger or default_ledger_url()).command_option

    def ref(self) -> SessionRef:
        """The names of what makes up the session.

        Raises:
            InvalidInput: A number is out of range.
        """
        return SessionRef.from_names(self.provider, self.store, ledger_name(self.ledger), self.max_in_flight)

    def refs(self, project: Project) -> list[SessionRef]:
        """The names of every session that a project needs, the one that makes its shots first.

        Raises:
            InvalidInput: A number is out of range, or `auto` has no accounts to choose from.
        """
        return SessionRef.for_project(project, self.provider, self.store, ledger_name(self.ledger), self.max_in_flight)


def ledger_name(given: str | None) -> str | None:
    """The name by which a ledger may be passed on, None for the environment's.

    A URL goes into this process's environment, so that its password never becomes a flow's parameter. One without a
    password, as messages show it, stands for the environment's own, where that differs by its password only.
    """
    if not given or names_ledger_block(given):
        return given or None
    if "://" in given:
        if not _is_environments_own(given):
            os.environ[URL_VARIABLE] = given
        return None
    return str(Path(given).expanduser().absolute())


def _is_environments_own(url: str) -> bool:
    """Check if a URL without a password, as messages show it, is that of the environment but for its password."""
    given, own = parse_database_url(url), parse_database_url(default_ledger_url())
    return given.url.password is None and given.command_option == own.command_option
