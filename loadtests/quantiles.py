"""Exact quantiles of raw samples.

The q-quantile is the nearest rank: the smallest sample that at least a share q of all samples does not
exceed. It is always a latency that some request really had; nothing is interpolated and nothing rounded.
(Locust's own percentiles are rounded to two digits.)

The interval around a quantile needs no assumption about the shape of latencies: the number of samples below the true quantile is
binomial, so two ranks enclose it with known probability. Requests that are slow together are fewer than they look; `correlations`
says how many count as one, and the ranks are those of so many fewer samples.

References
----------
Hyndman and Fan, "Sample Quantiles in Statistical Packages", The American Statistician, 1996: definition 1. David and Nagaraja,
*Order Statistics*, 2003, section 7.1 (intervals). Heidelberger and Lewis, "Quantile estimation in dependent sequences", Operations
Research 32, 1984.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from loadtests.judge.dispersion import Dispersion

QUANTILES: dict[str, Fraction] = {
    "p50": Fraction(50, 100),
    "p90": Fraction(90, 100),
    "p95": Fraction(95, 100),
    "p99": Fraction(99, 100),
    "p99_9": Fraction(999, 1000),
}
"""Reported quantiles by name. Fractions, because 0.999 × 1000 is above 999 in floating point, one rank too far."""

CONFIDENCE = 0.95
"""Of the intervals in reports and comparisons: each end is passed with at most half of what is left."""

BLOCK = 10
"""Samples in the shortest sums whose variance is looked at, as in the judge."""

MAX_BLOCKS = 2000
"""Bounds the time that a long run takes (50 ms); longer blocks hold what is correlated within them."""


def min_samples(share: Fraction) -> int:
    """Fewest samples for which the quantile is not simply the largest sample: one expected above it, ``1 / (1 - share)``."""
    return -(-1 // (1 - share))


def quantile(sorted_samples: NDArray[np.float64], share: Fraction) -> float | None:
    """Return the quantile, or None where there are too few samples to tell it from the maximum.

    Parameters
    ----------
    sorted_samples
        ``(S,) float64``, ascending.
    share
        Between 0 and 1, both excluded.
    """
    count = len(sorted_samples)
    if count < min_samples(share):
        return None
    rank = -(-(count * share) // 1)
    return float(sorted_samples[int(rank) - 1])


def interval(
    sorted_samples: NDArray[np.float64], share: Fraction, *, correlation: float = 1.0, confidence: float = CONFIDENCE
) -> tuple[float | None, float | None]:
    """Ends between which the true quantile lies; None for an end that no sample is far enough out to show.

    Parameters
    ----------
    sorted_samples
        ``(S,) float64``, ascending.
    correlation
        How many samples count as one, at least 1.
    """
    count = len(sorted_samples)
    independent = int(count / correlation)
    if independent < 1:
        return None, None
    tail, ranks = (1 - confidence) / 2, np.arange(independent + 1)
    below = bdtr(ranks, independent, float(share))
    # X(l) is above the quantile when fewer than l samples are below it, X(u) is below it when u or more are.
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    # Of fewer, independent samples the rank stands for a share; rounding goes outwards.
    low_rank, high_rank = low * count // independent, -(-high * count // independent)
    return (
        float(sorted_samples[low_rank - 1]) if low >= 1 else None,
        float(sorted_samples[high_rank - 1]) if high <= independent else None,
    )


def correlations(samples: NDArray[np.float64], values: Sequence[float]) -> NDArray[np.float64]:
    """How many samples count as one around each value, ``(L,) float64``: design effects of the share above it, by batch means.

    Parameters
    ----------
    samples
        ``(S,) float64``, in the order in which the requests were due.
    values
        ``L`` of them.
    """
    if len(samples) < BLOCK:
        return np.ones(len(values))
    size = max(BLOCK, len(samples) // MAX_BLOCKS)
    blocks = len(samples) // size
    above = samples[:, None] > np.asarray(values)[None, :]
    share = above.mean(axis=0)
    sums = above[: blocks * size].reshape(blocks, size, -1).sum(axis=1)
    dispersion = Dispersion(1, len(share))
    variance = (size * share * (1 - share))[None]
    for events in sums:
        dispersion.add((events - size * share)[None], variance, events[None])
    return np.asarray(dispersion.effect().size[0])


def intervals(samples: NDArray[np.float64], shares: Sequence[Fraction]) -> list[tuple[float | None, float | None]]:
    """Intervals of several quantiles of samples in the order in which the requests were due.

    Requests may be slow together around an end of an interval and not around the quantile itself: after a stall, a p99 within it seems
    sure, though it rests on one event. So the interval is drawn once more, with what is seen around its first ends. No run shows how often
    that happens which it saw happen once: such a lower end is still to be read with care.
    """
    ordered = np.sort(samples)
    if not len(ordered):
        return [(None, None)] * len(shares)
    at = ordered[[max(int(-(-(len(ordered) * share) // 1)), 1) - 1 for share in shares]]
    counts_as = correlations(samples, at.tolist())
    first = [interval(ordered, share, correlation=float(d)) for share, d in zip(shares, counts_as, strict=True)]
    ends = np.array([[value if end is None else end for end in pair] for pair, value in zip(first, at.tolist(), strict=True)])
    around = correlations(samples, ends.ravel().tolist()).reshape(-1, 2).max(axis=1)
    widest = np.maximum(counts_as, around)
    return [interval(ordered, share, correlation=float(d)) for share, d in zip(shares, widest, strict=True)]
