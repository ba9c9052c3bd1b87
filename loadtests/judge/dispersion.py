"""How many correlated requests count as one.

Requests that meet the same stall, burst or noisy neighbour are slow together. A sum over ``n`` of them varies as much as one over ``n / d``
independent ones; ``d`` is the *design effect*. It is estimated by batch means: the variance of sums over 1, 2, 4, … blocks, divided by what
it would be if requests were independent, at the length where that is largest. An estimate from few sums is noisy and the largest of several
would lie well above 1 for independent requests, too: a ratio counts when it exceeds 1 by `SIGNIFICANT` standard errors, and is then divided
by one plus its standard error. Sums over rare events are far from normal, which makes their variance harder to tell: the excess kurtosis of
a compound Poisson sum is one over the events in it, so the squared standard error is 2 / sums + 1 / events.

Evidence is divided by ``d``: log E becomes log E / d. In the Gaussian limit the log of a likelihood ratio is λS − λ²V/2; correlation makes
the variance of S ``d`` times V, and (λS − λ²V/2) / d has the exponential moment 1 again, for every λ. This is an asymptotic argument, not a
finite-sample bound: it needs correlations that end within the longest sums, and `benchmarks.judge` measures what it is worth.

Letters: ``R`` lanes, ``L`` series.

References
----------
Kish, *Survey Sampling*, 1965 (design effect). Flegal and Jones, "Batch means and spectral variance estimators in Markov chain Monte Carlo",
Annals of Statistics 38, 2010.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCALES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Blocks in a sum. With ten requests of the rarer arm a block, the longest sum covers 2,560 of them."""

MIN_SUMS = 4
"""Sums needed before a length has a say: fewer say nothing about a variance."""

SIGNIFICANT = 1.5
"""Standard errors. Lower costs power where requests are independent (rare failures: one point between 0 and 1.5), higher raises false
alarms at autocorrelation 0.5 (from 0.3 to 0.7 % at 2.5, without any margin)."""


class Dispersion:
    """Design effects of series of block scores, in memory that does not grow.

    Parameters
    ----------
    lanes, series
        ``R`` and ``L``.
    """

    def __init__(self, lanes: int, series: int) -> None:
        shape = (len(SCALES), lanes, series)
        self._partial = np.zeros(shape)
        self._squares = np.zeros(shape)
        self._sums = np.zeros(shape)
        self._complete = np.zeros(len(SCALES), dtype=np.int64)
        self._variance = np.zeros((lanes, series))
        self._events = np.zeros((lanes, series), dtype=np.int64)
        self._blocks = 0

    def add(self, score: Floats, variance: Floats, events: NDArray[np.int64]) -> None:
        """Take in a block.

        Parameters
        ----------
        score
            ``(R, L) float64``: what the block adds to each sum.
        variance
            ``(R, L) float64``: what its variance would be if the block's requests were independent.
        events
            ``(R, L) int64``: events behind the score.
        """
        self._blocks += 1
        self._variance += variance
        self._events += events
        for number, scale in enumerate(SCALES):
            self._partial[number] += score
            if self._blocks % scale == 0:
                self._squares[number] += self._partial[number] ** 2
                self._sums[number] += self._partial[number]
                self._complete[number] += 1
                self._partial[number] = 0.0

    def factor(self) -> Floats:
        """Estimates of the design effects, ``(R, L) float64``, each at least 1."""
        largest = np.ones_like(self._variance)
        expected = np.maximum(self._variance / max(self._blocks, 1), 1e-12)
        for number, scale in enumerate(SCALES):
            count = int(self._complete[number])
            if count < MIN_SUMS:
                break
            seen = (self._squares[number] - self._sums[number] ** 2 / count) / (count - 1)
            ratio, error = seen / (scale * expected), np.sqrt(2 / count + 1 / np.maximum(self._events, 1))
            largest = np.maximum(largest, np.where(ratio > 1 + SIGNIFICANT * error, ratio / (1 + error), 1.0))
        return np.where(self._variance > 0, largest, 1.0)
