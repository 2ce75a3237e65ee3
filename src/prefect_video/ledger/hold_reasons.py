"""Hold reasons: why a job waits for a human, in which words that is said, and the commands that decide it.

The one place of the package that writes command lines: the command line, the API and the flows all show what stands
here. Each command is complete, with the `--ledger` that it needs, so that it can be pasted into a shell.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from string import Formatter
from types import MappingProxyType
from typing import Final, NamedTuple

PROGRAM: Final = "prefect-video"


class HoldReason(StrEnum):
    """Reason for which a job waits for a human."""

    SUBMIT_UNANSWERED = "submit_unanswered"
    OTHER_ACCOUNT = "other_account"
    KEY_REPLACED = "key_replaced"
    VIDEO_GONE = "video_gone"
    PAST_DEADLINE = "past_deadline"
    VIDEO_UNREACHABLE = "video_unreachable"
    WRONG_VIDEO = "wrong_video"
    UNPLAYABLE_VIDEO = "unplayable_video"
    ORPHAN = "orphan"
    ORPHAN_UNNAMED = "orphan_unnamed"
    ID_CONFLICT = "id_conflict"
    NOT_ON_RECORD = "not_on_record"
    GIVEN_UP = "given_up"
    COST_DISPUTED = "cost_disputed"
    RECOVERED = "recovered"


class Remedy(NamedTuple):
    """One decision that a human may take.

    Attributes:
        words: The command's words without the program's name; `{job}` and `{generation}` are filled in.
        meaning: When to take it, or what it does; may be empty.
    """

    words: tuple[str, ...]
    meaning: str = ""


@dataclass(frozen=True)
class Hold:
    """The words for one hold reason.

    Attributes:
        message: What has happened, with names in braces for what is filled in.
        remedies: The decisions to choose from.
    """

    message: str
    remedies: tuple[Remedy, ...]


def _resolve(option: str, *values: str, meaning: str = "") -> Remedy:
    return Remedy(("resolve", "{job}", option, *values), meaning)


_ACCEPTED: Final = _resolve("--generation", "{generation}")
_KEEP_WAITING: Final = _resolve("--keep-waiting", meaning="collect tries again")
_BUY_AGAIN: Final = _resolve("--buy-again")
_GIVE_UP: Final = _resolve("--give-up")

HOLDS: Final[Mapping[HoldReason, Hold]] = MappingProxyType(
    {
        HoldReason.SUBMIT_UNANSWERED: Hold(
            "shot {shot!r}: a submit was not answered and {cause}. It is not sent again, as it may have been paid."
            " Look at the provider's console, then run:",
            (_ACCEPTED._replace(meaning="it was accepted"), _resolve("--absent", meaning="it was not")),
        ),
        HoldReason.OTHER_ACCOUNT: Hold(
            "shot {shot!r}: {what} belongs to account {account} (credentials {credentials!r}), and the key in use is"
            " that of account {used_account} (credentials {used_credentials!r}). Run again with the key it was sent"
            " with. If that key was replaced by a new one of the same account, run:",
            (_ACCEPTED,),
        ),
        HoldReason.KEY_REPLACED: Hold(
            "shot {shot!r}: generation {generation} was sent with key {key}, and the key in use ({used_key}) does not"
            " know it. It may be of another tenant, so that proves nothing, and nothing is bought again by itself. Set"
            " the former key as previous_api_key, or correct the key; then run:",
            (
                _KEEP_WAITING,
                _BUY_AGAIN._replace(meaning="the provider's console shows that it is gone"),
                _GIVE_UP,
            ),
        ),
        HoldReason.VIDEO_GONE: Hold(
            "{cause} It was paid for and is not bought again by itself. Decide:", (_BUY_AGAIN, _GIVE_UP)
        ),
        HoldReason.PAST_DEADLINE: Hold(
            "shot {shot!r}: generation {generation} has not ended by its deadline ({deadline} UTC) and may be billed."
            " It is not bought again by itself.{cause} Look at the provider's console, then run:",
            (Remedy(("cancel", "{job}")), _KEEP_WAITING, _BUY_AGAIN, _GIVE_UP),
        ),
        HoldReason.VIDEO_UNREACHABLE: Hold(
            "shot {shot!r}: generation {generation} is made and paid, and its video cannot be fetched: {cause}. It is"
            " not bought again by itself. Look at the provider's console, then decide:",
            (_KEEP_WAITING, _BUY_AGAIN, _GIVE_UP),
        ),
        HoldReason.WRONG_VIDEO: Hold(
            "shot {shot!r}: generation {generation} is completed and its video is not as requested: {cause}. It is kept"
            " as {file}. Look at it, then decide:",
            (_resolve("--accept", meaning="take it as it is"), _BUY_AGAIN, _GIVE_UP),
        ),
        HoldReason.UNPLAYABLE_VIDEO: Hold(
            "shot {shot!r}: generation {generation} is completed and its file cannot be played: {cause}. It is kept as"
            " {file}. Decide:",
            (
                _KEEP_WAITING._replace(meaning="collect fetches it again"),
                _BUY_AGAIN,
                _GIVE_UP,
            ),
        ),
        HoldReason.ORPHAN: Hold(
            "{cause}. It could not be cancelled and may be billed. Look at the provider's console, then run:",
            (
                _ACCEPTED._replace(meaning="to fetch it, once nothing else of this shot is in progress"),
                _GIVE_UP,
            ),
        ),
        HoldReason.ORPHAN_UNNAMED: Hold(
            "{cause}. It counts as spent. Look at the provider's console, then run:", (_GIVE_UP,)
        ),
        HoldReason.ID_CONFLICT: Hold(
            "{cause}; it is not sent again by itself. Look at the provider's console, then run:",
            (_BUY_AGAIN._replace(meaning="the next run buys it anew"), _GIVE_UP),
        ),
        HoldReason.NOT_ON_RECORD: Hold("{cause}. Once the ledger can be written, run:", (_ACCEPTED,)),
        HoldReason.COST_DISPUTED: Hold(
            "shot {shot!r}: {provider} reports that generation {generation} cost {reported}, which is not believed;"
            " {booked}. Look at the provider's bill, then run:",
            (_resolve("--cost", "USD"),),
        ),
        HoldReason.RECOVERED: Hold(
            "shot {shot!r}: generation {generation} was found on the provider's list. It was sent for this job, which"
            " the ledger did not know, and does not name both fingerprint and environment: the job was made out from"
            " what the provider echoes, and the next run of its shot may not find it. Decide:",
            (_KEEP_WAITING._replace(meaning="collect stores it"), Remedy(("cancel", "{job}"))),
        ),
        HoldReason.GIVEN_UP: Hold(
            "shot {shot!r}: given up, and not bought again by any run. To change that:", (_BUY_AGAIN,)
        ),
    }
)
"""The words for each reason."""


def hold_message(
    reason: HoldReason, *, job: str, shot: str, ledger: str | None, generation: str | None = None, **details: str
) -> str:
    """Write why a job waits for a human, with the commands that decide it.

    Args:
        reason: The reason.
        job: The job's id.
        shot: The shot's id.
        ledger: The value of `--ledger` by which commands find the job; None where they need none.
        generation: The provider's id, where it is known.
        **details: The other names in braces of the reason's message.
    """
    hold = HOLDS[reason]
    names = {"job": job, "shot": shot, "generation": generation or "ID", **details}
    return f"{hold.message.format(**names)} {_choices(hold.remedies, names, ledger)}"


def find_reason(hold_reason: str) -> HoldReason | None:
    """Find the reason that a message was written for; None for a message in other words.

    Where the cost is disputed besides, it is the other reason.
    """
    return next((reason for reason, mark in _marks().items() if mark in hold_reason), None)


@cache
def _marks() -> dict[HoldReason, str]:
    """Return for each reason the longest part of its message that is not filled in, which no other message has."""
    parts = {reason: (part for part, *_ in Formatter().parse(hold.message)) for reason, hold in HOLDS.items()}
    return {reason: max(literals, key=len) for reason, literals in parts.items()}


def is_given_up(hold_reason: str | None, *, shot: str) -> bool:
    """Tell whether a job is held because a human has given it up, so that nothing about it is left to decide."""
    # By its first words: the `--ledger` of the remedy depends on how the ledger was opened.
    first_words = HOLDS[HoldReason.GIVEN_UP].message.format(shot=shot).partition(". To change")[0]
    return hold_reason is not None and hold_reason.startswith(first_words)


def _choices(remedies: tuple[Remedy, ...], names: Mapping[str, str], ledger: str | None) -> str:
    commands = [
        command_line(*(argument.format(**names) for argument in remedy.words), ledger=ledger) for remedy in remedies
    ]
    meanings = [f" ({remedy.meaning})" if remedy.meaning else "" for remedy in remedies]
    return ", or ".join(command + meaning for command, meaning in zip(commands, meanings, strict=True))


def recover_command(ledger: str | None, *, accounts: Iterable[str], store: str | None = None) -> str:
    """Write the command that brings a ledger up to date with its store and the lists of the accounts in use."""
    options = [("--store", store), ("--ledger", ledger), *(("--provider", account) for account in accounts)]
    return command_line(
        "ledger", "recover", *(argument for name, value in options if value for argument in (name, value))
    )


def command_line(*words: str, ledger: str | None = None) -> str:
    """Write a command of `prefect-video` as it is pasted into a shell.

    Args:
        *words: The command and its arguments.
        ledger: The value of its `--ledger`; None for none.
    """
    return shlex.join([PROGRAM, *words, *(["--ledger", ledger] if ledger else [])])
