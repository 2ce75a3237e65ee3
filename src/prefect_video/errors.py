"""Errors that this package raises on purpose, as one hierarchy.

VideoError
├── InvalidInput                a shot, project, file, option or setting is wrong: correct it
│   ├── Unsupported             the provider or plan cannot make the shot: take the value that the message names
│   └── IdempotencyKeyReused    one key for two different requests: give the second a key of its own
├── ProviderError               an answer of a provider, or the lack of one
│   ├── RequestRejected         nothing was accepted and nothing is owed: correct the request
│   │   ├── ContentPolicyError      content policy: change the prompt; never sent again by itself
│   │   ├── AuthenticationFailed    wrong key or missing permission: correct the credentials; the run stops
│   │   ├── NotFound                no such generation on this account: check id and account
│   │   ├── RateLimited             too many at once: wait `retry_after` seconds and send again
│   │   └── QuotaExhausted          the period's quota is used up: wait for the next period or use another account
│   ├── ProviderUnavailable     reset, timeout or 5xx on a request that costs nothing: repeat it
│   │   └── CircuitOpen             the account's circuit breaker is open: wait, or use another account
│   ├── SubmitOutcomeUnknown    a submit without a usable answer: reconcile it, never send it again blindly
│   ├── InvalidResponse         the answer breaks the provider's contract: report it with its request id
│   └── GenerationEnded         the generation is over without a video
│       ├── GenerationFailed        the provider failed: try again, as a new payment
│       │   ├── GenerationBlocked   content policy, after acceptance: change the prompt
│       │   └── GenerationInvalid   a wrong request, found after acceptance: correct the shot
│       ├── GenerationCancelled     cancelled here or by another user of the key: run again to buy a new one
│       ├── VideoRejected           the video fails a quality gate: another take is bought, within the attempts
│       ├── GenerationExpired       the video is no longer served: see `prefect-video resolve`
│       └── GenerationLost          the provider no longer knows it: see `prefect-video resolve`
├── DeadlineExceeded            not ended in the time allowed: run `prefect-video collect` later
├── DownloadError               the video could not be fetched whole: collect again, nothing is paid for it
│   ├── UnsafeUrl               the URL is not safe to fetch: correct the setting that the message names
│   ├── LinkExpired             the link has expired: retrieve the generation for a fresh one
│   ├── IncompleteDownload      the body stopped early or was no file: repeat the download
│   └── InvalidVideo            the file is not the requested video: look at it, then accept it or buy another
│       └── VideoMismatch       it plays, and its length, size or format is not what was requested
├── StoreError                  the store cannot be read or written: repair it, the video can be stored later
│   └── StoreOutage             the store is empty, or another one: mount or correct it; nothing was bought
├── BudgetExceeded              a limit would be exceeded: raise it or request less; nothing was sent
├── PromptBlocked               the local screen blocked the prompt: change or allow it; nothing was sent
├── HeldForReview               the job waits for a decision: run the command that the message names
├── LedgerError                 the ledger cannot be used, so that nothing is sent
│   ├── LedgerUnavailable       unreachable, locked, read-only, full or corrupt: make it available and repeat
│   │   └── LedgerFileUnsafe    its file was moved or replaced, or has several names: put it back
│   ├── LedgerBehindStore       an old backup: run `prefect-video ledger recover`
│   ├── UnreadableRow           a column of one row is damaged: correct it; nothing was sent for that job
│   ├── LedgerSchemaMismatch    another version's schema: run `prefect-video ledger upgrade`
│   └── InvalidTransition       the job has left the state that the step needs: read it again
├── FilmError                   the final cut cannot be made: the shots are stored, correct it and cut again
└── ProjectFailed               some shots were not stored: read the report, correct them, run again
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final, Generic, Protocol, TypeVar

_ANSWER_NAMES: Final = "its answer names generation "
_NAMED: Final = re.compile(rf"; {_ANSWER_NAMES}(\S+)\Z")


class VideoError(Exception):
    """Base of all errors of this package; `str(error)` is fit to be shown to a user.

    Attributes:
        message: The same text.
        retryable: Whether repeating the same step may succeed and costs nothing.
        retry_after: Seconds to wait before that, where the server requested a delay.
    """

    retryable: bool = False
    retry_after: float | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # The default rebuilds an exception from `args` alone and would lose the keyword attributes.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[VideoError], args: tuple[Any, ...], state: dict[str, Any]) -> VideoError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidInput(VideoError):
    """A wrong shot, project, file, option or setting. Correct it; nothing was spent."""


class Unsupported(InvalidInput):
    """A shot that the provider or the account's plan cannot make. Take the nearest value, which the message names."""


