"""Evidence about one share of events, open for looking at any time: the one-sided beta-binomial mixture.

For the null "the share is at most p" the evidence after k events in n requests is the mean likelihood ratio against shares above p ::

    E = ∫_p^1 (θ/p)^k ((1−θ)/(1−p))^(n−k) dBeta(θ; ν p, ν (1−p)) / P(Beta > p)

which is a ratio of (incomplete) beta functions. A tenth of the wealth stays out of the bet, so that evidence for the null, which may be
beyond all floating point numbers, costs no more than a factor of ten where it meets other evidence. E is a test supermartingale for every
share up to p, so it ever reaches 1/α with probability at most α. "At least p" is the same from the other side. ``ν``, in requests, says for
which sample size the boundary is tightest: about ten times ν at α = 1 %.

``n`` and ``k`` may be fractions: with correlated requests both are divided by the design effect.

References
----------
Howard and Ramdas, "Sequential estimation of quantiles with applications to A/B testing and best-arm identification", Bernoulli 28, 2022,
theorem 1. Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics
49, 2021, proposition 7 and section 3.5 on tuning.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betaln, xlog1py, xlogy

Floats = NDArray[np.float64]
Evidence = Callable[[ArrayLike, ArrayLike, ArrayLike, ArrayLike], Floats]
"""One of the two below: of events, requests, a share and what is planned."""

PLAN_OVER_NU = 10.0
"""Requests for which the boundary is tightest, divided by ν (measured in `benchmarks.judge`: flat between 5 and 20)."""


KEPT = 0.1
"""Wealth that is not put at stake."""


def log_evidence_above(events: ArrayLike, requests: ArrayLike, share: ArrayLike, planned: ArrayLike) -> Floats:
    """Log evidence against "the share of events is at most `share`", any broadcastable shapes, ``float64``.

    Parameters
    ----------
    events, requests
        k and n.
    share
        p, between 0 and 1, both excluded.
    planned
        Requests for which the boundary is to be tightest.
    """
    return _log_evidence(events, requests, share, planned, betaincc)


def log_evidence_below(events: ArrayLike, requests: ArrayLike, share: ArrayLike, planned: ArrayLike) -> Floats:
    """Log evidence against "the share of events is at least `share`"; parameters as in `log_evidence_above`."""
    return _log_evidence(events, requests, share, planned, betainc)


def _log_evidence(events: ArrayLike, requests: ArrayLike, share: ArrayLike, planned: ArrayLike, side: np.ufunc) -> Floats:
    k, n, p = np.broadcast_arrays(np.asarray(events, dtype=np.float64), requests, share)
    nu = np.asarray(planned, dtype=np.float64) / PLAN_OVER_NU
    a, b = nu * p, nu * (1 - p)
    with np.errstate(divide="ignore"):
        log_mean = betaln(a + k, b + n - k) - betaln(a, b) + np.log(side(a + k, b + n - k, p)) - np.log(side(a, b, p))
    log_evidence = log_mean - xlogy(k, p) - xlog1py(n - k, -p)
    return np.asarray(np.logaddexp(np.log(KEPT), np.log1p(-KEPT) + log_evidence))
