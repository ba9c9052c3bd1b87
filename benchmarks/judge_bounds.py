"""How much any test could find: the power of the best test that knows both distributions and looks once, at the end.

Null: both arms draw from the mean of the two distributions, so that what is pooled looks the same. The likelihood ratio is then the best
test at any level (Neyman and Pearson, 1933); its power at 1 % is a bound for whoever keeps 1 % on that null, and our judge keeps it while
it looks all the time, without knowing either distribution. Only requests beyond the 98th percentile tell anything about a stretched
tail, so only they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlog1py, xlogy
from scipy.stats import norm

Floats = NDArray[np.float64]

RUNS = 10_000
LEVEL = 0.01
TAIL = 0.02
SIGMA = 0.5


def stretched_bound(count: int, times: float, *, excess: bool, seed: int = 0) -> float:
    """Most power in percent against a log-normal tail that is stretched beyond its 98th percentile.

    Parameters
    ----------
    count
        Requests an arm.
    excess
        Whether only the time beyond the percentile is stretched.
    """
    generator = np.random.default_rng(seed)
    edge = float(np.exp(SIGMA * norm.isf(TAIL)))
    offset = edge if excess else 0.0

    def healthy(number: int) -> Floats:
        return np.exp(SIGMA * norm.isf(TAIL * generator.random(number)))

    def log_healthy(value: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            log = norm.logpdf(np.log(value) / SIGMA) - np.log(value)
        return np.where(value > edge, log, -np.inf)

    def harmed(number: int) -> Floats:
        return offset + times * (healthy(number) - offset)

    def log_harmed(value: Floats) -> Floats:
        return np.asarray(log_healthy(offset + (value - offset) / times) - np.log(times), np.float64)

    return _power(count, (harmed, log_harmed), (healthy, log_healthy), generator)


def error_bound(count: int, baseline: float, canary: float, *, seed: int = 0) -> float:
    """Most power in percent against a share of failures that rises from `baseline` to `canary`."""
    generator = np.random.default_rng(seed)
    middle = (baseline + canary) / 2

    def ratio(of_canary: NDArray[np.int64], of_baseline: NDArray[np.int64]) -> Floats:
        own = [xlogy(found, share) + xlog1py(count - found, -share) for found, share in ((of_canary, canary), (of_baseline, baseline))]
        both = of_canary + of_baseline
        # Evidence that cannot be: finite, so that differences and quantiles stay numbers.
        return np.maximum(own[0] + own[1], -1e9) - xlogy(both, middle) - xlog1py(2 * count - both, -middle)

    null = ratio(generator.binomial(count, middle, RUNS), generator.binomial(count, middle, RUNS))
    harm = ratio(generator.binomial(count, canary, RUNS), generator.binomial(count, baseline, RUNS))
    return _above(null, harm)


Side = tuple[Callable[[int], Floats], Callable[[Floats], Floats]]


def _power(count: int, harmed: Side, healthy: Side, generator: np.random.Generator) -> float:
    def sums(draw: Callable[[int], Floats], log_own: Callable[[Floats], Floats]) -> Floats:
        number = generator.binomial(count, TAIL, RUNS)
        value = draw(int(number.sum()))
        both = np.logaddexp(harmed[1](value), healthy[1](value)) - np.log(2)
        gain = np.maximum(log_own(value) - both, -1e6)
        return np.asarray(np.bincount(np.repeat(np.arange(RUNS), number), weights=gain, minlength=RUNS), np.float64)

    def mixed(number: int) -> Floats:
        return np.where(generator.random(number) < 0.5, harmed[0](number), healthy[0](number))

    null = sums(mixed, harmed[1]) + sums(mixed, healthy[1])
    harm = sums(*harmed) + sums(*healthy)
    return _above(null, harm)


def _above(null: Floats, harm: Floats) -> float:
    """Share of the second above the level of the first, in percent; ties are broken by a coin of the right bias."""
    needed = np.quantile(null, 1 - LEVEL, method="higher")
    over, equal = (null > needed).mean(), (null == needed).mean()
    coin = (LEVEL - over) / equal if equal > 0 else 0.0
    return float(100 * ((harm > needed).mean() + coin * (harm == needed).mean()))
