"""Session: the provider, ledger, store and settings that one run shares, opened together and closed together.

May import every room below it: limits, polling, providers, storage, downloads, ledger and the records. Pipeline, the
service, the command line and the Prefect folders open sessions through this door.
"""

from prefect_video.session.refs import (
    DEFAULT_PROJECT,
    STORE_BLOCK,
    LedgerSource,
    NamedSessionOpener,
    NameResolver,
    SessionNames,
    SessionOpener,
    SessionRef,
    group_by_session,
    load_capabilities,
    names_ledger_block,
    notify_observers,
    observe,
    open_ledger,
    open_session,
    ref_for_job,
)
from prefect_video.session.session import DEFAULT_IN_FLIGHT, Observer, Session, SessionEvent
from prefect_video.session.settings import EnvironmentSettings, SessionOverrides, Settings

__all__ = [
    "DEFAULT_IN_FLIGHT",
    "DEFAULT_PROJECT",
    "STORE_BLOCK",
    "EnvironmentSettings",
    "LedgerSource",
    "NameResolver",
    "NamedSessionOpener",
    "Observer",
    "Session",
    "SessionEvent",
    "SessionNames",
    "SessionOpener",
    "SessionOverrides",
    "SessionRef",
    "Settings",
    "group_by_session",
    "load_capabilities",
    "names_ledger_block",
    "notify_observers",
    "observe",
    "open_ledger",
    "open_session",
    "ref_for_job",
]
