"""Charts of a load test as inline SVG.

Text stays text and takes the page's own colour, so that one drawing is readable on light and on dark paper.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from loadtests.report import Report
from loadtests.samples import Samples

INK = "#010203"
"""Stands for the colour of the page's text until the SVG is put into the page."""

BLUE, ORANGE, RED = "#3b82c4", "#d9822b", "#c8453b"
"""Mid tones with a contrast of at least 3 to white and to the dark page's ``#16181c`` (WCAG 2.2, 1.4.11: graphics)."""

MAX_BINS = 80
"""Steps in time: each is about ten pixels wide on the page."""

MIN_REQUESTS_A_BIN = 20
"""Fewer would make the line of the p95 that of the maximum."""


def draw(report: Report, samples: Samples) -> dict[str, str]:
    """Draw all charts.

    Returns
    -------
    dict[str, str]
        SVG elements by ``latency_over_time``, ``histogram`` and ``throughput``. The first two are left out
        when no request succeeded.
    """
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    charts = {"throughput": throughput, "latency_over_time": latency_over_time, "histogram": histogram}
    drawn = {}
    for name, chart in charts.items():
        if name != "throughput" and report.latency_ms is None:
            continue
        with mpl.rc_context({**style, "svg.hashsalt": name}):
            figure = Figure(figsize=(8.4, 3.0), layout="constrained")
            chart(figure.add_subplot(), report, samples)
            drawn[name] = _svg(figure, name)
    return drawn


def latency_over_time(axes: Axes, _: Report, samples: Samples) -> None:
    """Median, p95 and maximum of the successful requests by when they started."""
    started_s, latency_ms = samples.started_s[samples.ok], samples.latency_ms[samples.ok]
    bins = max(1, min(MAX_BINS, len(started_s) // MIN_REQUESTS_A_BIN))
    edges = np.linspace(started_s.min(), started_s.max(), bins + 1)
    bin_of = np.clip(np.searchsorted(edges, started_s, side="right") - 1, 0, bins - 1)
    present = np.unique(bin_of)
    middle = (edges[:-1] + edges[1:])[present] / 2
    rows = [latency_ms[bin_of == number] for number in present]
    # A single step in time has no line to draw: show its points.
    marker = "o" if len(present) == 1 else ""
    axes.plot(middle, [row.max() for row in rows], color=RED, linewidth=1, marker=marker, label="max")
    axes.plot(middle, [np.quantile(row, 0.95, method="inverted_cdf") for row in rows], color=ORANGE, marker=marker, label="p95")
    axes.plot(middle, [np.median(row) for row in rows], color=BLUE, marker=marker, label="p50")
    axes.set(xlabel="seconds since the start", ylabel="latency in ms", yscale="log")
    _plain_numbers(axes.yaxis)
    _finish(axes)


def histogram(axes: Axes, report: Report, samples: Samples) -> None:
    """How many successful requests took how long, with the quantiles marked."""
    latency_ms = np.maximum(samples.latency_ms[samples.ok], 1e-3)
    low, high = latency_ms.min(), latency_ms.max()
    edges = np.geomspace(low * 0.98, high * 1.02, 61)
    axes.hist(latency_ms, bins=edges.tolist(), color=BLUE, alpha=0.75)
    for name, dashes in (("p50", ":"), ("p95", "--"), ("p99", "-")):
        value = getattr(report.latency_ms, name)
        if value is not None:
            axes.axvline(value, color=ORANGE, linestyle=dashes, linewidth=1.4, label=f"{name} {value:.3g} ms")
    axes.set(xlabel="latency in ms (log scale)", ylabel="requests (log scale)", xscale="log", yscale="log", ylim=(0.6, None))
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    _finish(axes)


def throughput(axes: Axes, report: Report, samples: Samples) -> None:
    """Answers a second by when they came, successes and failures."""
    ended_s = samples.ended_s
    first = samples.started_s.min()
    bins = int(max(1, min(MAX_BINS, report.duration_s)))
    edges = np.linspace(first, first + report.duration_s, bins + 1)
    width_s = report.duration_s / bins
    good, _ = np.histogram(ended_s[samples.ok], bins=edges)
    bad, _ = np.histogram(ended_s[~samples.ok], bins=edges)
    axes.stairs(good / width_s, edges, color=BLUE, fill=True, alpha=0.75, label="answered")
    if bad.any():
        axes.stairs((good + bad) / width_s, edges, baseline=good / width_s, color=RED, fill=True, alpha=0.85, label="failed")
    axes.set(xlabel="seconds since the start", ylabel="requests a second", ylim=(0, None))
    _finish(axes)


def _plain_numbers(axis: Any) -> None:
    """Write 0.5, 10 and 2000 on a log axis, not powers; label steps within a decade where there is only one."""
    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    within = FuncFormatter(lambda value, _: f"{value:.2g}") if high / max(low, 1e-9) < 30 else NullFormatter()
    axis.set_minor_formatter(within)


def _finish(axes: Axes) -> None:
    axes.grid(visible=True, alpha=0.2, color=INK)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)


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
