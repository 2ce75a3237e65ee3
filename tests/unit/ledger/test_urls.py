"""Ledger URLs as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video.errors import InvalidInput
from prefect_video.ledger import default_ledger_url
from prefect_video.ledger.urls import PoolLimits, parse_database_url


@pytest.mark.parametrize("text", ["/data/l.db", "sqlite:////data/l.db", "sqlite+aiosqlite:////data/l.db"])
def test_files(text: str) -> None:
    location = parse_database_url(text)
    assert location.path == Path("/data/l.db")
    assert location.url.drivername == "sqlite+aiosqlite"
    assert (location.label, location.busy_seconds) == ("sqlite:////data/l.db", 30)


def test_relative_and_home_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_database_url("l.db").path == tmp_path / "l.db"
    assert parse_database_url("sqlite:///l.db").path == tmp_path / "l.db"
    assert parse_database_url("~/l.db").path == Path("/home/me/l.db")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_servers(scheme: str) -> None:
    location = parse_database_url(f"{scheme}://me:s3cret@host:5433/videos?sslmode=require")
    assert location.url.drivername == "postgresql+asyncpg"
    assert dict(location.url.query) == {"ssl": "require"}
    assert location.url.password == "s3cret"
    assert location.label == location.name == "postgresql://me:***@host:5433/videos"
    assert location.path is None


@pytest.mark.parametrize("options", ["sslmode=require&channel_binding=require", "channel_binding=prefer&ssl=require"])
def test_servers_of_hosting_services(options: str) -> None:
    location = parse_database_url(f"postgresql://me:s3cret@host/videos?{options}")
    assert dict(location.url.query) == {"ssl": "require"}


def test_the_pool_of_a_process() -> None:
    location = parse_database_url("postgresql://me@host/db?pool_size=2&max_overflow=3&pool_timeout=30")
    assert dict(location.url.query) == {}
    assert location.pool == PoolLimits(size=2, overflow=3, timeout_seconds=30)


def test_how_long_a_lock_is_waited_for() -> None:
    assert parse_database_url("sqlite:///l.db?timeout=0.5").busy_seconds == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("mysql://me:s3cret@host/db", "mysql:// which is not supported"),
        ("~nobody-of-that-name/l.db", "give the folder itself"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///l.db?timeout=soon", "not a number"),
        ("sqlite:///l.db?mode=ro", "unknown option 'mode'"),
        ("postgresql://me:s3cret@host:port/db", "cannot be read"),
        ("postgresql://me:s3cret@host/db?pgbouncer=true", "unknown option 'pgbouncer'"),
        ("postgresql://me:s3cret@host/db?sslmode=yes", "sslmode='yes' is not one of disable"),
        ("postgresql://me:s3cret@host/db?channel_binding=require", "add sslmode=verify-full"),
        ("postgresql://me:s3cret@host/db?pool_size=0", "pool_size='0' is not a whole number of at least 1"),
        ("postgresql://me:s3cret@host/db?max_overflow=-1", "max_overflow='-1' is not a whole number"),
        ("://s3cret", "cannot be read"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_database_url(text)
    assert message in str(caught.value).replace(",", "")
    assert "s3cret" not in str(caught.value)


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        location = parse_database_url(text)
    except InvalidInput:
        return
    assert location.url.get_backend_name() in ("sqlite", "postgresql")


def test_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_VIDEO_LEDGER_URL", raising=False)
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert default_ledger_url() == "sqlite:////home/me/.prefect/video-ledger.db"
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert parse_database_url(default_ledger_url()).path == tmp_path / "video-ledger.db"
    monkeypatch.setenv("PREFECT_VIDEO_LEDGER_URL", "postgresql://host/db")
    assert default_ledger_url() == "postgresql://host/db"
