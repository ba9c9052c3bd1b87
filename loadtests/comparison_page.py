"""``comparison.html``: two runs, plots over each other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from loadtests.charts import Draw, colour, drawing, log_edges, nines, nines_axis, over_time
from loadtests.comparison import Comparison
from loadtests.page import render
from loadtests.report import part_of
from loadtests.report_charts import band
from loadtests.samples import Samples
from serving.contract.files import write_bytes

Runs = tuple[tuple[str, Samples], tuple[str, Samples]]


def write_comparison_page(comparison: Comparison, samples: tuple[Samples, Samples], target: Path) -> None:
    """Write the page, completely or not at all."""
    write_bytes(target, render_comparison(comparison, samples).encode())


def render_comparison(comparison: Comparison, samples: tuple[Samples, Samples]) -> str:
    """Render the page."""
    a, b = samples
    both = [name for name in a.endpoints if name in b.endpoints and all(part_of(run, name, None).ok.any() for run in samples)]
    charts: dict[str, str] = {}
    for title, chart in (("latency_over_time", _over_time), ("quantiles", _quantiles), ("histogram", _histogram)):
        rows: list[Draw] = []
        for name in both:
            answered = (part_of(run, name, None) for run in samples)
            first, second = (run.rows(run.ok) for run in answered)
            rows.append(partial(chart, runs=((comparison.a, first), (comparison.b, second))))
        if rows:
            charts[title] = drawing(title, rows, both if len(both) > 1 else [])
    return render("comparison.html", charts, comparison=comparison)


def _over_time(axes: Axes, runs: Runs) -> None:
    for number, (name, run) in enumerate(runs):
        line = {"color": colour(number)["color"]}
        at_s = run.intended_s - run.intended_s.min()
        over_time(axes, at_s, run.latency_ms, {f"{name} p95": (0.95, line), f"{name} p50": (0.5, {**line, "linestyle": ":"})})


def _quantiles(axes: Axes, runs: Runs) -> None:
    most = 0.9
    for number, (name, run) in enumerate(runs):
        latency_ms = run.latency_ms[np.argsort(run.intended_s, kind="stable")]
        shares, low, high = band(latency_ms)
        places = (np.arange(len(latency_ms)) + 0.5) / len(latency_ms)
        axes.plot(nines(places), np.sort(latency_ms), label=name, **colour(number))
        axes.fill_between(nines(shares), low, high, color=colour(number)["color"], alpha=0.22, linewidth=0)
        most = max(most, float(places[-1]))
    axes.set(xlabel="quantile, with its 95 % interval", ylabel="latency in ms", yscale="log")
    nines_axis(axes, most)


def _histogram(axes: Axes, runs: Runs) -> None:
    edges = log_edges(*(run.latency_ms for _, run in runs))
    for number, (name, run) in enumerate(runs):
        counts, _ = np.histogram(np.maximum(run.latency_ms, edges[0]), bins=edges)
        axes.stairs(100 * counts / len(run), edges, label=name, linewidth=1.5, **colour(number))
    axes.set(xlabel="latency in ms (log scale)", ylabel="% of requests", xscale="log", ylim=(0, None))
