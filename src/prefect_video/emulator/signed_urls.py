"""Signed URLs of the download host, with an expiry time."""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple
from urllib.parse import quote, urlencode

from prefect_video.emulator.settings import EmulatorSettings


class Links(NamedTuple):
    """Signed URLs of one completed video.

    Attributes:
        video: URL of the MP4.
        thumbnail: URL of the JPEG.
        expires: Unix time at which both expire.
    """

    video: str
    thumbnail: str
    expires: float


class LinkSigner:
    """Signer that mints links and verifies them.

    Attributes:
        base: Root URL of the download host; set once its port is bound.
    """

    def __init__(self, settings: EmulatorSettings) -> None:
        self._ttl = settings.link_ttl_seconds
        self._secret = hashlib.sha256(f"links:{settings.webhook_secret}".encode()).digest()
        self.base = ""

    def mint(self, generation_id: str, now: float) -> Links:
        """Mint links that are valid from `now` for the configured time."""
        name = quote(generation_id, safe="")
        expires = round(now + self._ttl, 3)  # milliseconds: links minted one after the other must differ
        return Links(
            video=self._build_link(f"/videos/{name}.mp4", expires),
            thumbnail=self._build_link(f"/thumbnails/{name}.jpg", expires),
            expires=expires,
        )

    def mint_expired(self, generation_id: str, now: float) -> Links:
        """Mint links with a valid signature that expired a second ago."""
        return self.mint(generation_id, now - self._ttl - 1)

    def verify(self, path: str, expires: str, signature: str) -> float | None:
        """Return the time at which the link expires or expired; None if the signature is not valid."""
        if not hmac.compare_digest(signature.encode(), self._sign(path, expires).encode()):
            return None
        return float(expires)

    def _build_link(self, path: str, expires: float) -> str:
        stamp = f"{expires:.3f}"
        return f"{self.base}{path}?{urlencode({'expires': stamp, 'sig': self._sign(path, stamp)})}"

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()
