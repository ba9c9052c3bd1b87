"""How many correlated requests count as one, and how sure that is.

Requests that meet the same stall, burst or noisy neighbour are slow together. A sum over ``n`` of them varies as much as one over ``n / d``
independent ones; ``d`` is the *design effect*. It is estimated from sums over 1, 2, 4, … blocks: half the mean square of the difference
between two neighbouring sums (Allan's variance), divided by what it would be if requests were independent. Differences of neighbours do not
take a canary that breaks half-way for correlated traffic, as the spread of sums around their mean does. From two blocks on, pairs begin
every half length, for sums over half the length are there anyway.

The estimate has a relative standard error ``ε``. ``m`` differences add (3.5 − 3 / m) / m to its square, at one block (3 − 1 / m) / m: two
over m times the sum of their squared correlations, which are ¼, −½ and −¼ at one, two and three halves of a length. Events that are rare
add more, for sums over them are far from normal: the excess kurtosis of a compound Poisson sum is one over the clusters in it, and ``d``
events make a cluster: d / events, over the whole run. Three steps follow.

* *Are requests correlated at all?* Independent ones are the null; a length speaks against it when its ratio is above what one in twenty
  would reach by chance, the 95th percentile of χ² over its 2 / ε² degrees of freedom. If no length does, requests count as they are.
  Without this step a dozen independent failures would be worth little, for d could be 2 for all that they say of themselves.
* *At which length?* Where the estimate less one standard error is largest: the largest estimate itself would mostly be that of the longest
  sums, of which there are only a few.
* *What is the evidence worth?* Twice the log of a likelihood ratio is a squared normal deviate. Correlation makes its variance ``d`` times
  as large, so log E / d is right again, where d is known. Where it is estimated, the deviate is Student's with ν = 2 / ε² degrees of
  freedom, and log E / d becomes ν/2 log(1 + 2 log E / (d ν)), the log likelihood ratio that is left when the variance may be anything.
  At a look it exceeds log 1/α with probability at most α: 1 / (1 + t²/ν) has the distribution Beta(ν/2, ½), which lies above Beta(ν/2, 1).
  With many sums it is log E / d; with four it grows so slowly that they hardly ever show anything.

This is an asymptotic argument, not a finite-sample bound: it takes sums to be nearly normal and correlations to end within the longest of
them, and it is made for one look; `benchmarks.judge` measures what it is worth under many. Nothing here knows of clusters yet to come.

Letters: ``R`` lanes, ``L`` series.

References
----------
Kish, *Survey Sampling*, 1965 (design effect). Allan, "Statistics of atomic frequency standards", Proceedings of the IEEE 54, 1966; von
Neumann, "Distribution of the ratio of the mean square successive difference to the variance", Annals of Mathematical Statistics 12, 1941.
Flegal and Jones, "Batch means and spectral variance estimators in Markov chain Monte Carlo", Annals of Statistics 38, 2010. Wilson and
Hilferty, "The distribution of chi-square", PNAS 17, 1931. Satterthwaite, "An approximate distribution of estimates of variance components",
Biometrics Bulletin 2, 1946. Hedges, "Correcting a significance test for clustering", Journal of Educational and Behavioral Statistics 32,
2007 (degrees of freedom). Wang and Ramdas, "Anytime-valid t-tests and
confidence sequences for Gaussian means with unknown variance", arXiv:2310.03722, 2023 (variance profiled out; why the price of few sums is
polynomial in α and cannot be avoided).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCALES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Blocks in a sum, each twice as many as before. With ten requests of the rarer arm a block, the longest sum covers 2,560 of them."""

EARLY = 8
"""Blocks in the longest sum that has a say early: 80 requests of the rarer arm, four times a burst of 20."""

MIN_EARLY_SUMS, MIN_SUMS = 4, 8
"""Sums that do not overlap which are needed before a length has a say, up to `EARLY` blocks and beyond: below four nothing is known of a
variance, and four it takes to see bursts in the first few hundred requests. Of long sums more: with four, the one difference that a canary
makes which breaks half-way counts for much, and one that took three times as long after 1,000 requests was found in 83 % of cases; with
eight, in all."""

