"""One Prefect server for the whole session."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real Prefect server with an empty database and yield its address."""
    # Imported here: Prefect's server takes long to import, and most processes of a run do not need it.
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(home / "storage"))
        with prefect_test_harness(server_startup_timeout=300):
            yield str(PREFECT_API_URL.value())
