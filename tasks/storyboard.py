"""Storyboard of a run as one Markdown artifact: a still, a link and the cost of each take, and the spend.

Everything in it is other people's text: it is cleaned and escaped, so that no prompt becomes a link or a picture.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final

from prefect_video._clean_text import clean_text
from prefect_video.assets import Asset
from prefect_video.ledger import PRICE_UNKNOWN, usd
from prefect_video.pipeline import ProjectReport, ShotReport
from prefect_video.storage import Store

ROWS_LIMIT: Final = 1000
"""Most rows of one storyboard; the table holds every address anyway."""

_PROMPT_LENGTH: Final = 140


async def read_links(store: Store, assets: Iterable[Asset]) -> dict[str, str]:
    """Return the web addresses of videos and stills, by their URIs; empty where the store has none."""
    links: dict[str, str] = {}
    for asset in assets:
        for uri in (asset.uri, asset.thumbnail_uri):
            if uri and store.owns(uri) and (link := await store.link(uri)):
                links[uri] = link
    return links


def write_storyboard(report: ProjectReport, links: Mapping[str, str]) -> str:
    """Write the storyboard of a run.

    Args:
        report: The outcome of the run.
        links: Web addresses by URI; a file without one is named by its URI.
    """
    stored = sum(shot.status == "stored" for shot in report.shots)
    head = f"**{as_line(report.project)}**: {stored} of {len(report.shots)} stored, {report.describe_paid()}"
    if report.film and report.film.uri:
        head += f", {_link('the final cut', links.get(report.film.uri, report.film.uri))}"
    if report.page_uri:
        head += f", {_link('the page', links.get(report.page_uri, report.page_uri))}"
    lines = [head, "", "| | shot | status | length | paid | prompt |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [_row(shot, links) for shot in report.shots[:ROWS_LIMIT]]
    if (more := len(report.shots) - ROWS_LIMIT) > 0:
        lines += ["", f"and {more} more; the table of this run lists all"]
    return "\n".join(lines)


def artifact_key(*parts: str) -> str:
    """Build a key of lower-case letters, digits and dashes, as Prefect requires; different names get different keys."""
    name = "-".join(parts)
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return key if key == name else f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def as_line(text: str) -> str:
    """Return a text as a part of one line of Markdown, without its marks."""
    return re.sub(r"([\\\[\]`*_<>&|!#])", r"\\\1", clean_text(text))


def _row(shot: ShotReport, links: Mapping[str, str]) -> str:
    asset = shot.asset
    video = links.get(shot.uri, shot.uri) if shot.uri else None
    still = links.get(asset.thumbnail_uri or "") if asset else None
    picture = f"[![]({_target(still)})]({_target(video)})" if still and video else ""
    paid = PRICE_UNKNOWN if shot.cost_usd is None else usd(shot.cost_usd) if shot.cost_usd else "—"
    text = shot.error or (asset.prompt if asset else "")
    shown = text if len(text) <= _PROMPT_LENGTH else f"{text[:_PROMPT_LENGTH]}…"
    cells = (
        picture,
        _link(shot.id, video) if video else as_line(shot.id),
        "cached" if shot.cached else shot.status.replace("_", " "),
        f"{asset.duration_seconds:.1f} s" if asset else "",
        paid,
        as_line(shown),
    )
    return f"| {' | '.join(cells)} |"


def _link(text: str, address: str) -> str:
    return f"[{as_line(text)}]({_target(address)})"


def _target(address: str | None) -> str:
    spelled = clean_text(address or "").replace("<", "%3C").replace(">", "%3E").replace("|", "%7C")
    return f"<{spelled}>"
