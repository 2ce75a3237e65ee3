"""Store check, before anything is bought: it is the store that the ledger knows, and its files are whole.

A file that is merely not seen is no licence to pay. A mount point without its volume is an empty folder, and a bucket
may be another one: then the run ends with the reason. One file that is missing or damaged is fetched again, free.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Final

from prefect_video.assets import Asset
from prefect_video.errors import InvalidInput, StoreError, StoreOutage
from prefect_video.ledger import Job, Ledger, command_line
from prefect_video.session import Session
from prefect_video.storage import STORE_MARKER, Store, open_store, place_asset, thumbnail_path

logger = logging.getLogger(__name__)

_NEIGHBORS: Final = 20
"""Newest, earlier and later stored videos of the same store that are checked when one is missing."""
_NEIGHBORS_OF_PURCHASE: Final = 34
"""As `_NEIGHBORS`, once the provider no longer has the missing one, so that it would be bought."""

_NAMES_SHOWN: Final = 5


async def check_store(ledger: Ledger, store: Store) -> str | None:
    """Return the identity of the store, None for a new one; nothing is written.

    Raises:
        StoreOutage: The store has no marker, or another one, and the ledger has videos at its address.
        StoreError: The store cannot be read.
    """
    url = store.url
    found = await store.read_identity()
    known = await _known_ids(ledger, store)
    if known and found not in known and await ledger.stores.holds_assets(known):
        there = f"has no marker ({STORE_MARKER})" if found is None else f"is another one (its marker says {found})"
        raise StoreOutage(
            f"the store {url} {there}, and the ledger has videos in the store {', '.join(sorted(known))} at that"
            f" address: {_advice(ledger, url)}"
        )
    return found


async def _known_ids(ledger: Ledger, store: Store) -> set[str]:
    """Return the identities of all stores that were ever used at a store's address, in any spelling of it."""
    known: set[str] = set()
    for url in await ledger.stores.urls():
        if store.is_at(url):
            known |= await ledger.stores.store_ids(url)
    return known


async def accept_store(ledger: Ledger, store: Store) -> str:
    """Accept a store as one of the ledger's, marking it where it has no marker; return its identity.

    Raises:
        StoreError: The store cannot be read or written.
    """
    store_id = await store.read_identity()
    if store_id is None:
        store_id = await store.create_identity(await ledger.stores.propose_store_id(store.url))
    await ledger.stores.remember_store(store_id, store.url)
    return store_id


async def claim_store(ledger: Ledger, store: Store) -> str:
    """Return the identity of the store that is about to be written; the first to write to a new one marks it.

    Raises:
        StoreOutage: It is not the store that the ledger knows at that address.
        StoreError: The store cannot be read or written.
    """
    found = await check_store(ledger, store)
    if found is not None and found in await ledger.stores.store_ids(store.url):
        return found
    return await accept_store(ledger, store)


async def relocate_stored(session: Session, stored: Mapping[str, Job]) -> dict[str, Job]:
    """Return stored jobs, those of a store that moved with their files' new addresses, which are recorded.

    The marker moves with the files: a file that was put into the store with this identity, and lies here under its
    project and name, is that file.
    """
    moved = {key: job for key, job in stored.items() if job.asset and not session.store.owns(job.asset.uri)}
    store_id = await session.store.read_identity() if moved else None
    found = {
        key: _asset_here(session.store, job) for key, job in moved.items() if store_id and job.store_id == store_id
    }
    sizes = await session.store.sizes([asset.uri for asset in found.values()])
    relocated = dict(stored)
    for key, asset in found.items():
        is_whole = sizes.get(asset.uri) == asset.bytes
        if is_whole and await session.ledger.stores.move_asset(stored[key], asset):
            logger.info("%s/%s: its store has moved: %s", stored[key].project, stored[key].shot.id, asset.uri)
            relocated[key] = stored[key].model_copy(update={"asset": asset})
    return relocated


def _asset_here(store: Store, job: Job) -> Asset:
    assert job.asset is not None
    relative = PurePosixPath(job.project) / job.asset.uri.rpartition("/")[2]
    thumbnail = job.asset.thumbnail_uri and store.uri(thumbnail_path(relative))
    return place_asset(store, job.asset, relative, thumbnail)


async def find_flaws(session: Session, stored: Mapping[str, Job]) -> dict[str, str]:
    """Return the flaws of the files of stored jobs, by the jobs' keys; whole files are left out.

    A file is whole when it is there with the size that the ledger knows; `verify` compares the digest.
    """
    sizes = await _sizes(session, [job for job in stored.values() if job.asset])
    flaws: dict[str, str] = {}
    for key, job in stored.items():
        if job.asset and (flaw := describe_size(sizes.get(job.asset.uri), job.asset.bytes)):
            flaws[key] = flaw
    return flaws


def describe_size(found: int | None, expected: int) -> str | None:
    """Describe the flaw that a file's size in bytes shows: `missing`, `damaged …`, or None for a whole one."""
    if found is None:
        return "missing"
    return None if found == expected else f"damaged ({found:,} of {expected:,} bytes)"


