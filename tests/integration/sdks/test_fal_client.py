"""fal's own client, unmodified, against the emulator.

It speaks https only, so its address format is pointed at the emulator; nothing else of it is touched.
"""

from typing import Any

import httpx
import pytest

from prefect_video.emulator import Emulator, EmulatorSettings

fal_client = pytest.importorskip("fal_client")

MODEL = "emulator/video/text-to-video"
INPUT = {"prompt": "a red balloon", "duration": "2", "resolution": "480p", "seed": 7}


def pointed(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("fal_client.client.QUEUE_URL_FORMAT", f"{emulator.url}/fal/")
    return fal_client.SyncClient(key=emulator.key)


@pytest.fixture
def client(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    return pointed(emulator, monkeypatch)


def test_a_request_from_submit_to_video(client: Any, emulator: Emulator) -> None:
    handle = client.submit(MODEL, arguments=INPUT)
    assert handle.status_url == f"{emulator.url}/fal/emulator/video/requests/{handle.request_id}/status"
    seen = {type(event).__name__ for event in handle.iter_events(with_logs=True, interval=0.005)}
    assert "Completed" in seen
    assert seen <= {"Queued", "InProgress", "Completed"}
    result = handle.get()
    assert result["seed"] == 7
    assert result["video"]["content_type"] == "video/mp4"
    video = httpx.get(result["video"]["url"]).content
    assert video[4:8] == b"ftyp"
    assert len(video) == result["video"]["file_size"]
    assert emulator.usage()["leaked_keys"] == 0


def test_a_handle_made_from_the_id_alone(client: Any) -> None:
    request_id = client.submit(MODEL, arguments=INPUT).request_id
    assert client.get_handle(MODEL, request_id).get()["video"]["url"]
    assert isinstance(client.status(MODEL, request_id), fal_client.Completed)
    assert client.result(MODEL, request_id)["video"]["url"]


def test_subscribe(client: Any) -> None:
    updates: list[str] = []
    result = client.subscribe(
        MODEL, arguments=INPUT, on_queue_update=lambda event: updates.append(type(event).__name__)
    )
    assert result["video"]["url"]
    assert updates[-1] == "Completed"


async def test_the_async_half(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    pointed(emulator, monkeypatch)
    client = fal_client.AsyncClient(key=emulator.key)
    handle = await client.submit(MODEL, arguments=INPUT)
    assert (await handle.get())["video"]["url"]


def test_failures_come_with_the_result(client: Any) -> None:
    failed = client.submit(MODEL, arguments={**INPUT, "prompt": "[fail] x"})
    (*_, last) = failed.iter_events(interval=0.005)
    assert last.error_type == "internal_error"
    refused = client.submit(MODEL, arguments={**INPUT, "prompt": "[policy] x"})
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        refused.get()
    assert caught.value.status_code == 422
    assert caught.value.message[0]["type"] == "content_policy_violation"


def test_a_wrong_key(emulator: Emulator, client: Any) -> None:
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        fal_client.SyncClient(key="wrong").submit(MODEL, arguments=INPUT)
    assert caught.value.status_code == 401


def test_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:60")) as emulator:
        client = pointed(emulator, monkeypatch)
        handle = client.submit(MODEL, arguments=INPUT)
        assert isinstance(handle.status(), fal_client.Queued)
        handle.cancel()
        assert handle.status().error_type == "client_cancelled"
        assert emulator.usage()["cancelled"] == 1
