"""Two runs beside each other: how much latency, failures and throughput differ, each with an interval.

The ratio of two quantiles is bounded by combining both intervals on a log scale (MOVER); the difference of two shares by Newcombe's
hybrid score interval, with the exact intervals of the report in place of Wilson's. Both runs have their own moment: what differs may be
the version or the machine's mood. Whether a release is worse is for two interleaved arms and the judge to say (docs/judge.md).

References
----------
Zou and Donner, "Construction of confidence intervals about effect measures: a general approach", Statistics in Medicine 27, 2008 (MOVER).
Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17, 1998, method 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from loadtests.figures import Ends, Figures, Frozen
from loadtests.report import REPORT_NAME, Report, read_report
from loadtests.samples import SAMPLES_NAME, Samples, read_samples
from serving.contract.errors import SettingsError

COMPARISON_NAME = "comparison.json"

QUANTILES = ("p50", "p90", "p95", "p99", "p99_9")


class Change(Frozen):
    """One figure of both runs.

    Attributes
    ----------
    a, b
        Values; null where too few requests stand behind one.
    unit
        ``ms``, ``percent`` or ``per second``.
    kind
        Whether `change` is b ÷ a or b − a.
    low, high
        Ends of its 95 % interval; null where nothing is known on that side.
    shown
        Whether the interval excludes "no change".
    """

    figure: str
    a: float | None
    b: float | None
    unit: Literal["ms", "percent", "per second"]
    kind: Literal["ratio", "difference"]
    change: float | None
    low: float | None
    high: float | None
    shown: bool


class Compared(Frozen):
    """Requests of one endpoint and arm, null for all, in both runs."""

    endpoint: str | None
    arm: str | None
    requests: tuple[int, int]
    changes: tuple[Change, ...]


class Comparison(Frozen):
    """``comparison.json``.

    Attributes
    ----------
    a, b
        Names of the runs, as they were given.
    cautions
        What keeps the two from being compared like with like.
    parts
        All requests, then what both runs have by endpoint and arm.
    """

    schema_version: Literal[1] = 1
    a: str
    b: str
    cautions: tuple[str, ...]
    parts: tuple[Compared, ...]


def read_run(folder: Path) -> tuple[Report, Samples]:
    """Read a run's report and samples from its folder.

    Raises
    ------
    SettingsError
        One is missing or is not what it should be.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder: give the one that a load test wrote its report into")
    return read_report(folder / REPORT_NAME), read_samples(folder / SAMPLES_NAME)


def compare_runs(names: tuple[str, str], a: Report, b: Report) -> Comparison:
    """Compare two reports."""
    parts = [_compared(None, None, a, b)]
    of_b = {(part.endpoint, part.arm): part for part in b.parts}
    parts += [
        _compared(part.endpoint, part.arm, part, of_b[part.endpoint, part.arm]) for part in a.parts if (part.endpoint, part.arm) in of_b
    ]
    return Comparison(a=names[0], b=names[1], cautions=tuple(_cautions(names, a, b)), parts=tuple(parts))


def _cautions(names: tuple[str, str], a: Report, b: Report) -> Iterator[str]:
    for name, report in zip(names, (a, b), strict=True):
        if not report.valid:
            yield f"{name} is not valid: {'; '.join(report.invalid_reasons)}"
        if report.cut_short:
            yield f"{name} was ended before its time"
    if a.open_loop != b.open_loop:
        yield "one run is an open loop and the other a closed one: their latencies do not count from the same moment"
    elif a.arrivals != b.arrivals:
        yield "the arrivals differ, so that the load does"
    elif not a.open_loop and a.users != b.users:
        yield f"{a.users} and {b.users} users: latencies of closed loops compare only at the same number of requests under way"
    if [(each.endpoint, each.weight) for each in a.sent] != [(each.endpoint, each.weight) for each in b.sent]:
        yield "the mixes of requests differ"


def _compared(endpoint: str | None, arm: str | None, a: Figures, b: Figures) -> Compared:
    changes = [_latency(name, a, b) for name in QUANTILES]
    changes.append(_errors(a, b))
    changes.append(_plain("throughput", a.throughput_rps, b.throughput_rps, "per second"))
    if a.goodput is not None and b.goodput is not None and a.goodput.within_ms == b.goodput.within_ms:
        changes.append(_plain(f"goodput within {a.goodput.within_ms:g} ms", a.goodput.rps, b.goodput.rps, "per second"))
    return Compared(endpoint=endpoint, arm=arm, requests=(a.requests, b.requests), changes=tuple(changes))


def _latency(name: str, a: Figures, b: Figures) -> Change:
    values = [None if each.latency_ms is None else getattr(each.latency_ms, name) for each in (a, b)]
    ends = [(None, None) if each.latency_ms is None else each.latency_ms.intervals.get(name, (None, None)) for each in (a, b)]
    ratio, low, high = ratio_interval(values[0], ends[0], values[1], ends[1])
    return _change(f"latency {name.replace('_', '.')}", values[0], values[1], "ms", "ratio", (ratio, low, high))


def ratio_interval(a: float | None, ends_a: Ends, b: float | None, ends_b: Ends) -> tuple[float | None, float | None, float | None]:
    """Ratio b ÷ a of two positive figures with intervals, and its own."""
    if a is None or b is None or a <= 0 or b <= 0:
        return None, None, None
    centre = math.log(b / a)
    low = high = None
    if ends_b[0] and ends_a[1]:
        low = math.exp(centre - math.hypot(math.log(b / ends_b[0]), math.log(ends_a[1] / a)))
    if ends_b[1] and ends_a[0]:
        high = math.exp(centre + math.hypot(math.log(ends_b[1] / b), math.log(a / ends_a[0])))
    return b / a, low, high


def _errors(a: Figures, b: Figures) -> Change:
    (low_a, high_a), (low_b, high_b) = a.error_interval_pct, b.error_interval_pct
    change = b.error_pct - a.error_pct
    low = change - math.hypot(b.error_pct - low_b, high_a - a.error_pct)
    high = change + math.hypot(high_b - b.error_pct, a.error_pct - low_a)
    return _change("failed", a.error_pct, b.error_pct, "percent", "difference", (change, low, high))


def _plain(figure: str, a: float, b: float, unit: Literal["per second"]) -> Change:
    """A figure whose interval nobody knows: it is as much the load's as the service's."""
    return _change(figure, a, b, unit, "ratio", (b / a if a > 0 else None, None, None))


def _change(
    figure: str,
    a: float | None,
    b: float | None,
    unit: Literal["ms", "percent", "per second"],
    kind: Literal["ratio", "difference"],
    interval: tuple[float | None, float | None, float | None],
) -> Change:
    change, low, high = interval
    none = 1.0 if kind == "ratio" else 0.0
    shown = (low is not None and low > none) or (high is not None and high < none)
    return Change(figure=figure, a=a, b=b, unit=unit, kind=kind, change=change, low=low, high=high, shown=shown)
