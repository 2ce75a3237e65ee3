"""Every error this package raises on purpose.

VideoError
├── InvalidInput            a shot, project, file, option or setting is wrong; nothing was spent
│   ├── Unsupported         the provider or plan cannot make what is asked; the message names what it can
│   └── IdempotencyKeyReused  one key for two requests: which of them is meant cannot be known
├── ProviderError           what a provider answered, or failed to answer
│   ├── RequestRejected      the request was turned down: nothing was accepted, nothing is owed
│   │   ├── ContentPolicyError           content policy; never retried, kept for review
│   │   ├── AuthenticationFailed    the key is wrong or may not do this; stops the run
│   │   ├── NotFound                no such generation on this account
│   │   ├── RateLimited             too many at once; wait `retry_after` seconds and send again
│   │   └── QuotaExhausted          the period's quota is used up; waiting seconds will not help
│   ├── ProviderUnavailable reset, timeout or 5xx on a request that costs nothing; safe to repeat
│   │   └── CircuitOpen             the account's breaker is open: nothing is sent for now
│   ├── SubmitOutcomeUnknown       a submit went out and no usable answer came back: reconcile, never resend
│   ├── InvalidResponse    the answer does not keep to the provider's contract
│   └── GenerationEnded     the generation is over and there is no video
│       ├── GenerationFailed        the provider failed; a new attempt is a new payment
│       │   ├── GenerationBlocked   its content policy stopped it; never tried anew, kept for review
│       │   └── GenerationInvalid   the request itself was wrong, which showed after it was accepted; never tried anew
│       ├── GenerationCancelled     somebody cancelled it
│       ├── GenerationExpired       the video existed and can no longer be fetched
│       └── GenerationLost          the provider no longer knows a generation it had accepted
├── DeadlineExceeded          a generation did not end in the time allowed; it may still end and be collected
├── DownloadError           the video could not be fetched whole
│   ├── UnsafeUrl         the URL is not one we are willing to fetch
│   ├── LinkExpired         the link has died; retrieve the generation for a fresh one
│   ├── IncompleteDownload      the body stopped early or the server answered nonsense; safe to repeat
│   └── InvalidVideo         the file is not the video that was asked for
├── StoreError              the store cannot be read or written
│   └── StoreOutage         it is empty, or another store, or videos are missing: nothing is bought in their place
├── BudgetExceeded          a limit would be passed; nothing was sent
├── PromptBlocked          the local screen refused the prompt; nothing was sent
├── HeldForReview          a human must decide; the message says what
├── LedgerError             the ledger cannot be used; nothing is sent without it
│   ├── LedgerUnavailable   unreachable, locked, read-only, full or corrupt
│   │   └── LedgerFileUnsafe    its file was deleted, moved or replaced while in use, or has several names
│   ├── LedgerBehindStore   an old backup, which does not know what it bought: run `prefect-video ledger recover`
│   ├── LedgerSchemaMismatch      its schema is not this version's: run `prefect-video ledger upgrade`
│   └── InvalidTransition   a row was not in a state that allows this step (somebody else moved it)
└── ProjectFailed           a project ended with shots that were not stored
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_video.pipeline import ProjectReport


class VideoError(Exception):
    """Base of all errors of this package; `str(error)` is fit to be shown to a user.

    Attributes:
        retryable: Whether repeating the same step may succeed and costs nothing.
        retry_after: Seconds to wait before that, where somebody said so.
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
    """A shot, project, file, option or setting is wrong. Correct it; nothing was spent."""


class Unsupported(InvalidInput):
    """The provider or the account's plan cannot make what is asked. The message names the nearest it can."""


class IdempotencyKeyReused(InvalidInput):
    """A request came with the key of another one. Give it a key of its own; nothing was sent."""


class ProviderError(VideoError):
    """What a provider answered, or failed to answer.

    Attributes:
        provider: Name of the provider.
        generation_id: The provider's id of the generation concerned, if one is known.
        request_id: The provider's id of the HTTP request, if it gave one.
        accepted: Whether the provider took on paid work: True, False, or None when it cannot be told.
        in_own_words: Whether it was told in an error body of the provider's contract, not of something in between.
    """

    accepted: bool | None = False
    in_own_words: bool = False

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
    """The provider turned the request down: nothing was accepted, nothing is owed."""


class ContentPolicyError(RequestRejected):
    """The prompt breaks the provider's content policy. Change the prompt; see `prefect-video review`."""