class IdempotencyKeyReused(InvalidInput):
    """A request that came with the key of another one. Give it a key of its own; nothing was sent."""


class ProviderError(VideoError):
    """An answer of a provider that is no success, or the lack of an answer. Read `accepted` before sending again.

    Attributes:
        provider: Name of the provider.
        generation_id: The provider's id of the generation concerned, if one is known.
        request_id: The provider's id of the HTTP request, if it gave one.
        accepted: Whether the provider took on paid work: True, False, or None when that is unknown.
        follows_contract: Whether the error body is of the provider's contract, not of a gateway in between.
    """

    # A class attribute, not an argument: the kind of error decides it, and only evidence about one answer overrides it.
    accepted: bool | None = False
    follows_contract: bool = False

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        generation_id: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.generation_id = generation_id
        self.request_id = request_id
        self.retry_after = retry_after


class RequestRejected(ProviderError):
    """A request that the provider rejected: nothing was accepted, nothing is owed. Correct it as the message says."""


class ContentPolicyError(RequestRejected):
    """A prompt that breaks the provider's content policy. Change the prompt; see `prefect-video review`."""


class AuthenticationFailed(RequestRejected):
    """A key that is wrong or lacks a permission. Correct the credentials; the whole run stops."""


class NotFound(RequestRejected):
    """A generation that this account does not know. Check the id and the account."""


class RateLimited(RequestRejected):
    """Too many requests or generations at once. Wait `retry_after` seconds and send again."""

    retryable = True


class QuotaExhausted(RequestRejected):
    """A used-up quota of the account's period. Wait for the next period or use another account."""


class ProviderUnavailable(ProviderError):
    """A reset, a timeout or a 5xx on a request that costs nothing. Repeat it."""

    retryable = True


class CircuitOpen(ProviderUnavailable):
    """An open circuit breaker of the account: nothing is sent. Wait `retry_after` seconds, or use another account."""


class SubmitOutcomeUnknown(ProviderError):
    """A submit that was sent and got no usable answer. Reconcile it; never send it again blindly.

    Where the answer named a generation, the message ends with its id, so that whatever keeps the message keeps the id.
    """

    accepted = None

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        generation_id: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(
            f"{message}; {_ANSWER_NAMES}{generation_id}" if generation_id else message,
            provider=provider,
            generation_id=generation_id,
            request_id=request_id,
            retry_after=retry_after,
        )

    @staticmethod
    def find_generation_id(message: str | None) -> str | None:
        """Return the id at the end of the message of such an error; None where its answer named no generation."""
        named = _NAMED.search(message or "")
        return named[1] if named else None


class InvalidResponse(ProviderError):
    """An answer that breaks the provider's contract. Report it with the request id."""

    accepted = None


class GenerationEnded(ProviderError):
    """A generation that is over without a video. Read the subclass and the message for the cause."""

    accepted = True


class GenerationFailed(GenerationEnded):
    """A generation that the provider failed to make. Try again: a new attempt is a new payment.

    Attributes:
        fails_again: Whether the same request would fail again, so that no new attempt is made automatically.
    """

    fails_again: bool = False


class GenerationBlocked(GenerationFailed):
    """A generation stopped by the provider's content policy after it was accepted. Change the prompt."""

    fails_again = True


class GenerationInvalid(GenerationFailed):
    """A generation whose request proved wrong after it was accepted. Correct the shot."""

    fails_again = True


class GenerationCancelled(GenerationEnded):
    """A generation that was cancelled, here or by another user of the key. Run again to buy a new one."""


class VideoRejected(GenerationEnded):
    """A video that was made and fails a quality gate. It is kept, and another take is bought within the attempts."""


class GenerationExpired(GenerationEnded):
    """A generation whose video was made and is no longer served. Decide with `prefect-video resolve` what is next."""


class GenerationLost(GenerationEnded):
    """An accepted generation that the provider no longer knows. Ask the provider, then use `prefect-video resolve`."""


class DeadlineExceeded(VideoError):
    """A generation that did not end in the time allowed. It is left running; `prefect-video collect` finishes it."""


