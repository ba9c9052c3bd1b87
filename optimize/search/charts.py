"""Pictures of the report, as PNG in data URIs: the page needs no other file."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from optimize.search.metrics import METRICS
from optimize.search.report import CandidateRecord, OptimizeReport, counted
from optimize.training.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT, REFUSED, QUIET = "#33415c", "#2a9d8f", "#c9504a", "#9aa5b8"
DOTS_PER_INCH = 130
MAX_BARS = 16
WIDTH = 6.6


def of(report: OptimizeReport, run: RunRecord | None) -> dict[str, Figure]:
    """Pictures by name; a picture of something that the report does not have is left out."""
    figures = {"pareto": _pareto(report), "latencies": _latencies(report), "differences": _differences(report)}
    if report.sensitivity:
        figures["sensitivity"] = _sensitivity(report)
    if report.operators:
        figures["operators"] = _operators(report)
    if run is not None and run.epochs:
        figures["training"] = _training(run)
    return figures


def picture(figure: Figure) -> str:
    """PNG as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def number_of(report: OptimizeReport, candidate: CandidateRecord) -> int:
    """The number that marks a candidate in pictures and table."""
    return [c.name for c in report.candidates].index(candidate.name)


def _colour(candidate: CandidateRecord, report: OptimizeReport) -> str:
    if candidate.refused:
        return REFUSED
    return ACCENT if candidate.name == report.chosen else INK if candidate.pareto else QUIET


def _pareto(report: OptimizeReport) -> Figure:
    """Latency against the metric's change, with the budget; the area of a mark is the file's size, its number that of the table."""
    figure = _figure(WIDTH, 4.4)
    axes = figure.subplots()
    size = report.decisive_size
    timed = [(c, c.p50_ms(size)) for c in report.candidates]
    built = [(c, x) for c, x in timed if x is not None]
    largest = max(c.size_bytes or 1 for c, _ in built)
    for candidate, x in built:
        change = candidate.change
        middle = change.value if change else 0.0
        error = [[middle - change.low], [change.high - middle]] if change else None
        colour = _colour(candidate, report)
        axes.errorbar(x, middle, yerr=error, color=colour, capsize=3, linewidth=1.0, alpha=0.8)
        axes.scatter(x, middle, s=40 + 360 * (candidate.size_bytes or 0) / largest, color=colour, alpha=0.75, edgecolors="white", zorder=3)
        axes.annotate(str(number_of(report, candidate)), (x, middle), textcoords="offset points", xytext=(9, 6), fontsize=8, color=colour)
    front = sorted((x, c.change.value if c.change else 0.0) for c, x in built if c.pareto)
    lowest, steps = float("inf"), []
    for x, y in front:
        if y < lowest:
            steps.append((x, y))
            lowest = y
    if len(steps) > 1:
        axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=INK, linewidth=0.8, alpha=0.5)
    axes.axhline(report.budget.limit, color=REFUSED, linestyle="--", linewidth=1)
    at = (1.0, report.budget.limit)
    axes.annotate("budget", at, xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color=REFUSED)
    axes.set_xlabel(f"p50 of one run with {counted(size, report.size_unit)}, ms")
    axes.set_ylabel(f"change of {METRICS[report.budget.metric].title}, {report.budget.unit}".rstrip(", ") + "\n(worse is up)")
    axes.margins(x=0.12, y=0.15)
    axes.grid(alpha=0.25)
    return figure


def _latencies(report: OptimizeReport) -> Figure:
    """Bars of p50 with a whisker to p95 at the decisive size, fastest first."""
    size = report.decisive_size
    timed = [(latency, c) for c in report.candidates for latency in c.latency if latency.size == size]
    timed = sorted(timed, key=lambda pair: pair[0].p50_ms)[:MAX_BARS]
    figure = _figure(WIDTH, 0.9 + 0.3 * len(timed))
    axes = figure.subplots()
    p50 = [latency.p50_ms for latency, _ in timed]
    over = [[0.0] * len(timed), [max(0.0, latency.p95_ms - latency.p50_ms) for latency, _ in timed]]
    bars = axes.barh(
        range(len(timed)),
        p50,
        xerr=over,
        color=[_colour(c, report) for _, c in timed],
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": QUIET},
    )
    axes.bar_label(bars, fmt=" %.2f", fontsize=8, label_type="center", color="white")
    axes.set_yticks(range(len(timed)), [f"{_short(c.name)}  {number_of(report, c)}" for _, c in timed], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"ms a run with {counted(size, report.size_unit)} (p50, whisker to p95)")
    axes.grid(axis="x", alpha=0.25)
    return figure


def _differences(report: OptimizeReport) -> Figure:
    """Histograms of answers minus the reference's, for the chosen one and the variants with the most different errors."""
    judged = [c for c in report.candidates if c.passes and c.differences and c.differences.max_abs > 0]
    judged.sort(key=lambda c: (c.name != report.chosen, bool(c.refused), c.differences.rms if c.differences else 0.0))
    shown = judged[:3]
    figure = _figure(WIDTH, 2.6)
    if not shown:
        axes = figure.subplots()
        axes.text(0.5, 0.5, "no variant answers differently from the reference", ha="center", va="center")
        axes.set_axis_off()
        return figure
    for axes, candidate in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        held = candidate.differences
        assert held is not None
        width = held.edges[1] - held.edges[0]
        axes.bar(held.edges[:-1], held.counts, width=width, align="edge", color=_colour(candidate, report), log=True)
        axes.set_title(f"{number_of(report, candidate)}: {_short(candidate.name, 18)}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 2))
        axes.xaxis.get_offset_text().set_fontsize(7)
    return figure


def _sensitivity(report: OptimizeReport) -> Figure:
    shown = sorted(report.sensitivity, key=lambda layer: -abs(layer.change))[:MAX_BARS]
    figure = _figure(WIDTH, 0.9 + 0.28 * len(shown))
    axes = figure.subplots()
    colours = [REFUSED if layer.change > 0 else INK for layer in shown]
    axes.barh(range(len(shown)), [layer.change for layer in shown], color=colours)
    axes.set_yticks(range(len(shown)), [_short(layer.layer) for layer in shown], fontsize=8)
    axes.invert_yaxis()
    unit = f", {report.budget.unit}" if report.budget.unit else ""
    axes.set_xlabel(f"change of {METRICS[report.budget.metric].title}{unit} when this layer alone is int8 (right is worse)")
    axes.grid(axis="x", alpha=0.25)
    return figure


def _operators(report: OptimizeReport) -> Figure:
    shown = report.operators[:MAX_BARS]
    figure = _figure(WIDTH, 0.9 + 0.3 * len(shown))
    axes = figure.subplots()
    at = range(len(shown))
    axes.barh([i - 0.2 for i in at], [operator.before_ms for operator in shown], 0.38, color=QUIET, label="as exported")
    axes.barh([i + 0.2 for i in at], [operator.after_ms for operator in shown], 0.38, color=ACCENT, label=_short(report.chosen))
    axes.set_yticks(at, [operator.operator for operator in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"ms a run with {report.decisive}")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(axis="x", alpha=0.25)
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


def _short(name: str, most: int = 36) -> str:
    """Cut in the middle; matplotlib reads a pair of dollar signs as a formula."""
    cut = name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"
    return cut.replace("$", r"\$")
