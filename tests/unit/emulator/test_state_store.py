"""State store: state that survives a SIGKILL with `--db`, and the command line of the process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.emulator.state_store import StateStoreError
from tests.support.emulator import EmulatorFactory
from tests.support.emulator_client import Client, download


def test_generations_and_usage_survive_a_kill(emulator_process: EmulatorFactory, tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    first = emulator_process("--db", database, "--speed", 200)
    client = Client(first.endpoint)
    done = client.submit_accepted("done", metadata={"idempotency_key": "k"})
    finished = client.poll_until_finished(done)
    content = download(finished["result"]["video_url"]).content
    first.kill()

    second = emulator_process("--db", database, "--speed", 0.001, port=first.port)
    client = Client(second.endpoint)
    again = client.retrieve(done).json()
    assert {**again, "result": None} == {**finished, "result": None}
    assert download(again["result"]["video_url"]).content == content
    unfinished = client.submit_accepted("unfinished")
    usage = second.usage()
    second.kill()

    third = emulator_process("--db", database, "--speed", 200)
    client = Client(third.endpoint)
    assert client.retrieve(unfinished).json()["status"] == "queued"
    assert [item["id"] for item in client.list().json()["data"]] == [unfinished, done]
    assert third.usage()["by_prompt"]["done"] == usage["by_prompt"]["done"]
    assert usage["by_prompt"]["done"]["billed"] == 1
    assert usage["by_prompt"]["done"]["downloaded"] == 2
    assert third.usage()["accepted"] == 2
    assert third.usage()["now_concurrency"] == 1
    assert client.cancel(unfinished).status_code == 200


def test_work_goes_on_while_the_process_is_down(emulator_process: EmulatorFactory, tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    first = emulator_process("--db", database, "--times", "fixed:1")
    generation_id = Client(first.endpoint).submit_accepted()
    first.kill()
    second = emulator_process("--db", database)
    assert Client(second.endpoint).poll_until_finished(generation_id)["status"] == "completed"
    assert second.usage()["billed"] == 1


def test_every_answered_submit_is_there_after_a_kill(emulator_process: EmulatorFactory, tmp_path: Path) -> None:
    database = tmp_path / "emulator.db"
    first = emulator_process("--db", database, "--times", "fixed:3600", "--capacity", 10_000)
    answered: list[str] = []
    enough = threading.Event()

    def submit_until_killed() -> None:
        client = Client(first.endpoint)
        try:
            while True:
                answered.append(client.submit_accepted())
                if len(answered) >= 40:
                    enough.set()
        except httpx.HTTPError:
            return

    threads = [threading.Thread(target=submit_until_killed) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert enough.wait(30)
    first.kill()
    for thread in threads:
        thread.join()
    second = emulator_process("--db", database)
    client = Client(second.endpoint)
    assert all(client.retrieve(generation_id).status_code == 200 for generation_id in answered)
    assert second.usage()["accepted"] == client.list().json()["total_count"] >= len(answered)


def test_process_prints_its_addresses_and_ends_on_sigterm(emulator_process: EmulatorFactory) -> None:
    running = emulator_process("--key", "sk-one", "--key", "sk-two")
    assert running.process.pid > 0
    assert Client(running.endpoint, "sk-two").list().status_code == 200
    assert httpx.get(running.cdn).status_code == 404
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert running.process.stdout is not None
    assert running.process.stdout.read() == ""


def test_fault_file_is_in_force_from_the_start(emulator_process: EmulatorFactory, tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps({"operation": "submit", "kind": "error_before"}))
    client = Client(emulator_process("--faults", file).endpoint)
    assert [client.submit().status_code for _ in range(2)] == [500, 202]


@pytest.mark.parametrize(
    ("options", "status", "named"),
    [
        (["--speed", "0"], 2, "speed"),
        (["--times", "sometimes"], 2, "times"),
        (["--faults", "/nowhere/faults.yaml"], 2, "faults.yaml"),
        (["--key", ""], 2, "key"),
        (["--db", "/proc/nowhere/x.db"], 1, "x.db"),
    ],
)
def test_bad_option_gets_one_clear_line(options: list[str], status: int, named: str) -> None:
    command = [sys.executable, "-m", "prefect_video.emulator", "--port", "0", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == status
    assert ended.stdout == ""
    assert named in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}"):
            Emulator(EmulatorSettings(port=port)).start()


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    database = tmp_path / "notes.db"
    database.write_text("not a database " * 100)
    with pytest.raises(StateStoreError, match=r"notes\.db"):
        Emulator(EmulatorSettings(port=0, db=database)).start()


def test_one_file_serves_one_emulator_at_a_time(emulator_process: EmulatorFactory, tmp_path: Path) -> None:
    database = tmp_path / "shared.db"
    first = emulator_process("--db", database)
    generation_id = Client(first.endpoint).submit_accepted()
    settings = EmulatorSettings(port=0, db=database)
    with pytest.raises(StateStoreError, match="another emulator has it open"):
        Emulator(settings).start()
    assert Client(first.endpoint).retrieve(generation_id).status_code == 200
    first.kill()
    with Emulator(settings) as second:
        assert Client.connect(second).retrieve(generation_id).status_code == 200
        with pytest.raises(StateStoreError, match="another emulator has it open"):
            Emulator(settings).start()


def test_emulator_can_be_started_again_and_keeps_its_database(tmp_path: Path) -> None:
    emulator = Emulator(EmulatorSettings(port=0, times="fixed:600", db=tmp_path / "new" / "e.db"))
    with pytest.raises(RuntimeError, match="not running"):
        emulator.usage()
    with emulator:
        generation_id = Client.connect(emulator).submit_accepted()
        with pytest.raises(RuntimeError, match="already running"):
            emulator.start()
    with emulator:
        assert Client.connect(emulator).retrieve(generation_id).json()["status"] == "queued"
        emulator.reset()
        assert Client.connect(emulator).retrieve(generation_id).status_code == 404
    with emulator:
        assert Client.connect(emulator).list().json()["total_count"] == 0
        assert emulator.usage()["accepted"] == 0


def test_reset_over_http(emulator: Emulator) -> None:
    client = Client.connect(emulator)
    client.generate(emulator)
    emulator.add_fault(operation="list", kind="error_before", times=None)
    after = httpx.post(f"{emulator.url}/_emulator/reset").json()
    assert after["accepted"] == after["billed"] == after["now_concurrency"] == 0
    assert after["by_prompt"] == {}
    assert client.list().json()["data"] == []
    client.generate(emulator)


def test_stopping_while_rendering_is_quick() -> None:
    with Emulator(EmulatorSettings(port=0, speed=100_000)) as emulator:
        Client.connect(emulator).submit_accepted(duration=20, resolution="1080p")
        started = time.monotonic()
    assert time.monotonic() - started < 10
