"""Blocks in Prefect: their types, which a set-up registers, and the saved ones, which it looks for."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from prefect_video import blocks
from prefect_video.deployments.changes import Change, Outcome
from prefect_video.deployments.declaration import find_block_names

BLOCK_TYPES: Final[Mapping[str, type[Block]]] = {
    kind.get_block_type_slug(): kind
    for kind in (getattr(blocks, name) for name in blocks.__all__)
    if inspect.isclass(kind) and issubclass(kind, Block)
}
"""The package's kinds of blocks, by slug."""


async def register_block_types(client: PrefectClient, *, dry_run: bool) -> AsyncIterator[Change]:
    """Register every kind of block of the package whose present form Prefect does not know."""
    for slug, kind in BLOCK_TYPES.items():
        outcome = await _compare_type(client, slug, kind)
        # Registered in any case: its logo and description may have changed, which the outcome does not show.
        if not dry_run:
            await kind.aregister_type_and_schema(client=client)
        yield Change(kind="block type", name=slug, outcome=outcome)


async def find_saved_block(client: PrefectClient, name: str) -> tuple[Change, Mapping[str, Any]]:
    """Look for a saved block.

    Args:
        client: A client of Prefect's API.
        name: `type/name`, as parameters have it.

    Returns:
        What was found, and the block's fields without its secrets; none where it is missing.
    """
    slug, _, own_name = name.partition("/")
    try:
        document = await client.read_block_document_by_name(own_name, slug, include_secrets=False)
    except ObjectNotFound:
        return Change(kind="block", name=name, outcome=Outcome.MISSING, detail=_explain_saving(slug, own_name)), {}
    return Change(kind="block", name=name, outcome=Outcome.UNCHANGED), document.data


async def find_saved_blocks(client: PrefectClient, parameters: Iterable[Mapping[str, Any]]) -> list[Change]:
    """Look for every saved block that the parameters of deployments name.

    Args:
        client: A client of Prefect's API.
        parameters: Those of each deployment.
    """
    names = dict.fromkeys(name for each in parameters for name in find_block_names(each))
    return [(await find_saved_block(client, name))[0] for name in names]


def check_environment(name: str, fields: Mapping[str, Any], environment: str) -> Change | None:
    """Return a change for a human where a block's own environment is another one; None where it is not."""
    own = fields.get("environment", environment)
    if own == environment:
        return None
    detail = f"its field environment says {own!r}: set it to {environment!r}, or automations for {environment} miss it"
    return Change(kind="block", name=name, outcome=Outcome.MISSING, detail=detail)


async def _compare_type(client: PrefectClient, slug: str, kind: type[Block]) -> Outcome:
    try:
        await client.read_block_type_by_slug(slug)
    except ObjectNotFound:
        return Outcome.CREATED
    try:
        await client.read_block_schema_by_checksum(
            kind._calculate_schema_checksum(), version=kind.get_block_schema_version()
        )
    except ObjectNotFound:
        return Outcome.UPDATED
    return Outcome.UNCHANGED


def _explain_saving(slug: str, name: str) -> str:
    """Return how a missing block is saved, by the example in its own description."""
    kind = BLOCK_TYPES.get(slug)
    if kind is None:
        return f"no kind of block of this package; `prefect block create {slug}` shows where it is saved"
    # The first line of the example, as it is without its last argument: the name.
    example = re.search(rf"{kind.__name__}\(.*\)\.save\(", kind.get_code_example() or "")
    call = example[0] if example else f"{kind.__name__}(…).save("
    return (
        f"save it: `prefect block create {slug}` shows where in Prefect's UI; or in Python:"
        f' from prefect_video.blocks import {kind.__name__}; {call}"{name}")'
    )
