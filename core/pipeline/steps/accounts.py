"""Accounts: nobody but the account that a row was sent with can tell what has become of it."""

from __future__ import annotations

from prefect_video.errors import NeedsAttention
from prefect_video.ledger import Entry
from prefect_video.session.session import Studio


def demand_account(studio: Studio, entry: Entry) -> None:
    """Refuses to ask another account about a row: its "not found" says nothing, and what it lists is not ours.

    Raises:
        NeedsAttention: The studio's key is not the one that the row was sent with; nothing was asked or written.
    """
    account = studio.provider.account.id
    if entry.account == account:
        return
    what = f"generation {entry.generation_id}" if entry.generation_id else "an unanswered submit"
    raise NeedsAttention(
        f"shot {entry.shot.id!r}: {what} belongs to account {entry.account} (credentials {entry.credentials!r}), and"
        f" the key in use is that of account {account} (credentials {studio.credentials!r}). Run again with the key it"
        f" was sent with. If that key was replaced by a new one of the same account, run:"
        f" prefect-video resolve {entry.id} --generation {entry.generation_id or 'ID'}"
    )
