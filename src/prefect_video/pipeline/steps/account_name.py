"""Account name: the limits of an account count by its name, and must not begin anew because that has changed."""

from __future__ import annotations

from prefect_video.errors import InvalidInput
from prefect_video.ledger import command_line
from prefect_video.session import Session


async def require_admitted_name(session: Session) -> None:
    """Refuse an account whose key has made videos under another name in this environment and ledger.

    Raises:
        InvalidInput: The message names both accounts, and the commands that decide; nothing was claimed.
    """
    account, ledger = session.provider.account, session.ledger
    keys = {key for key in (account.key_fingerprint, account.previous_key_fingerprint) if key and key != account.id}
    former = await ledger.names.unadmitted(account.id, keys, environment=session.settings.environment)
    if former is None:
        return
    rename, share = (
        command_line("account", verb, former, account.id, ledger=ledger.command_option) for verb in ("rename", "share")
    )
    raise InvalidInput(
        f"{session.account_name}: its key was used as account {former} before, and would begin with new limits as"
        f" {account.id}: budget, the plan's month, slots. Nothing was sent. Where it is the same account under another"
        f" name: `{rename}`. Where both are to have limits of their own: `{share}`"
    )
