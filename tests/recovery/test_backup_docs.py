"""What `docs/operations.md` says about backup and restore, done as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from prefect_video.errors import LedgerBehindStore
from prefect_video.ledger import Ledger
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness

DOCS: Final = Path(__file__).parents[2] / "docs" / "operations.md"


def commands(name: str) -> str:
    found = re.search(rf"test_backup_docs\.py, {name} -->\n```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None, name
    return found[1]


def follow(harness: RecoveryHarness, name: str, tools: Path) -> str:
    """Runs the documentation's commands for this test's ledger."""
    is_sqlite = harness.ledger_url.startswith("sqlite")
    values = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(tools), os.environ["PATH"]]),
        "HOME": str(harness.folder),
        "LEDGER": harness.ledger_url.removeprefix("sqlite:///") if is_sqlite else harness.ledger_url,
        "BACKUP": str(harness.folder / "ledger.backup"),
        "STORE": str(harness.folder / "store"),
        "PROVIDER": "emulator",
        "PREFECT_VIDEO_EMULATOR_ENDPOINT": harness.emulator.endpoint,
        "PREFECT_VIDEO_EMULATOR_KEY": harness.emulator.key,
    }
    done = subprocess.run(["sh", "-euc", commands(name)], env=values, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
async def test_a_restored_backup_is_recovered_as_documented(
    open_harness: OpenHarness, database: str, request: pytest.FixtureRequest
) -> None:
    url = None if database == "SQLite" else str(request.getfixturevalue("postgres_url"))
    if url:
        async with await Ledger.open(url, migrate=True):
            pass
    tools = request.getfixturevalue("postgres_server").tools if url else Path("/usr/bin")
    harness = open_harness(url)
    assert statuses(await harness.run(film(a_shot(1)))) == ["stored"]
    follow(harness, f"{database} backup", tools)
    assert statuses(await harness.run(film(a_shot(1), a_shot(2)))) == ["stored", "stored"]
    follow(harness, f"{database} restore", tools)
    with pytest.raises(LedgerBehindStore):
        await harness.run(film(a_shot(1), a_shot(2), a_shot(3)))
    assert harness.paid == (2, 2)

    output = follow(harness, "recover", tools)
    assert "nothing was written (--dry-run)" in output
    assert output.count("shot-2") == 2
    report = await harness.run(film(a_shot(1), a_shot(2), a_shot(3)))
    assert [shot.cached for shot in report.shots] == [True, True, False]
    assert harness.paid == (3, 3)
