"""Traces of a command that starts with OpenTelemetry configured by its environment, as `opentelemetry-instrument` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.cli_fixtures import FILM, Shell

CONFIGURE = """
from opentelemetry.sdk._configuration import _OTelSDKConfigurator

_OTelSDKConfigurator().configure(auto_instrumentation_version="")
"""
"""What `opentelemetry-instrument` runs at Python's start, with the class that its distribution gives it."""


def read_spans(text: str) -> list[dict[str, Any]]:
    """Return the objects that the console exporter has written one after the other, among other lines."""
    found, decoder, at = [], json.JSONDecoder(), text.find("{\n")
    while at >= 0:
        span, end = decoder.raw_decode(text, at)
        found.append(span)
        at = text.find("{\n", end)
    return found


def test_a_run_exports_its_steps_where_the_environment_sets_up_an_exporter(connected: Shell, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CONFIGURE)
    # Of its own: what other tests have made in this shell is not made again.
    (tmp_path / "film.yaml").write_text(
        FILM.replace("project: film", "project: traced").replace("over the sea", "over a traced sea")
    )
    exporters = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    command = ("run", tmp_path / "film.yaml", "--quiet", "--provider", "emulator")
    answer = connected(*command, PYTHONPATH=str(tmp_path), PREFECT_VIDEO_EMULATOR_SPEED="500", **exporters)
    assert answer.status == 0, answer.err
    spans = read_spans(answer.out)
    own = [span["name"] for span in spans if "prefect_video.job" in span["attributes"]]
    assert sorted(set(own)) == ["download", "poll", "store", "submit"]
    assert own.count("submit") == 2, "one a shot"
