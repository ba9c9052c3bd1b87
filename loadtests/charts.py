"""Charts as inline SVG: style, axes and colours that all pages share.

Text stays text and takes the page's own colour, so that one drawing is readable on light and on dark paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

INK = "#010203"
"""Stands for the colour of the page's text until the SVG is put into the page."""

BLUE, ORANGE, RED, GREEN, PURPLE = "#3b82c4", "#d9822b", "#c8453b", "#2f9467", "#9a6dd7"
"""Mid tones with a contrast of at least 3 to white and to the dark page's ``#16181c`` (WCAG 2.2, 1.4.11: graphics)."""

PARTS = (BLUE, ORANGE, GREEN, PURPLE, RED)
"""Colours of arms, or of runs that are compared; with more of them they begin anew, and dashes tell them apart."""

DASHES = ("-", "--", ":")

MAX_BINS = 80
"""Steps in time: each is about ten pixels wide on the page."""

MIN_REQUESTS_A_BIN = 20
"""Fewer would make the line of the p95 that of the maximum."""

WIDTH, ROW_HEIGHT = 8.4, 2.9
"""Inches; the page scales the width to its own."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
}

Draw = Callable[[Axes], None]


def drawing(name: str, rows: Sequence[Draw], titles: Sequence[str] = ()) -> str:
    """Draw charts below each other.

    Parameters
    ----------
    name
        Of the drawing; it keeps the ids of several on one page apart.
    rows
        Each draws on its axes.
    titles
        One above each of the rows; none where there is only one.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, 0.2 + ROW_HEIGHT * len(rows)), layout="constrained")
        for axes, draw, title in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, titles or [""] * len(rows), strict=True):
            draw(axes)
            axes.set_title(title)
            for axis in (axes.xaxis, axes.yaxis):
                if axis.get_scale() == "log":
                    _plain_numbers(axis)
            axes.grid(visible=True, alpha=0.2, color=INK)
            axes.set_axisbelow(True)
            handles = axes.get_legend_handles_labels()[0]
            if handles:
                columns = min(len(handles), 4)
                axes.legend(frameon=False, ncols=columns, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, handlelength=1.6)
        return _svg(figure, name)


def colour(number: int) -> dict[str, Any]:
    """Return colour and dashes of the line of this number."""
    return {"color": PARTS[number % len(PARTS)], "linestyle": DASHES[(number // len(PARTS)) % len(DASHES)]}


def over_time(
    axes: Axes, at_s: NDArray[np.float64], latency_ms: NDArray[np.float64], lines: Mapping[str, tuple[float, Mapping[str, Any]]]
) -> None:
    """Draw quantiles of latencies ``(S,)`` in steps of time; `lines` has the quantile (1 for the maximum) and the style by label."""
    bins = max(1, min(MAX_BINS, len(at_s) // MIN_REQUESTS_A_BIN))
    edges = np.linspace(at_s.min(), at_s.max(), bins + 1)
    bin_of = np.clip(np.searchsorted(edges, at_s, side="right") - 1, 0, bins - 1)
    present = np.unique(bin_of)
    middle = (edges[:-1] + edges[1:])[present] / 2
    rows = [latency_ms[bin_of == number] for number in present]
    # A single step in time has no line to draw: show its points.
    marker = "o" if len(present) == 1 else ""
    for label, (share, style) in lines.items():
        values = [np.quantile(row, share, method="inverted_cdf") for row in rows]
        axes.plot(middle, values, marker=marker, label=label, **style)
    axes.set(xlabel="seconds since the start", ylabel="latency in ms", yscale="log")


def log_edges(*latencies_ms: NDArray[np.float64], bins: int = 60) -> NDArray[np.float64]:
    """Edges of bins of equal width on a log axis that hold all latencies."""
    low = min(float(each.min()) for each in latencies_ms if len(each))
    high = max(float(each.max()) for each in latencies_ms if len(each))
    return np.geomspace(max(low, 1e-3) * 0.98, max(high, 1e-3) * 1.02, bins + 1)


def nines(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where shares lie on an axis that gives each nine the same room: 0.9 at 1, 0.99 at 2."""
    return -np.log10(1 - shares)


def nines_axis(axes: Axes, most: float) -> None:
    """Label an axis of `nines` by quantiles, up to `most`."""
    shares = [share for share in (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999) if share == 0 or share <= most]
    axes.xaxis.set_major_locator(FixedLocator(nines(np.array(shares)).tolist()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "min" if value < 1e-9 else f"p{100 * (1 - 10**-value):.6g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _plain_numbers(axis: Any) -> None:
    """Write 0.5, 10 and 2000 on a log axis, not powers; label steps within a decade where there are few decades."""
    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    span = high / max(low, 1e-9)
    # Within less than half a decade all steps have room; within one and a half, those at 2, 3 and 5.
    digits = "123456789" if span < 3 else "235" if span < 30 else ""
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}" if f"{value:e}"[0] in digits else ""))


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Several drawings share one page: names of groups must differ, and the page sets the size.
    text = re.sub(r'<g id="([a-z_0-9.]+)"', rf'<g id="{name}-\1"', text)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace(INK, "currentColor")