class AuthenticationFailed(RequestRejected):
    """The key is wrong or may not do this. Correct the credentials; the whole run stops."""


class NotFound(RequestRejected):
    """No such generation on this account."""


class RateLimited(RequestRejected):
    """Too many requests or generations at once. Wait `retry_after` seconds and send again."""

    retryable = True


class QuotaExhausted(RequestRejected):
    """The account's quota for the period is used up. Wait for the next period or use another account."""


class ProviderUnavailable(ProviderError):
    """A request that costs nothing met a reset, a timeout or a 5xx. Repeat it."""

    retryable = True


class CircuitOpen(ProviderUnavailable):
    """The account's breaker is open: nothing is sent for now. Wait `retry_after` seconds, or use another account."""


class SubmitOutcomeUnknown(ProviderError):
    """A submit went out and no usable answer came back. Reconcile it; never send it again blindly."""

    accepted = None


class InvalidResponse(ProviderError):
    """The answer does not keep to the provider's contract. Report it with the request id."""

    accepted = None


class GenerationEnded(ProviderError):
    """The generation is over and there is no video."""

    accepted = True


class GenerationFailed(GenerationEnded):
    """The provider failed to make the video. A new attempt is a new payment.

    Attributes:
        fails_again: Whether the same request would fail again, so that it is not tried anew by itself.
    """

    fails_again: bool = False


class GenerationBlocked(GenerationFailed):
    """The provider's content policy stopped it after it was accepted. Change the prompt; never tried anew."""

    fails_again = True


class GenerationInvalid(GenerationFailed):
    """The provider found the request itself wrong after it was accepted. Correct the shot; never tried anew."""

    fails_again = True


class GenerationCancelled(GenerationEnded):
    """The generation was cancelled, by us or by somebody else with the key."""


class GenerationExpired(GenerationEnded):
    """The video was made, and the provider no longer serves it."""


class GenerationLost(GenerationEnded):
    """The provider no longer knows a generation that it had accepted."""


class DeadlineExceeded(VideoError):
    """The generation did not end in the time allowed. It is left running; `prefect-video collect` finishes it."""


class DownloadError(VideoError):
    """The video could not be fetched whole."""


class UnsafeUrl(DownloadError):
    """The URL is not one we are willing to fetch (scheme, private address, redirect, size)."""


class LinkExpired(DownloadError):
    """The link has died. Retrieve the generation for a fresh one."""

    retryable = True


class IncompleteDownload(DownloadError):
    """The body stopped early or the server answered nonsense. Repeat it."""

    retryable = True


class InvalidVideo(DownloadError):
    """The file is whole and is not the video that was asked for."""

    retryable = True


class StoreError(VideoError):
    """The store cannot be read or written. The generation is kept and can be stored later."""

    retryable = True


class StoreOutage(StoreError):
    """The store does not hold what the ledger knows to be in it. Mount or correct it; nothing was bought or marked."""

    retryable = False


class BudgetExceeded(VideoError):
    """A limit would be passed. Nothing was sent; raise the limit or ask for less.

    Attributes:
        limit: The name of the limit, such as `project coffee-ad`.
        limit_usd: The limit, spent, reserved and asked amounts in USD (None for a limit in videos).
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
    """The local screen refused the prompt. Change it, or allow it with `prefect-video review --allow`."""


class HeldForReview(VideoError):
    """A human must decide. The message says what happened and which command decides it."""


class LedgerError(VideoError):
    """The ledger cannot be used. Nothing is sent without it."""


class LedgerUnavailable(LedgerError):
    """The ledger's database is unreachable, locked, read-only, full or corrupt."""

    retryable = True


class LedgerFileUnsafe(LedgerUnavailable):
    """The ledger's file was deleted, moved or replaced while it was in use, or has several names. Put it back."""


class LedgerBehindStore(LedgerError):
    """The ledger is an old backup: the store holds what it has bought and does not know.

    Run `prefect-video ledger recover`; until then nothing is bought.
    """


class LedgerSchemaMismatch(LedgerError):
    """The ledger's schema is not this version's. Run `prefect-video ledger upgrade`."""


class InvalidTransition(LedgerError):
    """The row is not in a state that allows this step: somebody else moved it. Read it again."""


class ProjectFailed(VideoError):
    """A project ended with shots that were not stored; the message lists them.

    Attributes:
        report: The report of every shot, those that were stored included.
    """

    def __init__(self, report: ProjectReport) -> None:
        super().__init__(report.summary())
        self.report = report