NORMAL_95 = 1.645
"""95th percentile of the standard normal distribution."""


@dataclass(frozen=True)
class DesignEffect:
    """An estimate of how many requests count as one.

    Attributes
    ----------
    size
        ``(R, L) float64``, at least 1.
    squared_error
        ``(R, L) float64``, ε²; 0 where requests are taken to be independent.
    """

    size: Floats
    squared_error: Floats

    def at(self, series: int | NDArray[np.int64]) -> DesignEffect:
        """Those of one series, or of one of each lane's, ``(R,)`` each."""
        lane = np.arange(len(self.size))
        return DesignEffect(self.size[lane, series], self.squared_error[lane, series])

    def temper(self, log_evidence: Floats) -> Floats:
        """Log evidence of requests taken to be independent ``(R, L, …)``, correlation and not knowing it allowed for; same shape."""
        more = (..., *[None] * (log_evidence.ndim - self.size.ndim))
        return tempered(log_evidence / self.size[more], self.squared_error[more])


def tempered(log_evidence: Floats, squared_error: Floats | float) -> Floats:
    """Log evidence that was divided by a design effect, not knowing it allowed for: log(1 + ε² x) / ε², broadcast; never more than x."""
    known = np.asarray(squared_error) <= 0
    error = np.where(known, 1.0, squared_error)
    return np.asarray(np.where(known, log_evidence, np.minimum(log_evidence, np.log1p(np.maximum(log_evidence, 0.0) * error) / error)))


class Dispersion:
    """Design effects of series of block scores, in memory that does not grow.

    Parameters
    ----------
    lanes, series
        ``R`` and ``L``.
    """

    def __init__(self, lanes: int, series: int) -> None:
        shape = (len(SCALES), lanes, series)
        self._latest = np.zeros((3, *shape))
        self._squares = np.zeros(shape)
        self._counts = np.zeros(len(SCALES), dtype=np.int64)
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
        step = score
        for number, scale in enumerate(SCALES):
            # Steps are sums over half the length, of which the last four make two neighbours; of one block, they are the neighbours.
            latest = self._latest[:, number]
            whole, before = (latest[0] + step, latest[1] + latest[2]) if number else (step, latest[0])
            if self._blocks >= 2 * scale:
                self._squares[number] += (whole - before) ** 2 / 2
                self._counts[number] += 1
            latest[1:], latest[0] = latest[:-1].copy(), step
            if self._blocks % scale:
                break
            step = whole

    def effect(self) -> DesignEffect:
        """Estimate the design effects."""
        size, squared_error = np.ones_like(self._variance), np.zeros_like(self._variance)
        least = np.zeros_like(self._variance)
        expected = np.maximum(self._variance / max(self._blocks, 1), 1e-12)
        events = np.maximum(self._events, 1)
        for number, scale in enumerate(SCALES):
            count = int(self._counts[number])
            if self._blocks < scale * (MIN_EARLY_SUMS if scale <= EARLY else MIN_SUMS):
                break
            ratio = self._squares[number] / (count * scale * expected)
            of_sums = (3.5 - 3 / count if number else 3 - 1 / count) / count
            squared = of_sums + np.maximum(ratio, 1.0) / events
            lower = ratio / (1 + np.sqrt(squared))
            chosen = (ratio > _chi_square_95(of_sums + 1 / events)) & (lower > least)
            for of, value in ((size, ratio), (squared_error, squared), (least, lower)):
                of[chosen] = value[chosen]
        return DesignEffect(size, squared_error)


def _chi_square_95(squared_error: Floats) -> Floats:
    """95th percentile of χ² over its 2 / ε² degrees of freedom, by Wilson and Hilferty."""
    return np.asarray((1 - squared_error / 9 + NORMAL_95 * np.sqrt(squared_error) / 3) ** 3)
