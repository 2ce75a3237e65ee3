"""The session: provider, ledger, store and settings that are open together, for all shots of a process.

It may import the providers, the ledger, the stores, polling and limits; it knows nothing of the pipeline above it.
"""

from prefect_video.session.refs import NameResolver, StudioRef, observing, open_ledger, open_session
from prefect_video.session.session import Observer, SessionEvent, Studio
from prefect_video.session.settings import SessionOverrides, StudioSettings

__all__ = [
    "NameResolver",
    "Observer",
    "SessionEvent",
    "SessionOverrides",
    "Studio",
    "StudioRef",
    "StudioSettings",
    "observing",
    "open_ledger",
    "open_session",
]
