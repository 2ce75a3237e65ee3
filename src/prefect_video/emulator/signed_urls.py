"""Signed links to the download host that die at a set time."""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple
from urllib.parse import urlencode

from prefect_video.emulator.settings import EmulatorSettings


class Links(NamedTuple):
    """Where a completed video can be had.

    Attributes:
        video: Address of the MP4.
        thumbnail: Address of the JPEG.
        expires: Unix time at which both die.
    """

    video: str
    thumbnail: str
    expires: float


class LinkSigner:
    """Mints links and checks those that come back."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self._ttl = settings.link_ttl_seconds
        self._secret = hashlib.sha256(f"links:{settings.webhook_secret}".encode()).digest()
        self.base = ""  # the address of the download host, known once its port is bound

    def mint(self, generation_id: str, now: float) -> Links:
        """Fresh links, alive for the set time from ``now``."""
        expires = round(now + self._ttl, 3)
        return Links(
            video=self._link(f"/videos/{generation_id}.mp4", expires),
            thumbnail=self._link(f"/thumbnails/{generation_id}.jpg", expires),
            expires=expires,
        )

    def mint_expired(self, generation_id: str, now: float) -> Links:
        """Links with a true signature that died a second ago."""
        return self.mint(generation_id, now - self._ttl - 1)

    def verify(self, path: str, expires: str, signature: str) -> float | None:
        """The time at which the link dies (or died); None when the signature is not ours."""
        if not hmac.compare_digest(signature.encode(), self._sign(path, expires).encode()):
            return None
        return float(expires)

    def _link(self, path: str, expires: float) -> str:
        stamp = f"{expires:.3f}"
        return f"{self.base}{path}?{urlencode({'expires': stamp, 'sig': self._sign(path, stamp)})}"

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()
