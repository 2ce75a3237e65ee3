"""Warning for runs on a worker whose ledger would be a file of that worker alone."""

from __future__ import annotations

import logging
import os

from prefect_video.ledger import URL_VARIABLE, default_ledger_url
from prefect_video.session import STORE_BLOCK, SessionRef

logger = logging.getLogger(__name__)

_WORKER_VARIABLE = "PREFECT__FLOW_RUN_ID"
"""Set by Prefect where it starts a run in a process or container of its own."""

_warned: set[SessionRef] = set()


def warn_about_default_ledger(ref: SessionRef) -> None:
    """Warn, once for each reference, of a run on a worker that names store and credentials but no ledger."""
    names_both = "/" in ref.provider and ref.store.startswith(f"{STORE_BLOCK}/")
    has_ledger = ref.ledger is not None or bool(os.environ.get(URL_VARIABLE))
    if has_ledger or not names_both or not os.environ.get(_WORKER_VARIABLE) or ref in _warned:
        return
    _warned.add(ref)
    logger.warning(
        "This run names credentials (%s) and store (%s) and no ledger, so it remembers what it pays in %s, on this"
        " worker alone: other workers do not see it and may buy the same video again, budgets are counted for each"
        " worker by itself, and a container forgets all of it. Give the deployment the parameter ledger, such as"
        " video-ledger/production, or set %s on the workers.",
        ref.provider,
        ref.store,
        default_ledger_url(),
        URL_VARIABLE,
    )
