"""Markers that tests get by the fixtures they use and by the file they are in.

`postgres`, `s3` and `prefect` say which server a test starts, `kills` that it kills processes, `slow` that it takes
long, `fleet` that it runs workers or a whole fleet for minutes, in `make test-fleet` alone. The fast selection is
`pytest tests/unit -m "not postgres and not s3 and not prefect and not kills and not slow"`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.support.distribution import SHARE_PREFECT

ROOT: Final = Path(__file__).parents[2]

BY_FIXTURE: Final[Mapping[str, Collection[str]]] = {
    "postgres": {"postgres_server", "postgres_url"},
    "s3": {"s3", "bucket"},
    "prefect": {"prefect_api", "shell"},
    "kills": {"emulator_process"},
    "slow": {"wheel"},
}
"""Fixtures that start a server, start a process that the test kills, or take long themselves."""

BY_PATH: Final[Mapping[str, Collection[str]]] = {
    "kills": {
        "tests/integration/ledger/test_processes.py",
        "tests/integration/test_distribution.py",
        "tests/recovery/test_approval_kills.py",
        "tests/recovery/test_cut_kills.py",
        "tests/recovery/test_fleet.py",
        "tests/recovery/test_deferred_kills.py",
        "tests/recovery/test_kills.py",
        "tests/recovery/test_quality_kills.py",
        "tests/integration/providers/test_kills.py",
    },
    "prefect": {
        "tests/integration/cli/test_startup.py",
        "tests/recovery/test_first_minute.py",
    },
    "fleet": {
        "tests/integration/flows/test_fan_out.py::test_a_parent_that_is_repeated_starts_no_part_twice_and_a_cancelled_one_cancels_them",
        "tests/integration/service/test_deployment_queue.py::test_requests_go_through_queue_and_workers_and_survive_restarts_and_kills",
        "tests/recovery/test_fleet.py",
    },
    "slow": {
        "tests/integration/docs/test_pages.py",
        "tests/integration/docs/test_site.py",
        "tests/integration/flows/test_embedding.py",
        "tests/integration/flows/test_fan_out.py",
        "tests/integration/flows/test_own_flows.py",
        "tests/integration/flows/test_setup.py",
        "tests/integration/sdks/test_litellm_proxy.py",
        "tests/integration/service/test_deployment_queue.py",
        "tests/integration/service/test_openapi_document.py",
        "tests/integration/test_examples.py::test_the_film_of_eight_shots_is_what_was_asked_for",
        "tests/recovery/test_first_minute.py",
        "tests/unit/cli/test_adopt.py",
        "tests/unit/experiments/test_experiments.py",
        "tests/integration/gallery/test_browser.py",
        "tests/integration/service/test_status_page.py",
        "tests/unit/cli/test_bad_input.py::test_prefect_is_not_imported_for_it",
        "tests/unit/cli/test_gallery.py",
        "tests/unit/cli/test_cut.py",
        "tests/unit/cli/test_jobs.py",
        "tests/unit/cli/test_ledger_copies.py",
        "tests/unit/cli/test_startup.py",
        "tests/unit/cli/test_verify.py",
        "tests/unit/downloads/test_quality_gates.py",
        "tests/unit/deployments/test_folder.py::test_a_run_counts_as_dead_after_several_of_the_longest_heartbeats",
        "tests/unit/deployments/test_folder.py::test_every_variable_of_the_example_is_read",
        "tests/unit/emulator/test_engine.py::test_a_thousand_generations_at_once",
        "tests/unit/emulator/test_rendering.py",
        "tests/unit/emulator/test_state_store.py",
        "tests/unit/film/test_production.py",
        "tests/unit/gallery/test_manifest.py",
        "tests/unit/ledger/test_sqlite_driver.py",
        "tests/unit/ledger/test_state_machine.py",
        "tests/unit/limits/test_slots.py",
        "tests/unit/pipeline/test_key_rotation.py",
        "tests/unit/pipeline/test_key_use.py",
        "tests/unit/service/test_ledger_metrics.py",
        "tests/unit/service/test_spans.py",
        "tests/unit/pipeline/test_access.py",
        "tests/unit/pipeline/test_account_names.py",
        "tests/unit/pipeline/test_approval.py",
        "tests/unit/pipeline/test_blocked_prompts.py",
        "tests/unit/pipeline/test_claim.py",
        "tests/unit/pipeline/test_clips.py",
        "tests/unit/pipeline/test_collect.py",
        "tests/unit/pipeline/test_continuation.py",
        "tests/unit/pipeline/test_deferred_runs.py",
        "tests/unit/pipeline/test_remix.py",
        "tests/unit/pipeline/test_signed_films.py",
        "tests/unit/pipeline/test_cost_bound.py",
        "tests/unit/pipeline/test_cut_film.py",
        "tests/unit/pipeline/test_deadline.py",
        "tests/unit/pipeline/test_download.py",
        "tests/unit/pipeline/test_existing_jobs.py",
        "tests/unit/pipeline/test_named_generations.py",
        "tests/unit/pipeline/test_poll.py",
        "tests/unit/pipeline/test_quality.py",
        "tests/unit/pipeline/test_reconcile.py",
        "tests/unit/pipeline/test_reconcile_lists.py",
        "tests/unit/pipeline/test_rejected.py",
        "tests/unit/pipeline/test_shot_images.py",
        "tests/unit/pipeline/test_routing.py",
        "tests/unit/pipeline/test_submit_result.py",
        "tests/unit/providers/test_any_response.py",
        "tests/unit/providers/test_conformance.py",
        "tests/unit/providers/test_evidence.py",
        "tests/unit/providers/test_http_bodies.py::test_a_small_answer_that_inflates_to_gigabytes_takes_no_memory",
        "tests/unit/providers/test_openai_any_response.py",
        "tests/unit/providers/test_refusals.py",
        "tests/unit/service/test_account_rename.py",
        "tests/unit/service/test_agent_tools.py",
        "tests/unit/service/test_idempotency_keys.py",
        "tests/unit/service/test_job_api.py",
        "tests/unit/service/test_jobs.py",
        "tests/unit/service/test_unusable_stores.py",
        "tests/unit/service/test_webhooks.py",
        "tests/unit/test_imports.py::test_importing_reads_no_setting",
    },
}
"""Files, and tests of other files, that start Prefect's servers, kill processes or take longer than the fast selection can afford."""

