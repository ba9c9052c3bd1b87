"""The charts of a report, each over all endpoints and arms of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from loadtests.charts import (
    BLUE,
    GREEN,
    INK,
    MAX_BINS,
    ORANGE,
    PURPLE,
    RED,
    Draw,
    colour,
    drawing,
    log_edges,
    nines,
    nines_axis,
    over_time,
)
from loadtests.quantiles import CONFIDENCE, intervals
from loadtests.report import Report, part_of
from loadtests.samples import Samples
from loadtests.server_side import Histogram

MAX_KINDS = 4
"""Kinds of errors drawn one by one; the table has them all."""

BAND_POINTS = 60
"""Quantiles at which the interval is drawn."""


def draw(report: Report, samples: Samples) -> dict[str, str]:
    """Draw all charts.

    Returns
    -------
    dict[str, str]
        SVG elements by name. What has no data has no chart: latencies when no request succeeded, errors when none failed, the
        generator's lag in a closed loop, the service's own histogram where it has none.
    """
    answered = [name for name in samples.endpoints if samples.ok[samples.endpoint == samples.endpoints.index(name)].any()]
    titles = answered if len(answered) > 1 else []
    charts: dict[str, str] = {}

    def by_endpoint(name: str, chart: Callable[..., None]) -> None:
        if answered:
            rows: list[Draw] = [partial(chart, report=report, samples=samples, endpoint=each) for each in answered]
            charts[name] = drawing(name, rows, titles)

    by_endpoint("latency_over_time", latency_over_time)
    by_endpoint("quantiles", quantiles)
    by_endpoint("histogram", histogram)
    charts["throughput"] = drawing("throughput", [partial(throughput, report=report, samples=samples)])
    if report.failures:
        charts["errors"] = drawing("errors", [partial(errors, samples=samples)])
    if report.open_loop:
        charts["lag"] = drawing("lag", [partial(lag, report=report, samples=samples)])
    served = [each for each in report.server.histograms if each.status == "200"]
    if served and answered:
        rows: list[Draw] = [partial(server_side, served=each, samples=samples, alone=len(served) == 1) for each in served]
        charts["server_side"] = drawing("server_side", rows, [f"{each.model} {each.version}" for each in served] if len(served) > 1 else [])
    return charts


def _arms(samples: Samples, endpoint: str) -> Iterator[tuple[str, Samples]]:
    """Answered requests of an endpoint by arm, with nothing to say before a quantile's name where there is one arm."""
    for name in samples.arms:
        rows = part_of(samples, endpoint, name)
        rows = rows.rows(rows.ok)
        if len(rows):
            yield (name if len(samples.arms) > 1 else ""), rows


def latency_over_time(axes: Axes, report: Report, samples: Samples, endpoint: str) -> None:
    """Quantiles of the answered requests by when they were due; each arm its own line where there are several."""
    for number, (name, rows) in enumerate(_arms(samples, endpoint)):
        if not name:
            thin = {"color": RED, "linewidth": 1}
            over_time(
                axes, rows.intended_s, rows.latency_ms, {"max": (1, thin), "p95": (0.95, {"color": ORANGE}), "p50": (0.5, {"color": BLUE})}
            )
        else:
            line = {"color": colour(number)["color"]}
            lines = {f"{name} p95": (0.95, line), f"{name} p50": (0.5, {**line, "linestyle": ":"})}
            over_time(axes, rows.intended_s, rows.latency_ms, lines)
    for objective in report.asked.objectives:
        if objective.endpoint in (None, endpoint) and objective.p95_ms is not None:
            axes.axhline(objective.p95_ms, color=INK, linewidth=0.8, linestyle="--", label="limit of p95")