class DownloadError(VideoError):
    """A video that could not be fetched whole. Collect it again: the generation is kept and not paid twice."""


class UnsafeUrl(DownloadError):
    """A URL that is not safe to fetch (scheme, private address, redirect, size). Change the setting it violates."""


class LinkExpired(DownloadError):
    """An expired link. Retrieve the generation for a fresh one.

    Attributes:
        denied: The host wants a key, or another one (401, 403).
    """

    retryable = True

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


class IncompleteDownload(DownloadError):
    """A body that stopped early, or that was not the file. Repeat the download."""

    retryable = True


class InvalidVideo(DownloadError):
    """A whole file that is not the requested video. It is kept: look at it, then accept it or buy another."""

    retryable = True


class VideoMismatch(InvalidVideo):
    """A whole video that plays and is not as requested. It is kept: look at it, then accept it or buy another.

    Attributes:
        reasons: In which respects it differs.
    """

    retryable = False

    def __init__(self, message: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons


class StoreError(VideoError):
    """A store that cannot be read or written. Repair it; the generation is kept and can be stored later."""

    retryable = True


class StoreOutage(StoreError):
    """A store that lacks what the ledger knows to be in it. Mount or correct it; nothing was bought or marked."""

    retryable = False


class BudgetExceeded(VideoError):
    """A limit that would be exceeded. Raise the limit or request less; nothing was sent.

    Attributes:
        limit: The name of the limit, such as `project coffee-ad`.
        limit_usd: The limit in USD; None for a limit in videos, as for the other amounts.
        spent_usd: The amount that counts as spent.
        reserved_usd: The amount reserved for generations that have not ended.
        requested_usd: The amount that the rejected request needed.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: str = "",
        limit_usd: Decimal | None = None,
        spent_usd: Decimal | None = None,
        reserved_usd: Decimal | None = None,
        requested_usd: Decimal | None = None,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.reserved_usd = reserved_usd
        self.requested_usd = requested_usd


class PromptBlocked(VideoError):
    """A prompt that the local screen blocked. Change it, or allow it with `prefect-video review --allow`."""


class HeldForReview(VideoError):
    """A job that waits for a human decision. Run the command that the message names."""


class FilmError(VideoError):
    """A final cut that cannot be made. The shots are stored: correct the cause and run `prefect-video cut`."""


class LedgerError(VideoError):
    """A ledger that cannot be used. Repair it as the message says; nothing is sent without it."""


class LedgerUnavailable(LedgerError):
    """A ledger database that is unreachable, locked, read-only, full or corrupt. Make it available and repeat."""

    retryable = True


class LedgerFileUnsafe(LedgerUnavailable):
    """A ledger file that was deleted, moved or replaced while in use, or that has several names. Put it back."""


class LedgerBehindStore(LedgerError):
    """A ledger restored from an old backup: the store holds videos that it bought and does not know.

    Run `prefect-video ledger recover`; until then nothing is bought.
    """


class UnreadableRow(LedgerError):
    """A row of the ledger with a damaged column. Nothing is sent for it; correct it as the message says.

    Attributes:
        table: The table.
        row_id: Id of the row.
        column: The column.
        fingerprint: Fingerprint of the job that the row is of; None where it is no job's.
    """

    def __init__(self, message: str, *, table: str, row_id: str, column: str, fingerprint: str | None = None) -> None:
        super().__init__(message)
        self.table = table
        self.row_id = row_id
        self.column = column
        self.fingerprint = fingerprint


class LedgerSchemaMismatch(LedgerError):
    """A ledger with the schema of another version. Run `prefect-video ledger upgrade`."""


class InvalidTransition(LedgerError):
    """A job that has left the state which a step needs, as another process moved it. Read it again."""


class Report(Protocol):
    """A report of a run, as far as the error that carries it needs to know it."""

    def summary(self) -> str:
        """Return one line on the run, and one more for each shot without a video."""


ReportT = TypeVar("ReportT", bound=Report)


class ProjectFailed(VideoError, Generic[ReportT]):
    """A project that ended with shots which were not stored. Correct those that the message lists and run again.

    Attributes:
        report: The report on every shot, those that were stored included (a `ProjectReport`).
    """

    def __init__(self, report: ReportT) -> None:
        super().__init__(report.summary())
        self.report = report
