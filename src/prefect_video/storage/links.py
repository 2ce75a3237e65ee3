"""Links of a store: how a browser reaches its files, for artifacts and pages of other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, unquote, urlsplit

from prefect_video.errors import InvalidInput

_LONGEST_HOURS: Final = 7 * 24
"""S3 signs no link for longer than a week."""


@dataclass(frozen=True)
class LinkOptions:
    """Options of a store's links.

    Attributes:
        public_base_url: Web address of the store's root, such as that of a proxy or a CDN; None where it has none.
        link_hours: Hours for which links to an S3 store are signed that has no public address; 0 for no links.
    """

    public_base_url: str | None = None
    link_hours: int = 0

    @classmethod
    def take(cls, options: dict[str, object]) -> Self:
        """Take the options of links out of a store's options.

        Raises:
            InvalidInput: The address is none of the web, or the hours are out of range.
        """
        base, hours = options.pop("public_base_url", None), options.pop("link_hours", 0)
        if base is not None and (not isinstance(base, str) or urlsplit(base).scheme not in ("http", "https")):
            raise InvalidInput(f"store: public_base_url {base!r}: use an address such as https://films.example/ads")
        if not isinstance(hours, int) or not 0 <= hours <= _LONGEST_HOURS:
            raise InvalidInput(f"store: link_hours: 0 to {_LONGEST_HOURS}, not {hours!r}")
        return cls(base, hours)

    def public_address(self, store_url: str, uri: str) -> str | None:
        """Return the address of a file below the store's public one; None where the store has none."""
        if self.public_base_url is None:
            return None
        inside = uri.removeprefix(f"{store_url}/")
        # A file's URI is percent-encoded already, an object's is not.
        inside = unquote(inside) if uri.startswith("file:") else inside
        return f"{self.public_base_url.rstrip('/')}/{quote(inside)}"