def quantiles(axes: Axes, report: Report, samples: Samples, endpoint: str) -> None:
    """Every quantile of latency with its interval; each nine has the same room."""
    most = 0.9
    for number, (name, rows) in enumerate(_arms(samples, endpoint)):
        latency_ms = rows.latency_ms[np.argsort(rows.intended_s, kind="stable")]
        shares, low, high = band(latency_ms)
        ordered, line = np.sort(latency_ms), colour(number)
        places = (np.arange(len(ordered)) + 0.5) / len(ordered)
        axes.plot(nines(places), ordered, label=name or None, **line)
        axes.fill_between(
            nines(shares), low, high, color=line["color"], alpha=0.22, linewidth=0, label=None if name else f"{CONFIDENCE:.0%} interval"
        )
        most = max(most, float(places[-1]))
    limits = {0.5: "p50_ms", 0.95: "p95_ms", 0.99: "p99_ms"}
    for objective in report.asked.objectives:
        marks = [(share, getattr(objective, key)) for share, key in limits.items() if getattr(objective, key) is not None]
        if objective.endpoint in (None, endpoint) and marks:
            axes.plot(nines(np.array([share for share, _ in marks])), [limit for _, limit in marks], "v", color=RED, label="limit")
    axes.set(xlabel="quantile", ylabel="latency in ms", yscale="log")
    nines_axis(axes, most)


