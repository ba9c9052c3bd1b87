"""Figures of a set of requests: counts, throughput, goodput, exact quantiles with their intervals.

Latencies are those of *successful* requests: an error that comes back at once must not make a service look fast. Failed requests are
counted, by kind, and their latencies stated apart. How quantiles and intervals are defined is said in ``loadtests/quantiles.py``; one
that has too few samples behind it is null, not a guess.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import betaincinv

from loadtests.quantiles import CONFIDENCE, QUANTILES, intervals, quantile
from loadtests.samples import Samples

MAX_EXACT_SIZES = 8
"""Request sizes shown one by one; recorded requests have more, and are grouped between `SIZE_EDGES`."""

SIZE_EDGES = (1, 10, 50, 100, 200, 500, 1000)

Count = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Ends = tuple[float | None, float | None]


class Frozen(BaseModel):
    """What all parts of a report are."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(Frozen):
    """Latencies in milliseconds; a quantile is null where too few requests stand behind it.

    Attributes
    ----------
    intervals
        Ends of the 95 % interval of each quantile; null for an end that too few requests show.
    """

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float
    mean: float
    intervals: dict[str, Ends]


class SizeGroup(Frozen):
    """Requests of similar size, in candidates or images; latencies of the successful ones."""

    min_size: Count
    max_size: Count
    requests: Count
    latency_ms: Latency | None


class Goodput(Frozen):
    """Requests answered well and within `within_ms`, of all.

    Attributes
    ----------
    pct
        Their share.
    rps
        Of them a second.
    """

    within_ms: float
    pct: Percent
    rps: Annotated[float, Field(ge=0)]


class Figures(Frozen):
    """Figures of a set of requests.

    Attributes
    ----------
    error_interval_pct
        95 % interval of the share of failures.
    throughput_rps
        Successful requests a second.
    goodput
        Null where nobody said how soon an answer must come to be of use.
    """

    requests: Count
    failures: Count
    error_pct: Percent
    error_interval_pct: tuple[Percent, Percent]
    errors: dict[str, int]
    throughput_rps: Annotated[float, Field(ge=0)]
    goodput: Goodput | None
    received_bytes: Count
    latency_ms: Latency | None
    failed_latency_ms: Latency | None
    sizes: tuple[SizeGroup, ...]


def figures(samples: Samples, duration_s: float, within_ms: float | None = None) -> Figures:
    """Compute the figures of at least one request, over `duration_s` seconds."""
    failures = int(np.count_nonzero(~samples.ok))
    count = len(samples)
    return Figures(
        requests=count,
        failures=failures,
        error_pct=100 * failures / count,
        error_interval_pct=share_interval_pct(failures, count),
        errors=dict(sorted(samples.errors.items(), key=lambda item: (-item[1], item[0]))),
        throughput_rps=(count - failures) / duration_s,
        goodput=None if within_ms is None else _goodput(samples, duration_s, within_ms),
        received_bytes=int(samples.answer_bytes.sum()),
        latency_ms=latency(_as_due(samples, samples.ok)),
        failed_latency_ms=latency(_as_due(samples, ~samples.ok)),
        sizes=_by_size(samples),
    )


def latency(latencies_ms: NDArray[np.float64]) -> Latency | None:
    """Summarize latencies ``(S,) float64`` in the order in which the requests were due; None when there are none."""
    if len(latencies_ms) == 0:
        return None
    ordered = np.sort(latencies_ms)
    values = {name: quantile(ordered, share) for name, share in QUANTILES.items()}
    stated = [name for name, value in values.items() if value is not None]
    ends = dict(zip(stated, intervals(latencies_ms, [QUANTILES[name] for name in stated]), strict=True))
    return Latency(**values, max=float(ordered[-1]), mean=float(ordered.mean()), intervals=ends)


def share_interval_pct(events: int, requests: int) -> tuple[float, float]:
    """95 % interval of a share in percent, exact for independent requests (Clopper and Pearson, Biometrika 26, 1934)."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if events == 0 else float(betaincinv(events, requests - events + 1, tail))
    high = 1.0 if events == requests else float(betaincinv(events + 1, requests - events, 1 - tail))
    return 100 * low, 100 * high


def _as_due(samples: Samples, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    latencies_ms: NDArray[np.float64] = samples.latency_ms[rows]
    return latencies_ms[np.argsort(samples.intended_s[rows], kind="stable")]


def _goodput(samples: Samples, duration_s: float, within_ms: float) -> Goodput:
    good = int(np.count_nonzero(samples.ok & (samples.latency_ms <= within_ms)))
    return Goodput(within_ms=within_ms, pct=100 * good / len(samples), rps=good / duration_s)


def _by_size(samples: Samples) -> tuple[SizeGroup, ...]:
    distinct = np.unique(samples.size)
    if len(distinct) <= MAX_EXACT_SIZES:
        group_of = np.searchsorted(distinct, samples.size)
    else:
        group_of = np.searchsorted(np.array(SIZE_EDGES), samples.size, side="right")
    groups = []
    for group in np.unique(group_of):
        rows = group_of == group
        groups.append(
            SizeGroup(
                min_size=int(samples.size[rows].min()),
                max_size=int(samples.size[rows].max()),
                requests=int(np.count_nonzero(rows)),
                latency_ms=latency(_as_due(samples, rows & samples.ok)),
            )
        )
    return tuple(groups)
