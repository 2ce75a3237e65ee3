"""Store identity: the store in use is the one that the ledger knows at its address, and the address is its root.

A mount point without its volume is an empty folder, a bucket may be another one, and a folder above or inside a store
holds the same files under other paths: each is an outage, in which nothing is bought, moved or recorded.
"""

from __future__ import annotations

from typing import Final

from prefect_video.errors import StoreOutage
from prefect_video.ledger import Ledger, command_line
from prefect_video.session import Session
from prefect_video.storage import STORE_MARKER, Store

_NAMES_SHOWN: Final = 3


async def check_store(ledger: Ledger, store: Store, name: str | None = None) -> str | None:
    """Return the identity of the store, None for a new one; nothing is written.

    Args:
        ledger: The ledger.
        store: The store.
        name: The name by which commands find it: a saved block; None for its address.

    Raises:
        StoreOutage: The store has no marker, or another one, and the ledger has videos at its address; or the address
            is not the root of a store.
        StoreError: The store cannot be read.
    """
    found = await store.read_identity()
    if found is not None and ledger.stores.has_seen(found, store.url):
        return found
    if found is None and ledger.stores.was_new(store.url):
        return None
    known = await _known_ids(ledger, store)
    if known and found is None:
        # It may have been marked since: of processes that begin at once, the first to publish marks a new store.
        found = await store.read_identity()
    if known and found not in known and await ledger.stores.holds_assets(known):
        there = f"has no marker ({STORE_MARKER})" if found is None else f"is another one (its marker says {found})"
        raise StoreOutage(
            f"the store {name or store.url} {there}, and the ledger has videos in the store"
            f" {', '.join(sorted(known))} at that address: {outage_advice(ledger, name or store.url)}"
        )
    if found is None and not known:
        await _refuse_other_root(ledger, store)
        ledger.stores.note_new(store.url)
    return found


async def require_root(ledger: Ledger, store: Store) -> None:
    """Refuse an address where no store is, and that lies inside a store, or that a store lies in.

    Raises:
        StoreOutage: The message names the right address.
        StoreError: The store cannot be read.
    """
    if await store.read_identity() is None and not await _known_ids(ledger, store):
        await _refuse_other_root(ledger, store)


async def _refuse_other_root(ledger: Ledger, store: Store) -> None:
    if enclosing := await store.find_enclosing():
        raise StoreOutage(_wrong_root(store, f"it is a folder of the store {enclosing}", enclosing))
    if nested := await nested_stores(ledger, store):
        shown = ", ".join(nested[:_NAMES_SHOWN]) + (" and others" if len(nested) > _NAMES_SHOWN else "")
        raise StoreOutage(_wrong_root(store, f"a store lies in it: {shown}", nested[0]))


async def nested_stores(ledger: Ledger, store: Store) -> list[str]:
    """Return the addresses of the stores inside a store: those that the ledger has videos in, and those marked."""
    found = {store.canonical_uri(url) for url in await store.find_enclosed()}
    own = {await store.read_identity()}
    for url, store_ids in (await ledger.stores.by_url()).items():
        # One with the identity of this store has moved here.
        if store.owns(url) and await ledger.stores.holds_assets(store_ids - own):
            found.add(store.canonical_uri(url))
    return sorted(found)


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


async def claim_store(session: Session) -> str:
    """Return the identity of the store that is about to be written; the first to write to a new one marks it.

    Raises:
        StoreOutage: It is not the store that the ledger knows at that address.
        StoreError: The store cannot be read or written.
    """
    ledger, store = session.ledger, session.store
    found = await store.read_identity()
    if found is None or not ledger.stores.has_seen(found, store.url):
        # In turn: of the shots that end at once, the first looks around a new store, and marks it for all.
        async with session.store_turn:
            found = await check_store(ledger, store, session.store_name)
            if found is None or not ledger.stores.has_seen(found, store.url):
                found = await accept_store(ledger, store)
    return found


def outage_advice(ledger: Ledger, *stores: str, job_id: str | None = None) -> str:
    """Write what to do about an outage.

    Args:
        ledger: The ledger.
        *stores: The stores, by the names that commands find them by.
        job_id: A job whose file is missing; None where none is known to be.
    """
    repairs = " and ".join(f"`{repair_command(ledger, name)}`" for name in stores)
    return (
        "that is an outage, no reason to pay. Nothing was bought, and nothing is marked lost. Mount the volume or"
        f" correct the store's address, and run again. If the files are really deleted: {repairs}"
        " fetches again, free, what the provider still has, and a run with --rebuy-missing buys the rest"
    ) + (
        f". One that was deleted on purpose is left out from then on with `{give_up_command(ledger, job_id)}`"
        if job_id
        else ""
    )


def repair_command(ledger: Ledger, name: str) -> str:
    """Write the command that repairs a store."""
    return command_line("verify", name, "--repair", ledger=ledger.command_option)


def give_up_command(ledger: Ledger, job_id: str) -> str:
    """Write the command that gives up a video whose file was deleted on purpose."""
    return command_line("resolve", job_id, "--give-up", ledger=ledger.command_option)


async def _known_ids(ledger: Ledger, store: Store) -> set[str]:
    """Return the identities of all stores that were ever used at a store's address, in any spelling of it."""
    known = (store_ids for url, store_ids in (await ledger.stores.by_url()).items() if store.is_at(url))
    return set().union(*known)


def _wrong_root(store: Store, reason: str, address: str) -> str:
    return (
        f"{store.url} is not the root of a store: {reason}. Nothing was bought, moved or recorded. Use the address"
        f" {address}; or, to begin another store here all the same, run once with --rebuy-missing"
    )
