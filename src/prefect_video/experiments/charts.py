"""Charts of experiments as PNG, where `matplotlib` is installed."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final

CHART_ADVICE: Final = "no chart, as matplotlib is not installed: pip install 'prefect-video[experiments]'"

_SIZE_INCHES: Final = (8.0, 4.5)
_DOTS_PER_INCH: Final = 110


@dataclass(frozen=True)
class Series:
    """Values of a chart that belong together.

    Attributes:
        label: Their name in the legend.
        xs: Where they stand: numbers, or names of bars.
        ys: The values.
        style: `points`, a `line`, or `bars`.
    """

    label: str
    xs: tuple[float | str, ...]
    ys: tuple[float, ...]
    style: str = "points"


@dataclass(frozen=True)
class Chart:
    """A chart before it is drawn.

    Attributes:
        title: The finding.
        x_label: The meaning of the horizontal axis, with its unit.
        y_label: The meaning of the vertical axis, with its unit.
        series: The values.
        limit: A horizontal line with its label; None for none.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...] = field(default=())
    limit: tuple[float, str] | None = None


def can_draw_charts() -> bool:
    """Tell whether `matplotlib` is installed."""
    return find_spec("matplotlib") is not None


def draw_chart(chart: Chart) -> bytes | None:
    """Draw a chart as PNG; None where `matplotlib` is not installed."""
    try:
        # The object interface: pyplot's state is shared by all threads, and may start a window system.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bottom: dict[float | str, float] = {}
    for series in chart.series:
        if series.style == "bars":
            base = [bottom.get(x, 0.0) for x in series.xs]
            axes.bar(list(series.xs), list(series.ys), bottom=base, label=series.label)
            bottom |= {x: low + y for x, low, y in zip(series.xs, base, series.ys, strict=True)}
        else:
            axes.plot(list(series.xs), list(series.ys), "o" if series.style == "points" else "-", label=series.label)
    if chart.limit is not None:
        axes.axhline(chart.limit[0], linestyle="--", color="0.35", label=chart.limit[1])
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DOTS_PER_INCH)
    return picture.getvalue()