_LEFT_OUT: Final = re.compile(r"not \w+(?: and not \w+)*")
"""A `-m` that leaves markers out, whatever else a test has; any other one is looked at test by test."""

_POSTGRES_PARAMETERS: Final = frozenset({"postgres", "postgresql"})


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a file of which `-m` selects no test: importing the slow files takes a third of the fast collection."""
    selection: str = config.option.markexpr
    if not _LEFT_OUT.fullmatch(selection) or not collection_path.is_relative_to(ROOT):
        return None
    left_out = set(selection.split()) - {"not", "and"}
    path = collection_path.relative_to(ROOT).as_posix()
    return True if any(path in BY_PATH.get(marker, ()) for marker in left_out) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every collected test.

    Raises:
        pytest.UsageError: A test starts Prefect's server outside of the files that share one, or a file of the table
            above does not exist: it was moved, and its tests would lose their marker silently.
    """
    if missing := [
        path for paths in BY_PATH.values() for path in paths if not (ROOT / path.partition("::")[0]).is_file()
    ]:
        raise pytest.UsageError(f"tests/support/markers.py names files that do not exist: {', '.join(missing)}")
    for item in items:
        if "prefect_api" in _fixtures(item) and not item.nodeid.startswith(SHARE_PREFECT):
            raise pytest.UsageError(f"{item.nodeid} starts Prefect's server: add its file to SHARE_PREFECT")
        for marker in set(_find_markers(item)):
            item.add_marker(marker)


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _find_markers(item: pytest.Item) -> Iterator[str]:
    fixtures = _fixtures(item)
    path, _, test = item.nodeid.partition("::")
    own_paths = {path, f"{path}::{test.partition('[')[0]}"}
    yield from (marker for marker, names in BY_FIXTURE.items() if not fixtures.isdisjoint(names))
    yield from (marker for marker, paths in BY_PATH.items() if not own_paths.isdisjoint(paths))
    # Fixtures for "each kind of ledger" open PostgreSQL by name while they run: only the parameter shows it.
    callspec = getattr(item, "callspec", None)
    if callspec is not None and any(str(value).lower() in _POSTGRES_PARAMETERS for value in callspec.params.values()):
        yield "postgres"
