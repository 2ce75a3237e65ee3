"""`gallery`, `export`, and `verify` with manifests, on the store of a film of two shots."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_video.emulator.credentials import DEFAULT_KEY
from prefect_video.emulator.threaded import Emulator
from prefect_video.gallery import COLUMNS
from tests.support.cli_fixtures import InProcess
from tests.unit.cli.test_plan import run_file

FORMULA = '=HYPERLINK("https://evil.example")\nsecond line'
FILM = f"""\
project: film
budget_usd: 9
defaults: {{duration: 1, resolution: 480p}}
shots:
  - {{id: zenith, prompt: dawn over the sea, takes: 2}}
  - {{id: closing, prompt: {json.dumps(FORMULA)}, depends_on: [zenith]}}
"""


@pytest.fixture
def made(call: InProcess, film: Path) -> Path:
    """Run a film, whose last prompt is a formula, and return its folder in the store."""
    film.write_text(FILM)
    run_file(film)
    return Path("videos/film")


def test_a_page_is_made_by_name_or_by_file_and_copied_to_be_handed_on(call: InProcess, film: Path, made: Path) -> None:
    answer = call("gallery", film, "--index", "--output", "handed-on", "--json")
    assert answer.status == 0, answer.err
    assert set(answer.json) == {"page", "manifest", "copy", "index"}
    assert Path("videos/index.html").is_file()
    stored = {path.name: path.read_bytes() for path in made.iterdir()}
    assert {path.name: path.read_bytes() for path in Path("handed-on").iterdir()} == stored
    manifest = json.loads((made / "manifest.json").read_text())
    assert [shot["id"] for shot in manifest["shots"]] == ["zenith", "closing"]
    assert manifest["spend"]["budget_usd"] == 9

    assert call("gallery", "film").out == "videos/film/index.html\nvideos/film/manifest.json\n"
    assert json.loads((made / "manifest.json").read_text())["spend"]["budget_usd"] == 9
    unknown = call("gallery", "other")
    assert unknown.status == 2
    assert "knows it" in unknown.err
    assert not Path("videos/other").exists()


def test_every_format_has_a_row_a_take_and_no_cell_is_a_formula(call: InProcess, film: Path, made: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(call("export", film).out)))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["shot"], row["take"], row["status"]) for row in rows] == [
        ("zenith", "1", "stored"),
        ("zenith", "2", "stored"),
        ("closing", "1", "stored"),
    ]
    assert rows[2]["prompt"] == '\'=HYPERLINK("https://evil.example") second line'
    lines = [json.loads(line) for line in call("export", film, "--format", "jsonl").out.splitlines()]
    assert lines[2]["prompt"] == FORMULA
    assert lines[2]["depends_on"] == ["zenith"]
    assert [Path(line["uri"].removeprefix("file://")).stat().st_size for line in lines] == [
        line["bytes"] for line in lines
    ]

    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    answer = call("export", film, "--format", "parquet", "--output", "shots.parquet")
    assert answer.status == 0, answer.err
    table = parquet.read_table("shots.parquet")
    assert table.column_names == list(COLUMNS)
    assert table.column("cost_usd").to_pylist() == [Decimal("0.3")] * 3
    assert table.column("prompt")[2].as_py() == FORMULA
    refused = call("export", film, "--format", "parquet")
    assert (refused.status, "--output" in refused.err) == (2, True)


def test_a_sheet_holds_each_prompt_as_it_is_to_be_pasted(call: InProcess, film: Path, made: Path) -> None:
    film.write_text(
        FILM.replace("dawn over the sea", '"four ```` and # marks"').replace("takes: 2", "takes: 3, seed: 7")
        + "  - {id: styled, prompt: dusk, first_frame: frames/dusk.png,"
        ' references: [look.png, "https://cdn.example/a.png?signature=s3cret"]}\n'
    )
    sheet = call("export", film, "--format", "sheet").out
    assert "## ☐ 1. zenith\n\n`````\nfour ```` and # marks\n`````\n" in sheet
    assert "- seed: 7\n- takes: 3\n" in sheet
    assert f"## ☑ 2. closing\n\n```\n{FORMULA}\n```\n" in sheet
    assert "- after: zenith\n" in sheet
    # For the hand that fetches them: where the project file says they are, and nothing that may be secret.
    folder = str(film.parent.resolve()).replace("_", "\\_")
    assert f"- first frame: {folder}/frames/dusk.png\n" in sheet
    assert f"- references: {folder}/look.png, https://cdn.example/a.png" in sheet
    assert "s3cret" not in sheet


def test_verify_knows_the_pages_and_compares_a_store_with_its_manifest(call: InProcess, film: Path, made: Path) -> None:
    call("gallery", film, "--index")
    answer = call("verify", "--json")
    assert answer.status == 0, answer.err
    assert (answer.json["unknown_files"], answer.json["manifest_flaws"]) == ([], [])

    manifest = made / "manifest.json"
    content = json.loads(manifest.read_text())
    video = content["shots"][1]["takes"][0]["video"]
    manifest.write_text(manifest.read_text().replace(video["sha256"], "0" * 64))
    flawed = call("verify", "--json")
    assert flawed.status == 1
    (flaw, *_) = flawed.json["manifest_flaws"]
    assert "the ledger" in flaw["detail"]
    assert call("verify", "--repair").status == 0
    assert json.loads(manifest.read_text())["shots"][1]["takes"][0]["video"]["sha256"] == video["sha256"]


def test_a_store_is_checked_by_its_manifest_where_the_ledger_does_not_know_it(
    call: InProcess, film: Path, made: Path
) -> None:
    call("gallery", film)
    Path("videos").rename("handed-over")
    Path("handed-over/.prefect-video-store").unlink(missing_ok=True)
    whole = call("verify", "handed-over", "--ledger", "empty.db", "--json")
    assert whole.json["manifest_flaws"] == []
    first, *_ = sorted(Path("handed-over/film").glob("*.mp4"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 0xFF
    first.write_bytes(content)
    damaged = call("verify", "handed-over", "--ledger", "empty.db", "--json")
    assert damaged.status == 1
    assert [flaw["path"] for flaw in damaged.json["manifest_flaws"]] == [first.name]
    assert "SHA-256" in damaged.json["manifest_flaws"][0]["detail"]


def test_the_schema_of_manifests_is_printed(call: InProcess) -> None:
    schema = call("schema", "--manifest").json
    assert schema["title"] == "prefect-video manifest"
    assert "ShotRecord" in schema["$defs"]


def test_a_promised_c2pa_manifest_that_is_absent_is_flagged_and_no_loss(
    call: InProcess, film: Path, quick_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    monkeypatch.setenv("SORA_API_KEY", DEFAULT_KEY)
    monkeypatch.setenv("SORA_API_ENDPOINT", quick_emulator.endpoint)
    monkeypatch.setenv("SORA_PLAN", "pro")
    film.write_text("{project: film, shots: [{id: opening, prompt: dawn, duration: 1, resolution: 720p}]}")
    run_file(film, provider="sora")
    for options in ((), ("--c2pa",)):
        answer = call("verify", *options)
        assert answer.status == 0, answer.err
        assert "C2PA manifests: 1 absent" in answer.err
        assert "film/opening: it has no C2PA manifest, although the provider promises one" in answer.err
    call("gallery", "film")
    assert "although the provider promises one" in Path("videos/film/index.html").read_text()
