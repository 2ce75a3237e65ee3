"""Fewer generations at once than were requested: the log says so, once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from prefect_video.session import SessionRef, open_session
from prefect_video.session import session as session_module


@pytest.mark.parametrize(
    ("wanted", "account_slots", "at_once", "source"),
    [(20, None, 10, "the plan"), (20, 4, 4, "PREFECT_VIDEO_ACCOUNT_SLOTS"), (10, None, 10, None), (None, 4, 4, None)],
)
async def test_a_limit_below_what_was_requested_is_reported_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wanted: int | None,
    account_slots: int | None,
    at_once: int,
    source: str | None,
) -> None:
    session_module._warn_of_limit.cache_clear()
    monkeypatch.setenv("SORA_API_KEY", "sk-x")
    monkeypatch.setenv("SORA_API_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("SORA_PLAN", "emulator")
    if account_slots:
        monkeypatch.setenv("PREFECT_VIDEO_ACCOUNT_SLOTS", str(account_slots))
    ref = SessionRef.from_names("sora", str(tmp_path / "videos"), str(tmp_path / "ledger.db"), wanted)
    with caplog.at_level(logging.WARNING, "prefect_video"):
        for _ in range(2):
            async with await open_session(ref) as session:
                assert session.in_flight_slots._free == at_once
    messages = [record.getMessage() for record in caplog.records if "max_in_flight" in record.getMessage()]
    expected = (
        f"sora: max_in_flight is {wanted}, and {source} of this account allows {at_once} at once:"
        f" {at_once} are made at once"
    )
    assert messages == ([expected] if source else [])
