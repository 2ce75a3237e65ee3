"""The manifest of a run, and its HTML page: one file that needs nothing but the videos beside it."""

from __future__ import annotations

import html
import os
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from prefect_video._clean_text import clean_json, clean_text
from prefect_video.assets import Asset
from prefect_video.ledger import PRICE_UNKNOWN, usd
from prefect_video.pipeline import ProjectReport, ShotReport, as_number


def write_manifest(report: ProjectReport, project: str, path: Path) -> Path:
    """Write the videos of a run as JSON, with links relative to the manifest.

    Raises:
        OSError: The file cannot be written.
    """
    manifest = {
        "project": project,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cost_usd": as_number(report.cost_usd),
        "unpriced": report.unpriced,
        "shots": [_manifest_line(shot, path.parent) for shot in report.shots],
    }
    _write(path, clean_json(manifest) + "\n")
    return path


def write_page(report: ProjectReport, project: str, path: Path, *, billed_usd: Decimal) -> Path:
    """Write a page that shows every shot of a run.

    Raises:
        OSError: The file cannot be written.
    """
    template = Template(files("prefect_video.cli").joinpath("page.html").read_text("utf-8"))
    assets = [shot.asset for shot in report.shots if shot.asset]
    page = template.substitute(
        project=escape(project),
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        stored=len(assets),
        cached=sum(shot.cached for shot in report.shots),
        shots=len(report.shots),
        seconds=f"{sum(asset.duration_seconds for asset in assets):.0f}",
        megabytes=f"{sum(asset.bytes for asset in assets) / 1e6:.1f}",
        billed_usd=f"{billed_usd:.2f}",
        cards="\n".join(_card(shot, path.parent) for shot in report.shots),
    )
    _write(path, page)
    return path


def escape(text: str) -> str:
    """Return other people's text as HTML shows it."""
    return html.escape(clean_text(text, lines=True))


def _manifest_line(shot: ShotReport, folder: Path) -> dict[str, Any]:
    asset = shot.asset
    line: dict[str, Any] = {"id": shot.id, "status": shot.status, "cached": shot.cached, "error": shot.error}
    if asset:
        line |= {
            "uri": _relative(asset.uri, folder),
            "thumbnail_uri": _relative(asset.thumbnail_uri, folder) if asset.thumbnail_uri else None,
            "sha256": asset.sha256,
            "bytes": asset.bytes,
            "duration_seconds": asset.duration_seconds,
            "width": asset.width,
            "height": asset.height,
            "cost_usd": as_number(asset.cost_usd),
            "paid_now_usd": as_number(shot.cost_usd),
            "prompt": asset.prompt,
            "model": asset.model,
            "provider": asset.provider,
            "generation_id": asset.generation_id,
            "fingerprint": asset.fingerprint,
        }
    return line


def _card(shot: ShotReport, folder: Path) -> str:
    if shot.asset is None:
        return _CARD_WITHOUT_VIDEO.substitute(
            id=escape(shot.id), status=escape(shot.status.replace("_", " ")), error=escape(shot.error or "")
        )
    asset = shot.asset
    poster = f' poster="{_link(asset.thumbnail_uri, folder)}"' if asset.thumbnail_uri else ""
    return _CARD.substitute(
        id=escape(shot.id),
        state="cached" if shot.cached else "new",
        label="cached" if shot.cached else "new",
        video=_link(asset.uri, folder),
        poster=poster,
        width=asset.width,
        height=asset.height,
        prompt=escape(asset.prompt),
        facts=_facts(asset),
        fingerprint=escape(asset.fingerprint),
        sha256=asset.sha256,
        generation=escape(asset.generation_id),
    )


def _facts(asset: Asset) -> str:
    cost = PRICE_UNKNOWN if asset.cost_usd is None else usd(asset.cost_usd)
    facts = (
        f"{asset.duration_seconds:.1f} s",
        f"{asset.width} × {asset.height}",
        f"{asset.bytes / 1e3:,.0f} kB",
        cost,
        asset.model,
    )
    return "".join(f"<li>{escape(fact)}</li>" for fact in facts)


def _link(uri: str, folder: Path) -> str:
    relative = _relative(uri, folder)
    return escape(relative if "://" in relative else quote(relative))


def _relative(uri: str, folder: Path) -> str:
    if not uri.startswith("file://"):
        return uri
    return Path(os.path.relpath(unquote(urlsplit(uri).path), folder)).as_posix()


def _write(path: Path, text: str) -> None:
    # Replaced in one step: a browser that reloads the page meanwhile must not get half of it.
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


_CARD = Template("""\
<article class="card">
  <div class="stage"><video src="$video"$poster width="$width" height="$height" controls loop muted playsinline preload="metadata"></video></div>
  <div class="body">
    <header><h2>$id</h2><span class="badge $state">$label</span></header>
    <p class="prompt">$prompt</p>
    <ul class="facts">$facts</ul>
    <dl>
      <dt>fingerprint</dt><dd><code>$fingerprint</code></dd>
      <dt>SHA-256</dt><dd><code>$sha256</code></dd>
      <dt>generation</dt><dd><code>$generation</code></dd>
    </dl>
  </div>
</article>""")  # noqa: E501 -- HTML

_CARD_WITHOUT_VIDEO = Template("""\
<article class="card">
  <div class="stage empty">no video</div>
  <div class="body">
    <header><h2>$id</h2><span class="badge failed">$status</span></header>
    <p class="prompt">$error</p>
  </div>
</article>""")