def band(latency_ms: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Intervals of quantiles of latencies in the order in which they were due: shares, lower and upper ends, ``(P,)`` each.

    Stops where too few requests show both ends.
    """
    shares = 1 - np.geomspace(0.98, 0.5 / len(latency_ms), BAND_POINTS)
    ends = intervals(latency_ms, [Fraction(share) for share in shares.tolist()])
    shown = [(share, low, high) for share, (low, high) in zip(shares.tolist(), ends, strict=True) if low is not None and high is not None]
    columns = np.array(shown, dtype=np.float64).reshape(-1, 3)
    # A higher quantile is no lower: where the correlation seen around one makes its interval wider, its neighbours' are.
    low, high = np.minimum.accumulate(columns[::-1, 1])[::-1], np.maximum.accumulate(columns[:, 2])
    return columns[:, 0], low, high


def histogram(axes: Axes, report: Report, samples: Samples, endpoint: str) -> None:
    """How many answered requests took how long, with the quantiles marked where there is one arm."""
    arms = list(_arms(samples, endpoint))
    edges = log_edges(*(rows.latency_ms for _, rows in arms))
    for number, (name, rows) in enumerate(arms):
        counts, _ = np.histogram(np.maximum(rows.latency_ms, edges[0]), bins=edges)
        if name:
            axes.stairs(counts, edges, label=name, linewidth=1.5, **colour(number))
        else:
            axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.75)
    figures = next((part for part in report.parts if part.endpoint == endpoint and part.arm is None), report).latency_ms
    if len(arms) == 1 and figures is not None:
        for name, dashes in (("p50", ":"), ("p95", "--"), ("p99", "-")):
            value = getattr(figures, name)
            if value is not None:
                axes.axvline(value, color=ORANGE, linestyle=dashes, linewidth=1.4, label=f"{name} {value:.3g} ms")
    axes.set(xlabel="latency in ms (log scale)", ylabel="requests (log scale)", xscale="log", yscale="log", ylim=(0.6, None))


def _steps(report: Report, samples: Samples) -> tuple[NDArray[np.float64], float]:
    """Edges of steps of at least a second over the whole run, and how long one is."""
    bins = int(max(1, min(MAX_BINS, report.duration_s)))
    first = samples.started_s.min()
    return np.linspace(first, first + report.duration_s, bins + 1), report.duration_s / bins


def throughput(axes: Axes, report: Report, samples: Samples) -> None:
    """Answers a second by when they came: in time, late and failed; and, in an open loop, what was due."""
    edges, width_s = _steps(report, samples)
    late = np.zeros(len(samples), dtype=np.bool_)
    if report.goodput is not None:
        late = samples.ok & (samples.latency_ms > report.goodput.within_ms)
    good = np.histogram(samples.ended_s[samples.ok & ~late], bins=edges)[0] / width_s
    slow = np.histogram(samples.ended_s[late], bins=edges)[0] / width_s
    bad = np.histogram(samples.ended_s[~samples.ok], bins=edges)[0] / width_s
    within = "" if report.goodput is None else f" within {report.goodput.within_ms:g} ms"
    axes.stairs(good, edges, color=BLUE, fill=True, alpha=0.75, label=f"answered{within}")
    if slow.any():
        axes.stairs(good + slow, edges, baseline=good, color=ORANGE, fill=True, alpha=0.8, label="answered later")
    if bad.any():
        axes.stairs(good + slow + bad, edges, baseline=good + slow, color=RED, fill=True, alpha=0.85, label="failed")
    if samples.open_loop:
        due = np.histogram(samples.intended_s, bins=edges)[0] / width_s
        axes.stairs(due, edges, baseline=None, color=INK, linewidth=1, label="due")
    axes.set(xlabel="seconds since the start", ylabel="requests a second", ylim=(0, None))


def errors(axes: Axes, samples: Samples) -> None:
    """Share of failures in each step of time, by kind."""
    ended_s, kinds = samples.ended_s, list(samples.errors.items())
    common = [kind for kind, _ in sorted(kinds, key=lambda item: -item[1])[:MAX_KINDS]]
    bins = int(max(1, min(MAX_BINS, np.ptp(ended_s), len(samples) / 20)))
    edges = np.linspace(ended_s.min(), max(ended_s.max(), ended_s.min() + 1e-9), bins + 1)
    total = np.maximum(np.histogram(ended_s, bins=edges)[0], 1)
    floor = np.zeros(bins)
    colours = (RED, ORANGE, PURPLE, GREEN, BLUE)
    for number, kind in enumerate([*common, "others"]):
        rows = ~samples.ok & (
            (samples.error == samples.error_kinds.index(kind))
            if number < len(common)
            else ~np.isin(samples.error, [samples.error_kinds.index(each) for each in common])
        )
        if rows.any():
            top = floor + 100 * np.histogram(ended_s[rows], bins=edges)[0] / total
            axes.stairs(top, edges, baseline=floor, fill=True, color=colours[number], alpha=0.85, label=_short(kind))
            floor = top
    axes.set(xlabel="seconds since the start", ylabel="failed, % of requests", ylim=(0, None))


def _short(kind: str) -> str:
    """Cut a kind of error to the room that a legend has; a dollar sign would begin a formula."""
    cut = kind if len(kind) <= 28 else kind[:27] + "…"
    return cut.replace("$", r"\$")


def lag(axes: Axes, report: Report, samples: Samples) -> None:
    """How late the generator was, beside what is allowed."""
    lags_ms = np.maximum(samples.lag_ms, 1e-3)
    lines: dict[str, tuple[float, dict[str, Any]]] = {"latest": (1, {"color": RED, "linewidth": 1}), "p50": (0.5, {"color": BLUE})}
    over_time(axes, samples.intended_s, lags_ms, lines)
    axes.axhline(report.generator.max_lag_ms, color=INK, linewidth=0.8, linestyle="--", label="allowed for 1 in 100")
    axes.set(ylabel="sent late by, in ms")


def server_side(axes: Axes, served: Histogram, samples: Samples, *, alone: bool) -> None:
    """The service's own histogram beside the client's, both in the service's buckets, as shares of the answered requests.

    The client's times count from sending, not from when a request was due: that is what the service can know of.
    """
    upper = np.array(served.upper_ms)
    theirs = np.array([*served.requests, served.beyond])
    shown = [theirs / max(int(theirs.sum()), 1)]
    labels = ["service"]
    if alone:
        waited_ms = samples.latency_ms - (samples.lag_ms if samples.open_loop else 0.0)
        cells = np.searchsorted(upper, waited_ms[samples.ok], side="left")
        shown.append(np.bincount(cells, minlength=len(upper) + 1) / max(int(np.count_nonzero(samples.ok)), 1))
        labels.append("client, from sending")
    filled = np.flatnonzero(np.sum(shown, axis=0))
    chosen = np.arange(filled[0], filled[-1] + 1)
    names = [f"≤ {bound:g}" for bound in upper] + [f"> {upper[-1]:g}"]
    width = 0.8 / len(shown)
    for number, (share, label) in enumerate(zip(shown, labels, strict=True)):
        at = np.arange(len(chosen)) + (number - (len(shown) - 1) / 2) * width
        axes.bar(at, 100 * share[chosen], width=width, color=(GREEN, BLUE)[number], label=label)
    axes.set_xticks(np.arange(len(chosen)), [names[each] for each in chosen])
    axes.set(xlabel="time in ms, in the service's buckets", ylabel="% of answered requests", ylim=(0, None))
