"""The session: provider, ledger, store and settings that are open together, for all shots of a process.

It may import the providers, the ledger, the stores, polling and limits; it knows nothing of the pipeline above it.
"""

from prefect_video.session.refs import NameResolver, SessionRef, observe, open_ledger, open_session
from prefect_video.session.session import Observer, Session, SessionEvent
from prefect_video.session.settings import SessionOverrides, Settings

__all__ = [
    "NameResolver",
    "Observer",
    "Session",
    "SessionEvent",
    "SessionOverrides",
    "SessionRef",
    "Settings",
    "observe",
    "open_ledger",
    "open_session",
]
