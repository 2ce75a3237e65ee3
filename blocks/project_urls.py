"""Addresses that Prefect's catalog of blocks shows: of the repository that this package was built from.

Where its build knew none, the blocks have neither logo nor link: the picture of another project would be wrong.
"""

from __future__ import annotations

from importlib.metadata import metadata


def find_repository() -> str | None:
    """Return the address of the repository in the metadata of the package; None where its build knew none."""
    urls = dict(entry.split(", ", 1) for entry in metadata("prefect-video").get_all("Project-URL") or [])
    return urls.get("Repository")


REPOSITORY = find_repository()
DOCUMENTATION_URL = f"{REPOSITORY}/blob/HEAD/docs/reference/prefect.md" if REPOSITORY else None
LOGO_URL = f"{REPOSITORY}/raw/HEAD/docs/images/logo.png" if REPOSITORY else None
