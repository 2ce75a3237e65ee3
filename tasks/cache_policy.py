"""Prefect's own cache for whole shots, keyed on the prompt hash.

Prefect answers from its cache without asking anybody, and forgets nothing. So a key has a number: whatever makes the
last answer count no more, a refresh or a file that is gone, makes the next number the one in use. A key that cannot be
computed makes Prefect run the task uncached; that costs a look into the ledger, never a second payment.
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
    """The result of some work; the thread that asks waits for it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # Called in a thread that runs a loop: that loop cannot run a second one, a thread of its own can.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(contextvars.copy_context().run, asyncio.run, work).result()


@dataclass
class FingerprintPolicy(CachePolicy):
    """Caches a generated video under its fingerprint, its project and the session that made it."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """The cache key, or None to run uncached; never raises, as Prefect would pay for that with a rerun."""
        try:
            ref = SessionRef.from_names(inputs.get("provider"), inputs.get("store"), inputs.get("ledger"))
            last, free = _last_and_free(task_ctx.result_store, _key(ref, inputs))
            if last is None or inputs.get("refresh"):
                return free
            return last if _is_there(task_ctx.result_store, last, ref) else free
        except Exception as error:
            # What is wrong with the shot or the store, the run itself tells better.
            expected = isinstance(error, VideoError | ValueError | TypeError | KeyError | AttributeError | OSError)
            logger.warning(
                "no cache key for this shot, asking the ledger instead: %s", error, exc_info=None if expected else error
            )
            return None


FINGERPRINT = FingerprintPolicy()


def _key(ref: SessionRef, inputs: dict[str, Any]) -> str:
    shot = as_shot(inputs["shot"])
    digests = tuple(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in shot.references)
    hashed = fingerprint(shot, provider=ref.provider, reference_digests=digests)
    environment = Settings.from_environment().environment
    where = hashlib.sha256(
        "\n".join(map(str, (ref.store, ref.ledger, environment, inputs.get("project"), shot.id))).encode()
    )
    return f"prefect-video-{hashed.replace(':', '-')}-{where.hexdigest()[:16]}"


def _last_and_free(results: ResultStore, key: str) -> tuple[str | None, str]:
    """The last of a key's numbers that has an answer, and the first that has none."""
    last: str | None = None
    for number in count():
        numbered = f"{key}-{number}"
        if not results.exists(numbered):
            return last, numbered
        last = numbered
    raise AssertionError("unreachable: numbers do not end")


def _is_there(results: ResultStore, key: str, ref: SessionRef) -> bool:
    answer = results.read(key).result
    return isinstance(answer, Asset) and _is_recent(answer) and run_to_end(_is_whole(answer, ref.store))


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
