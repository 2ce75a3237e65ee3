"""Jobs: all that is read of them, and all their guarded steps."""

from __future__ import annotations

from prefect_video.ledger.queries import Queries
from prefect_video.ledger.transitions import Transitions


class Jobs(Queries, Transitions):
    """The jobs of a ledger: reads from `Queries`, state changes from `Transitions`."""
