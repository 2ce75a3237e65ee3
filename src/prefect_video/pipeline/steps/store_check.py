"""Store check, before anything is bought: the files of stored jobs are whole.

A file that is merely not seen is no licence to pay. Where several are missing the run ends with the reason. One file
that is missing or damaged is fetched again, free.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

from prefect_video._counted import counted
from prefect_video.assets import MANUAL, Asset
from prefect_video.errors import InvalidInput, StoreError, StoreOutage
from prefect_video.ledger import Job, State
from prefect_video.pipeline.steps.store_identity import outage_advice, repair_command
from prefect_video.pipeline.steps.whole_copies import MISSING, has_copy, sizes_in_reach
from prefect_video.providers import Account
from prefect_video.session import Session
from prefect_video.storage import Store, open_store, place_asset, thumbnail_path

logger = logging.getLogger(__name__)

_NEIGHBORS: Final = 20
"""Newest, earlier and later stored videos of the same store that are checked when one is missing."""
_NEIGHBORS_OF_PURCHASE: Final = 34
"""As `_NEIGHBORS`, once the provider no longer has the missing one, so that it would be bought."""

_NAMES_SHOWN: Final = 5


async def relocate_stored(session: Session, stored: Mapping[str, Job]) -> dict[str, Job]:
    """Return stored jobs, those of a store that moved with their files' new addresses, which are recorded.

    A job that another process has changed meanwhile is returned as it is now, or left out where it is not stored.

    The marker moves with the files: a file that was put into the store with this identity, and lies here under its
    project and name, is that file.
    """
    moved = {key: job for key, job in stored.items() if job.asset and not session.store.owns(job.asset.uri)}
    store_id = await session.store.read_identity() if moved else None
    found = {
        key: place_in_store(session.store, job) for key, job in moved.items() if store_id and job.store_id == store_id
    }
    sizes = await session.store.sizes([asset.uri for asset in found.values()])
    relocated = dict(stored)
    for key, asset in found.items():
        job, detail = stored[key], f"its store has moved: {asset.uri}"
        if sizes.get(asset.uri) != asset.bytes:
            continue
        if await session.ledger.stores.move_asset(
            job, asset, store_id=store_id, store=session.store_name, detail=detail
        ):
            logger.info("%s/%s: %s", job.project, job.shot.id, detail)
            relocated[key] = job.model_copy(update={"asset": asset, "store": session.store_name})
        else:
            relocated[key] = await session.ledger.jobs.get(job.id)
    return {key: job for key, job in relocated.items() if job.state is State.STORED}


def place_in_store(store: Store, job: Job) -> Asset:
    """Return a stored job's asset with the address that its file has where its whole store has moved here."""
    assert job.asset is not None
    _, in_project, below = job.asset.uri.rpartition(f"/{job.project}/")
    # A file in another folder than its project's lies directly in it.
    path = f"{job.project}/{below}" if in_project else "/".join(job.asset.uri.rsplit("/", 2)[1:])
    relative = PurePosixPath(path)
    thumbnail = job.asset.thumbnail_uri and store.uri(thumbnail_path(relative))
    return place_asset(store, job.asset, relative, thumbnail)


async def find_flaws(session: Session, stored: Mapping[str, Job], *, must_reach: bool = False) -> dict[str, str]:
    """Return the flaws of the files of stored jobs, by the jobs' keys; whole files are left out.

    A file is whole when it is there with the size that the ledger knows; `verify` compares the digest.

    Args:
        session: The ledger and the store in use.
        stored: The stored jobs.
        must_reach: Count a file that cannot be reached from here as missing; otherwise it is presumed whole.
    """
    sizes = await _sizes(session, [job for job in stored.values() if job.asset], must_reach=must_reach)
    flaws: dict[str, str] = {}
    for key, job in stored.items():
        if job.asset and (flaw := describe_size(sizes.get(job.asset.uri), job.asset.bytes)):
            flaws[key] = flaw
    return flaws


def describe_size(found: int | None, expected: int) -> str | None:
    """Describe the flaw that a file's size in bytes shows: `missing`, `damaged …`, or None for a whole one."""
    if found is None:
        return MISSING
    return None if found == expected else f"damaged ({found:,} of {expected:,} bytes)"


async def require_single_flaw(
    session: Session, stored: Mapping[str, Job], flaws: Mapping[str, str], *, accounts: Collection[Account]
) -> None:
    """Refuse to treat missing files as deleted ones where that is probably an outage.

    Args:
        session: The store, and the account that would fetch them again.
        stored: The stored jobs, by any key.
        flaws: The result of `find_flaws`.
        accounts: The accounts that the run can fetch videos from.

    Raises:
        StoreOutage: Several files are missing or damaged, or the one cannot be fetched again from here.
    """
    # By file: several jobs may share one.
    flawed = {job.asset.uri: (job, flaws[key]) for key, job in stored.items() if key in flaws and job.asset}
    if len(flawed) == 1:
        ((job, flaw),) = flawed.values()
        await _require_own_store(session, job, flaw, accounts)
        flawed |= await _find_flawed_neighbors(session, job, _NEIGHBORS)
    if len(flawed) > 1:
        raise _outage(session, list(flawed.values()))


async def require_whole_neighbors(session: Session, job: Job) -> None:
    """Refuse to buy again a video whose file and generation are gone, where other files of its store are missing too.

    Raises:
        StoreOutage: Another one is missing or damaged, and buying them again was not requested.
        StoreError: The store cannot be read.
    """
    if job.id in session.accepted_rebuys or job.asset is None:
        return
    if flawed := await _find_flawed_neighbors(session, job, _NEIGHBORS_OF_PURCHASE):
        raise _outage(session, [(job, "missing, also at its provider"), *flawed.values()])


