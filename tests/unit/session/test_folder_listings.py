"""What a folder was seen not to hold, for a short time."""

from __future__ import annotations

import pytest

from prefect_video.session import folder_listings
from prefect_video.session.folder_listings import FolderListings


def test_a_listing_counts_for_what_it_has_not_shown_and_for_its_folder() -> None:
    listings = FolderListings()
    assert not listings.has_shown_none("film", {"aa"})
    listings.record("film", ["bb"])
    assert listings.has_shown_none("film", {"aa"})
    # What it has shown may have gone since: it is read again.
    assert not listings.has_shown_none("film", {"aa", "bb"})
    assert not listings.has_shown_none("another", {"aa"})


def test_an_old_listing_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    listings = FolderListings()
    listings.record("film", [])
    monkeypatch.setattr(folder_listings, "_RECENT_SECONDS", 0.0)
    assert not listings.has_shown_none("film", {"aa"})
