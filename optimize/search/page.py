"""``report.html``: the report as one self-contained page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from optimize.search.report import CandidateRecord, OptimizeReport
from optimize.training.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT, REFUSED = "#33415c", "#2a9d8f", "#c9504a"
DOTS_PER_INCH = 130


def render(report: OptimizeReport, run: RunRecord) -> str:
    """Make the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    chosen = next(candidate for candidate in report.candidates if candidate.name == report.chosen)
    return environment.get_template("report.html").render(
        report=report,
        run=run,
        chosen=chosen,
        pareto=_picture(_pareto(report)),
        latencies=_picture(_latencies(report)),
        training=_picture(_training(run)),
    )


def _picture(figure: Figure) -> str:
    """PNG as a data URI: the page needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _colour(candidate: CandidateRecord, report: OptimizeReport) -> str:
    if candidate.refused:
        return REFUSED
    return ACCENT if candidate.name == report.chosen else INK


def _pareto(report: OptimizeReport) -> Figure:
    """Latency against the change of NE, with the budget; the area of a mark is the file's size."""
    figure = _figure(6.4, 3.8)
    axes = figure.subplots()
    built = [c for c in report.candidates if c.latency and c.size_bytes]
    largest = max(c.size_bytes or 1 for c in built)
    for candidate in built:
        change = candidate.ne_change
        middle = change.change_pct if change else 0.0
        error = [[middle - change.low_pct], [change.high_pct - middle]] if change else None
        x = next(latency.p50_ms for latency in candidate.latency if latency.candidates == report.decisive_candidates)
        colour = _colour(candidate, report)
        axes.errorbar(x, middle, yerr=error, color=colour, capsize=4, linewidth=1.2)
        axes.scatter(x, middle, s=60 + 500 * (candidate.size_bytes or 0) / largest, color=colour, alpha=0.75, edgecolors="white", zorder=3)
        axes.annotate(
            f"{candidate.name}\n{(candidate.size_bytes or 0) / 1e6:.1f} MB",
            (x, middle),
            textcoords="offset points",
            xytext=(12, 8),
            fontsize=8,
        )
    axes.axhline(report.max_ne_increase_pct, color=REFUSED, linestyle="--", linewidth=1)
    axes.annotate(
        "budget", (1, report.max_ne_increase_pct), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color=REFUSED
    )
    axes.set_xlabel(f"p50 of one run with {report.decisive_candidates} candidates, ms")
    axes.set_ylabel("change of NE, % (95 % interval)")
    axes.margins(x=0.25, y=0.3)
    axes.grid(alpha=0.25)
    return figure


def _latencies(report: OptimizeReport) -> Figure:
    """Bars of p50 with a whisker to p95, by number of candidates."""
    figure = _figure(6.4, 3.4)
    axes = figure.subplots()
    built = [c for c in report.candidates if c.latency]
    sizes = [latency.candidates for latency in built[0].latency]
    width = 0.8 / len(built)
    for i, candidate in enumerate(built):
        at = [j + (i - (len(built) - 1) / 2) * width for j in range(len(sizes))]
        p50 = [latency.p50_ms for latency in candidate.latency]
        over = [[0.0] * len(sizes), [latency.p95_ms - latency.p50_ms for latency in candidate.latency]]
        shade = 1.0 if candidate.name == report.chosen else 0.35 + 0.3 * i / len(built)
        bars = axes.bar(
            at,
            p50,
            width * 0.9,
            yerr=over,
            color=_colour(candidate, report),
            alpha=shade,
            label=candidate.name,
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel("candidates a request")
    axes.set_ylabel("ms a run (p50, whisker to p95)")
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.25)
    return figure


def _training(run: RunRecord) -> Figure:
    """Training loss and validation AUC by epoch."""
    figure = _figure(6.4, 3.0)
    left = figure.subplots()
    right = left.twinx()
    epochs = [epoch.epoch for epoch in run.epochs]
    left.plot(epochs, [epoch.loss for epoch in run.epochs], color=INK, marker="o", markersize=3)
    right.plot(epochs, [epoch.validation_auc for epoch in run.epochs], color=ACCENT, marker="o", markersize=3)
    left.set_xlabel("epoch")
    left.set_ylabel("training loss", color=INK)
    right.set_ylabel("validation AUC", color=ACCENT)
    left.grid(alpha=0.25)
    return figure
