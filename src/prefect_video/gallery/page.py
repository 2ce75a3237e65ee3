"""Rendering of manifests as pages: one file each, without a request to anything but the files beside it.

Everything that is shown is other people's text. It is cleaned and escaped in one place, where a template prints it; the
page's own style and script are named by their digests in a content security policy, so that nothing else can run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from prefect_video._clean_text import clean_text
from prefect_video.gallery.dependency_graph import NODE_HEIGHT, NODE_WIDTH, lay_out, summarize_status
from prefect_video.gallery.manifest import (
    MANIFEST_NAME,
    PAGE_NAME,
    Manifest,
    ShotRecord,
    SpendRecord,
    TakeRecord,
    VideoFile,
)
from prefect_video.ledger import PRICE_UNKNOWN, usd, usd_sum

if TYPE_CHECKING:
    from jinja2 import Environment

STATUS_LABELS: Final = {
    "stored": "Ready",
    "in_flight": "In progress",
    "waiting": "Waiting",
    "dropped": "Dropped",
    "pending": "Not made yet",
    "held": "Needs a decision",
    "failed": "Failed",
    "over_budget": "Over budget",
    "skipped": "Skipped",
    "cancelled": "Cancelled",
}
_COMMAND: Final = re.compile(
    r"(prefect-video [a-z]+(?: (?:recover|upgrade|check))?(?: --[\w-]+(?: [\w./@=:'-]+)?| [\w-]*\d[\w-]*)*)"
)
"""Command of this program in a message, with its options and ids."""
_POLICY: Final = (
    "default-src 'none'; img-src 'self' data: file:; media-src 'self' file:; style-src 'sha256-{style}';"
    " script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class ProjectCard:
    """Project on the index page of a store."""

    manifest: Manifest

    @property
    def folder(self) -> str:
        """Name of the project's folder."""
        return self.manifest.project

    @property
    def cover(self) -> VideoFile | None:
        """The first video that has a picture."""
        return next((take.video for take in self.manifest.takes if take.video and take.video.thumbnail), None)


def render_page(manifest: Manifest) -> bytes:
    """Render the page of a project."""
    shots = [shot for shot in manifest.shots if shot.in_project]
    takes = manifest.takes
    return render(
        "project.html",
        manifest=manifest,
        shots=shots,
        removed=[shot for shot in manifest.shots if not shot.in_project],
        troubled=[(shot, take) for shot in shots for take in shot.takes if take.error or take.remedy],
        graph=lay_out(shots),
        ratio=_common_ratio(takes),
        is_portrait=_is_portrait(takes),
        seconds=sum(take.video.duration_seconds for take in takes if take.video),
        stored=sum(take.status == "stored" for take in takes),
        statuses=_count(take.status for take in takes),
        providers=_count(take.provider for take in takes if take.provider),
        reel=[(shot, take) for shot in shots if (take := _best_take(shot))],
    )


def render_index(projects: Sequence[Manifest]) -> bytes:
    """Render the index page of a store."""
    newest_first = sorted(projects, key=lambda manifest: manifest.made_at, reverse=True)
    return render("index.html", projects=[ProjectCard(manifest) for manifest in newest_first])


def render(template: str, *, ratio: str | None = None, **values: Any) -> bytes:
    """Render a page from its template.

    Args:
        template: Name of the template.
        ratio: Shape of all videos on it, as `1280x720`; None where they differ.
        values: What the template shows.
    """
    environment = _environment()
    # An attribute would not do: the policy allows this one style sheet, and no style of an element.
    style = _read("style.css") + (f".stage{{aspect-ratio:{ratio.replace('x', '/')}}}" if ratio else "")
    script = _read("gallery.js")
    policy = _POLICY.format(style=_digest(style), script=_digest(script))
    from markupsafe import Markup

    # Both are the package's own, and a digest is of every character.
    page = environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        policy=Markup(policy),
        **values,
    )
    return page.encode("utf-8", errors="replace")


@cache
def _environment() -> Environment:
    # Imported here: short commands do without it.
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    environment.globals |= {
        "labels": STATUS_LABELS,
        "manifest_name": MANIFEST_NAME,
        "page_name": PAGE_NAME,
        "node_width": NODE_WIDTH,
        "node_height": NODE_HEIGHT,
        "status_of": summarize_status,
    }
    environment.filters |= {
        "href": _as_link,
        "usd": _format_usd,
        "total": _format_total,
        "length": _format_seconds,
        "size": _format_bytes,
        "moment": _format_moment,
        "code": _mark_commands,
        "share": _share,
    }
    return environment


@cache
def _read(name: str) -> str:
    return files("prefect_video.gallery").joinpath(name).read_text("utf-8")


def _clean(value: object) -> object:
    """Spell out what a browser would act upon, such as marks of direction, in every text that a template prints."""
    return clean_text(value, lines=True) if type(value) is str else value


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _as_link(path: str) -> str:
    """Return a relative path as a link that no name can turn into another scheme."""
    quoted = quote(path, safe="/", errors="replace")
    return quoted if quoted.startswith("../") else f"./{quoted}"


def _format_usd(amount: Decimal | None) -> str:
    return PRICE_UNKNOWN if amount is None else usd(amount)


def _format_total(spend: SpendRecord) -> str:
    """Format what was spent; a sum that leaves out an unknown price says so."""
    return usd_sum(spend.spent_usd, spend.unpriced)


def _format_seconds(seconds: float | None) -> str:
    """Format a length: `4.0 s`, `1 min 05 s`."""
    if seconds is None:
        return "—"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _format_bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def _format_moment(moment: datetime) -> str:
    return f"{moment:%-d %B %Y, %H:%M} UTC"


def _mark_commands(text: str) -> Any:
    """Mark the commands of this program in a message, so that they can be read and copied as such."""
    from markupsafe import Markup, escape

    parts = _COMMAND.split(clean_text(text, lines=True))
    marked = [
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    ]
    return Markup("").join(marked)


def _share(part: Decimal, whole: Decimal | None) -> float:
    """Return a part of a whole in percent, at most 100."""
    return float(min(Decimal(100), 100 * part / whole)) if whole else 0.0


def _count(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _best_take(shot: ShotRecord) -> TakeRecord | None:
    """Return the take that is shown first: the chosen one, else the first that is stored."""
    stored = [take for take in shot.takes if take.video and take.video.path]
    return next((take for take in stored if take.chosen), stored[0] if stored else None)


def _common_ratio(takes: Sequence[TakeRecord]) -> str | None:
    """Return the shape that all videos have, as `1280x720`; None where they differ, or there is none."""
    ratios = {Fraction(take.video.width, take.video.height) for take in takes if take.video}
    return f"{(ratio := ratios.pop()).numerator}x{ratio.denominator}" if len(ratios) == 1 else None


def _is_portrait(takes: Sequence[TakeRecord]) -> bool:
    videos = [take.video for take in takes if take.video]
    return sum(video.height > video.width for video in videos) * 2 > len(videos)
