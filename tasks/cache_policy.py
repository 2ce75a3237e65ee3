"""Prefect's own cache for whole shots, keyed on the prompt hash.

Prefect answers from its cache without a check of its own, and forgets nothing. So a key has a number: an event that
invalidates the last answer, a refresh or a missing file, makes the next number the current one. A key that cannot be
computed makes Prefect run the task uncached; that costs a query of the ledger, never a second payment.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.results import ResultStore

from prefect_video.assets import Asset
from prefect_video.errors import VideoError
from prefect_video.fingerprints import fingerprint
from prefect_video.session import Settings
from prefect_video.shots import as_shot
from prefect_video.storage import sizes_anywhere
from prefect_video.tasks.sessions import BlockResolver, SessionRef

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def run_to_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine from synchronous code, with or without a running loop, and return its result."""
    if not _has_running_loop():
        return asyncio.run(work)
    # Called in a thread that runs a loop: that loop cannot run a second one, a thread of its own can.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(contextvars.copy_context().run, asyncio.run, work).result()


def _has_running_loop() -> bool:
    # A function of its own: what is raised in an `except` block shows that block's error first.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@dataclass
class FingerprintPolicy(CachePolicy):
    """Cache policy that keys a video by its fingerprint, its project and the session that made it."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """Return the cache key, or None to run uncached; never raise, as Prefect would then run the task again."""
        try:
            ref = SessionRef.from_names(inputs.get("provider"), inputs.get("store"), inputs.get("ledger"))
            last, free = _last_and_free(task_ctx.result_store, _key(ref, inputs))
            if last is None or inputs.get("refresh"):
                return free
            return last if _is_usable(task_ctx.result_store, last, ref) else free
        except Exception as error:
            # The run itself reports better what is wrong with the shot or the store.
            expected = isinstance(error, VideoError | ValueError | TypeError | KeyError | AttributeError | OSError)
            logger.warning(
                "no cache key for this shot, using the ledger instead: %s",
                error,
                exc_info=None if expected else error,
            )
            return None


FINGERPRINT = FingerprintPolicy()


def _key(ref: SessionRef, inputs: dict[str, Any]) -> str:
    shot = as_shot(inputs["shot"])
    digests = tuple(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in shot.references)
    hashed = fingerprint(shot, provider=ref.provider, reference_digests=digests)
    environment = Settings.from_environment().environment
    place = hashlib.sha256(
        "\n".join(map(str, (ref.store, ref.ledger, environment, inputs.get("project"), shot.id))).encode()
    )
    return f"prefect-video-{hashed.replace(':', '-')}-{place.hexdigest()[:16]}"


def _last_and_free(results: ResultStore, key: str) -> tuple[str | None, str]:
    """Return the last of a key's numbers that has a result, and the first that has none."""
    last: str | None = None
    for number in count():
        numbered = f"{key}-{number}"
        if not results.exists(numbered):
            return last, numbered
        last = numbered
    raise AssertionError("unreachable: numbers do not end")


def _is_usable(results: ResultStore, key: str, ref: SessionRef) -> bool:
    asset = results.read(key).result
    return isinstance(asset, Asset) and _is_recent(asset) and run_to_end(_is_whole(asset, ref.store))


def _is_recent(asset: Asset) -> bool:
    # Not by Prefect's own expiry, which is fixed when the task is defined: settings are read when they are used.
    ttl_seconds = Settings.from_environment().ttl_seconds
    return ttl_seconds is None or (datetime.now(UTC) - asset.created_at).total_seconds() < ttl_seconds


async def _is_whole(asset: Asset, store_name: str) -> bool:
    store = await BlockResolver().store(store_name)
    try:
        return (await sizes_anywhere(store, [asset.uri])).get(asset.uri) == asset.bytes
    finally:
        await store.aclose()
