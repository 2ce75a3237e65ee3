"""Tokens of the job API: named, hashed, with scopes, a rate, a monthly budget and a secret for what is signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import math
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import Field, SecretStr, StringConstraints, ValidationError, field_validator, model_validator

from prefect_video.errors import InvalidInput
from prefect_video.inputs import Input, WholeNumber
from prefect_video.ledger import Requester

logger = logging.getLogger(__name__)

Scope = Literal["submit", "read", "cancel"]
SCOPES: Final[tuple[Scope, ...]] = ("submit", "read", "cancel")
DEFAULT_NAME: Final = "default"
"""Name of the token that `PREFECT_VIDEO_SERVICE_API_TOKEN` gives."""

_PREFIX: Final = "pv_"
_SECRET_PREFIX: Final = "whsec_"
_RELOAD_SECONDS: Final = 2.0

TokenName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", strict=True)]


class ApiToken(Input):
    """One token, as the service knows it: by its hash.

    Attributes:
        name: Name by which it is charged and recorded.
        sha256: Hex digest of the token. A plain digest is enough, as tokens are random and not chosen by people.
        scopes: The operations that it allows.
        monthly_usd: The most that may be committed for it in a calendar month (UTC); None for no limit.
        per_minute: Requests a minute; None for no limit.
        secret: Signs callbacks and links; None where it may have no callbacks.
    """

    name: TokenName
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", strict=True)]
    scopes: frozenset[Scope] = Field(min_length=1)
    monthly_usd: Decimal | None = Field(default=None, ge=0)
    per_minute: WholeNumber | None = Field(default=None, ge=1)
    secret: SecretStr | None = None

    @field_validator("secret")
    @classmethod
    def _require_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            decode_secret(secret)
        return secret

    @property
    def requester(self) -> Requester:
        """The client that the ledger charges."""
        return Requester(name=self.name, monthly_usd=self.monthly_usd)

    @property
    def link_key(self) -> bytes:
        """The key that signs links to videos; another one than that of callbacks, which clients know."""
        own = self.secret.get_secret_value() if self.secret else ""
        return hmac.new(self.sha256.encode(), f"links of {own}".encode(), hashlib.sha256).digest()


class TokenFile(Input):
    """The form of a list of tokens, in a file or in a block."""

    tokens: tuple[ApiToken, ...] = ()

    @model_validator(mode="after")
    def _require_distinct(self) -> Self:
        names = [token.name for token in self.tokens]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tokens: {', '.join(twice)}: a name may be used once")
        return self


@dataclass
class _Bucket:
    left: float
    at: float


@dataclass
class ApiTokens:
    """The tokens of a service; those of a file are read again when it changes.

    Attributes:
        fixed: The tokens that do not change while the service runs.
        file: A file with further tokens.
        block: The tokens of a saved block, as it was read last.
    """

    fixed: tuple[ApiToken, ...] = ()
    file: Path | None = None
    block: tuple[ApiToken, ...] = ()
    _loaded: tuple[ApiToken, ...] = field(default=(), init=False)
    _version: tuple[int, int] | None = field(default=None, init=False)
    _checked_at: float = field(default=-math.inf, init=False)
    _buckets: dict[str, _Bucket] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.file is not None:
            self._loaded, self._version = parse_tokens(self.file.read_text(encoding="utf-8"), str(self.file)), None
            self._refuse_reserved(self._loaded)

    def all(self) -> tuple[ApiToken, ...]:
        """Return all tokens."""
        self._reload()
        return (*self.fixed, *self.block, *self._loaded)

    def find(self, name: str) -> ApiToken | None:
        """Return the token with a name."""
        return next((token for token in self.all() if token.name == name), None)

    def authenticate(self, text: str) -> ApiToken | None:
        """Return the token that a client has sent; all are compared, so that the time reveals nothing."""
        digest = hash_token(text)
        found = None
        for token in self.all():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def throttle(self, token: ApiToken) -> int:
        """Count a request; return the seconds to wait where there were too many, else 0."""
        if token.per_minute is None:
            return 0
        rate, now = token.per_minute / 60, time.monotonic()
        bucket = self._buckets.setdefault(token.name, _Bucket(float(token.per_minute), now))
        bucket.left = min(float(token.per_minute), bucket.left + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.left < 1:
            return max(1, math.ceil((1 - bucket.left) / rate))
        bucket.left -= 1
        return 0

    def _reload(self) -> None:
        """Read the file again where it has changed; one that cannot be used leaves the tokens as they were.

        A file that is gone has no tokens: to remove it is to revoke them.
        """
        now = time.monotonic()
        if self.file is None or now - self._checked_at < _RELOAD_SECONDS:
            return
        self._checked_at = now
        try:
            status = self.file.stat()
            version = (status.st_mtime_ns, status.st_size)
            if version == self._version:
                return
            loaded = parse_tokens(self.file.read_text(encoding="utf-8"), str(self.file))
            self._refuse_reserved(loaded)
            self._loaded, self._version = loaded, version
        except FileNotFoundError:
            if self._loaded:
                logger.error("%s is gone, and its tokens do not count any more", self.file)
            self._loaded, self._version = (), None
        except (OSError, UnicodeDecodeError, InvalidInput) as error:
            logger.error("the tokens stay as they were: %s", error)

    def _refuse_reserved(self, loaded: Sequence[ApiToken]) -> None:
        taken = {token.name for token in (*self.fixed, *self.block)}
        if twice := [token.name for token in loaded if token.name in taken]:
            raise InvalidInput(f"{self.file}: the name {twice[0]!r} belongs to another token of this service")


def parse_tokens(text: str, source: str) -> tuple[ApiToken, ...]:
    """Read a list of tokens from YAML or JSON.

    Raises:
        InvalidInput: It is not such a list; the message quotes no value, which may be a secret.
    """
    try:
        document: Any = yaml.safe_load(text)
        return TokenFile.model_validate({} if document is None else document).tokens
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        message = f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = f"{source}: not YAML" + (f", line {mark.line + 1}" if mark else "")
    except (ValueError, RecursionError):  # what looks like a date and is none, and lists within lists
        message = f"{source}: not a list of tokens"
    # Raised outside the `except`, so not chained: the cause would show values.
    raise InvalidInput(message)


def create_token(
    name: str, scopes: Iterable[Scope], *, monthly_usd: Decimal | None = None, per_minute: int | None = None
) -> tuple[str, ApiToken]:
    """Make a random token; return it, to be shown once, and its entry.

    Raises:
        InvalidInput: A value cannot be used.
    """
    text = _PREFIX + secrets.token_urlsafe(32)
    secret = _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    try:
        entry = ApiToken(
            name=name,
            sha256=hash_token(text),
            scopes=frozenset(scopes),
            monthly_usd=monthly_usd,
            per_minute=per_minute,
            secret=SecretStr(secret),
        )
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise InvalidInput(f"tokens: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return text, entry


def add_token(file: Path, entry: ApiToken) -> None:
    """Add an entry to a tokens file, which only its owner may read; the file is replaced as a whole.

    Raises:
        InvalidInput: The file cannot be used, or has an entry of that name.
    """
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        tokens = (*parse_tokens(text, str(file)), entry)
        names = [token.name for token in tokens]
        if names.count(entry.name) > 1:
            raise InvalidInput(f"{file}: there is a token {entry.name!r}; remove its entry, or choose another name")
        described = yaml.safe_dump({"tokens": [describe_token(token) for token in tokens]}, sort_keys=False)
        with NamedTemporaryFile("w", dir=file.parent, prefix=".tokens-", delete=False, encoding="utf-8") as fresh:
            fresh.write(described)
        Path(fresh.name).replace(file)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: {error}") from error


def default_token(api_token: SecretStr, callback_secret: SecretStr | None) -> ApiToken:
    """Build the entry of the one token that the environment gives: all scopes, no limits."""
    return ApiToken(
        name=DEFAULT_NAME,
        sha256=hash_token(api_token.get_secret_value()),
        scopes=frozenset(SCOPES),
        secret=callback_secret,
    )


def describe_token(entry: ApiToken) -> dict[str, Any]:
    """Return an entry in the form of a tokens file."""
    values = {
        "name": entry.name,
        "sha256": entry.sha256,
        "scopes": [scope for scope in SCOPES if scope in entry.scopes],
        "monthly_usd": None if entry.monthly_usd is None else float(entry.monthly_usd),
        "per_minute": entry.per_minute,
        "secret": entry.secret.get_secret_value() if entry.secret else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def hash_token(text: str) -> str:
    """Return the hex digest by which a token is known."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def decode_secret(secret: SecretStr) -> bytes:
    """Return the key of a secret for callbacks.

    Raises:
        ValueError: It is not `whsec_` and at least 24 bytes in base64.
    """
    try:
        key = base64.b64decode(secret.get_secret_value().removeprefix(_SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if len(key) < 24:
        raise ValueError("a secret is `whsec_` and at least 24 random bytes in base64, as `tokens create` prints it")
    return key
