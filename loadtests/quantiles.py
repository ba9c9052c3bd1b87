"""Exact quantiles of raw samples.

The q-quantile is the nearest rank: the smallest sample that at least a share q of all samples does not
exceed. It is always a latency that some request really had; nothing is interpolated and nothing rounded.
(Locust's own percentiles are rounded to two digits.)

References
----------
Hyndman and Fan, "Sample Quantiles in Statistical Packages", The American Statistician, 1996: definition 1.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

QUANTILES: dict[str, Fraction] = {
    "p50": Fraction(50, 100),
    "p90": Fraction(90, 100),
    "p95": Fraction(95, 100),
    "p99": Fraction(99, 100),
    "p99_9": Fraction(999, 1000),
}
"""Reported quantiles by name. Fractions, because 0.999 × 1000 is above 999 in floating point, one rank too far."""


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