async def require_single_flaw(
    session: Session, stored: Mapping[str, Job], flaws: Mapping[str, str], *, accounts: Collection[str]
) -> None:
    """Refuse to treat missing files as deleted ones where that is probably an outage.

    Args:
        session: The store, and the account that would fetch them again.
        stored: The stored jobs, by any key.
        flaws: The result of `find_flaws`.
        accounts: Ids of the accounts that the run can fetch videos from.

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
    """Return by URI the stored videos beside a job's in its store that are missing or damaged, with their flaws."""
    beside = {row.id: row for row in await session.ledger.stores.stored_beside(job, limit=limit)}
    flaws = await find_flaws(session, beside)
    found = {row.asset.uri: (row, flaws[key]) for key, row in beside.items() if key in flaws and row.asset}
    own = job.asset.uri if job.asset else None
    return {uri: flawed for uri, flawed in found.items() if uri != own}


def _outage(session: Session, flawed: Collection[tuple[Job, str]]) -> StoreOutage:
    by_store: dict[str, list[tuple[Job, str]]] = {}
    for job, flaw in flawed:
        by_store.setdefault(_store_of(session, job), []).append((job, flaw))
    found = "; ".join(
        f"the store {name}: {len(rows)} stored videos are missing or damaged at once ({_name_flawed(rows)})"
        for name, rows in by_store.items()
    )
    return StoreOutage(f"{found}: {_advice(session.ledger, *by_store)}")


def _store_of(session: Session, job: Job) -> str:
    """Return the name of the store that a job's file is in: an address, or a saved block."""
    return session.store_name if job.asset and session.store.owns(job.asset.uri) else job.store


async def _require_own_store(session: Session, job: Job, flaw: str, accounts: Collection[str]) -> None:
    """Refuse a file that seems missing because the store is another one, or that another account must serve."""
    assert job.asset is not None
    if job.account not in accounts:
        raise StoreOutage(
            f"shot {job.shot.id!r}: its stored file {job.asset.uri} is {flaw}, and it can be fetched again only"
            f" with the credentials {job.credentials!r} (account {job.account}), which are not in use here."
            f" Nothing was bought. Run `{_repair(session.ledger, _store_of(session, job))}`, or run with"
            " --rebuy-missing to buy it again"
        )
    found = await session.store.read_identity()
    if session.store.owns(job.asset.uri) and (found is None or job.store_id not in (None, found)):
        raise StoreOutage(
            f"shot {job.shot.id!r}: its stored file {job.asset.uri} is {flaw}, and the store there"
            f" {'has no marker' if found is None else f'is {found}'}, where it was stored in"
            f" {job.store_id or 'one with a marker'}: {_advice(session.ledger, session.store_name)}"
        )


async def _sizes(session: Session, rows: Collection[Job]) -> dict[str, int]:
    """Return the sizes of the files of stored jobs; one that cannot be read from here has its expected size."""
    expected = {job.asset.uri: job for job in rows if job.asset}
    owned = [uri for uri in expected if session.store.owns(uri)]
    sizes = await session.store.sizes(owned)
    elsewhere: dict[str, list[Job]] = {}
    for uri in expected.keys() - set(owned):
        elsewhere.setdefault(expected[uri].store, []).append(expected[uri])
    for name, jobs in elsewhere.items():
        sizes |= await _sizes_elsewhere(name, jobs)
    return sizes


async def _sizes_elsewhere(name: str, rows: Collection[Job]) -> dict[str, int]:
    """Return the sizes of files in another store; a block is not opened, and a folder may be another machine's."""
    expected = {job.asset.uri: job.asset.bytes for job in rows if job.asset}
    if "://" not in name:
        return expected
    try:
        store = open_store(name)
        try:
            found = await store.read_identity()
            present = {
                job.asset.uri
                for job in rows
                if job.asset and store.owns(job.asset.uri) and job.store_id in (None, found)
            }
            sizes = await store.sizes(present)
        finally:
            await store.aclose()
    except (InvalidInput, StoreError) as error:
        logger.warning("the files in %s cannot be looked up: %s", name, error)
        return expected
    if skipped := expected.keys() - present:
        logger.warning("%d files of %s cannot be looked up: it is not the store they were put into", len(skipped), name)
    return {uri: size for uri, size in expected.items() if uri not in present} | sizes


def _advice(ledger: Ledger, *stores: str) -> str:
    repairs = " and ".join(f"`{_repair(ledger, name)}`" for name in stores)
    return (
        "that is an outage, no reason to pay. Nothing was bought, and nothing is marked lost. Mount the volume or"
        f" correct the store's address, and run again. If the files are really deleted: {repairs}"
        " fetches again, free, what the provider still has, and a run with --rebuy-missing buys the rest"
    )


def _repair(ledger: Ledger, url: str) -> str:
    return command_line("verify", url, "--repair", ledger=ledger.command_option)


def _name_flawed(flawed: Collection[tuple[Job, str]]) -> str:
    shown = [f"{job.project}/{job.shot.id} {flaw}" for job, flaw in list(flawed)[:_NAMES_SHOWN]]
    return ", ".join(shown) + (f" and {len(flawed) - _NAMES_SHOWN} more" if len(flawed) > _NAMES_SHOWN else "")