async def _find_flawed_neighbors(session: Session, job: Job, limit: int) -> dict[str, tuple[Job, str]]:
    """Return by URI the stored videos beside a job's in its store that are missing or damaged, with their flaws.

    One of which there is a copy is no sign of an outage: it may have been deleted on purpose.
    """
    beside = {other.id: other for other in await session.ledger.stores.stored_beside(job, limit=limit)}
    flaws = await find_flaws(session, beside)
    found = {other.asset.uri: (other, flaws[key]) for key, other in beside.items() if key in flaws and other.asset}
    own = job.asset.uri if job.asset else None
    return {uri: flawed for uri, flawed in found.items() if uri != own and not await has_copy(session, flawed[0])}


def _outage(session: Session, flawed: Collection[tuple[Job, str]]) -> StoreOutage:
    by_store: dict[str, list[tuple[Job, str]]] = {}
    for job, flaw in flawed:
        by_store.setdefault(_store_of(session, job), []).append((job, flaw))
    found = "; ".join(
        f"the store {name}: {len(flaws)} stored videos are missing or damaged at once ({_name_flawed(flaws)})"
        for name, flaws in by_store.items()
    )
    first = next(iter(flawed))[0]
    return StoreOutage(f"{found}: {outage_advice(session.ledger, *by_store, job_id=first.id)}")


def _store_of(session: Session, job: Job) -> str:
    """Return the name of the store that a job's file is in: an address, or a saved block."""
    return session.store_name if job.asset and session.store.owns(job.asset.uri) else job.store


def can_fetch(job: Job, accounts: Iterable[Account]) -> bool:
    """Return True where one of some accounts has made a job's generation, and can fetch its video again."""
    return any(account.has_made(job.account, job.key_fingerprint) for account in accounts)


async def _require_own_store(session: Session, job: Job, flaw: str, accounts: Collection[Account]) -> None:
    """Refuse a file that seems missing because the store is another one, or that another account must serve."""
    assert job.asset is not None
    if job.provider == MANUAL:
        raise StoreOutage(
            f"shot {job.shot.id!r}: its video was made by hand, and its stored file {job.asset.uri} is {flaw}. Nothing"
            " was bought. Bring the file back, or store the clip again with `prefect-video adopt`; or run with"
            " --rebuy-missing to have the shot generated instead"
        )
    if not can_fetch(job, accounts):
        raise StoreOutage(
            f"shot {job.shot.id!r}: its stored file {job.asset.uri} is {flaw}, and it can be fetched again only"
            f" with the credentials {job.credentials!r} (account {job.account}), which are not in use here."
            f" Nothing was bought. Run `{repair_command(session.ledger, _store_of(session, job))}`, or run with"
            " --rebuy-missing to buy it again"
        )
    found = await session.store.read_identity()
    if session.store.owns(job.asset.uri) and (found is None or job.store_id not in (None, found)):
        raise StoreOutage(
            f"shot {job.shot.id!r}: its stored file {job.asset.uri} is {flaw}, and the store there"
            f" {'has no marker' if found is None else f'is {found}'}, where it was stored in"
            f" {job.store_id or 'one with a marker'}: {outage_advice(session.ledger, session.store_name)}"
        )


async def _sizes(session: Session, jobs: Collection[Job], *, must_reach: bool) -> dict[str, int]:
    """Return the sizes of the files of stored jobs; one that need not be reached has its expected size."""
    expected = {job.asset.uri: job for job in jobs if job.asset}
    owned = [uri for uri in expected if session.store.owns(uri)]
    sizes = await session.store.sizes(owned)
    if must_reach:
        return sizes | await sizes_in_reach(session.store, [uri for uri in expected if uri not in set(owned)])
    elsewhere: dict[str, list[Job]] = {}
    for uri in expected.keys() - set(owned):
        elsewhere.setdefault(expected[uri].store, []).append(expected[uri])
    for name, there in elsewhere.items():
        sizes |= await _sizes_elsewhere(name, there)
    return sizes


async def _sizes_elsewhere(name: str, jobs: Collection[Job]) -> dict[str, int]:
    """Return the sizes of files in another store; a block is not opened, and a folder may be another machine's."""
    expected = {job.asset.uri: job.asset.bytes for job in jobs if job.asset}
    if "://" not in name:
        return expected
    try:
        store = open_store(name)
        try:
            found = await store.read_identity()
            present = {
                job.asset.uri
                for job in jobs
                if job.asset and store.owns(job.asset.uri) and job.store_id in (None, found)
            }
            sizes = await store.sizes(present)
        finally:
            await store.aclose()
    except (InvalidInput, StoreError) as error:
        logger.warning("the files in %s cannot be looked up: %s", name, error)
        return expected
    if skipped := expected.keys() - present:
        files = counted(len(skipped), "file")
        logger.warning("%s of %s cannot be looked up: not put into the store that is there now", files, name)
    return {uri: size for uri, size in expected.items() if uri not in present} | sizes


def _name_flawed(flawed: Collection[tuple[Job, str]]) -> str:
    shown = [f"{job.project}/{job.shot.id} {flaw}, job {job.id[:8]}" for job, flaw in list(flawed)[:_NAMES_SHOWN]]
    return "; ".join(shown) + (f" and {len(flawed) - _NAMES_SHOWN} more" if len(flawed) > _NAMES_SHOWN else "")
