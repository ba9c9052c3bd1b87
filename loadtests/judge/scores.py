"""Do both models answer alike? Distance between the distributions of their scores.

More than tolerated is shown by bets at the deciles of what was seen, in both directions. Less than too much is shown by bands around both
empirical distributions that hold at all scores and all times.

Letters: ``R`` lanes, ``L`` thresholds.

References
----------
Howard and Ramdas, Bernoulli 28, 2022, corollary 2: with probability 1 − α, for all n ≥ m, the empirical distribution is nowhere further
from the true one than 0.85 √((log log(e n / m) + 0.8 log(1612 / α)) / n).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.bets import Bets
from loadtests.judge.blocks import Block
from loadtests.judge.scale import Cells, Counts, Scale, edge_with_share

Floats = NDArray[np.float64]

SHARES = tuple(tenth / 10 for tenth in range(9, 0, -1))
RATIOS = ((1.2, 1.0), (1.6, 1.0), (3.0, 1.0))
CELLS = 2000
"""Cells of the range: a difference within one is not seen."""

MOST_EXPECTED = 0.5
GROWTH = 1.1
BAND_FROM = 100
"""m in the band: requests, independent ones, before it says anything."""


def band(samples: Floats, risk: float) -> Floats:
    """Half-width of the band around an empirical distribution of so many independent samples; 1 where there are too few."""
    n = np.maximum(samples, BAND_FROM)
    width = 0.85 * np.sqrt((np.log(np.log(np.e * n / BAND_FROM)) + 0.8 * np.log(1612 / risk)) / n)
    return np.asarray(np.where(samples < BAND_FROM, 1.0, np.minimum(width, 1.0)))


class ScoresTest:
    """Evidence about the distance between two distributions of scores.

    Parameters
    ----------
    lanes
        ``R``.
    low, high
        Range of the scores.
    tolerated
        Distance that is no harm.
    """

    def __init__(self, lanes: int, low: float, high: float, tolerated: float) -> None:
        self.scale = Scale(low=low, high=high, step=(high - low) / CELLS, logarithmic=False)
        self._arms = (Counts(lanes, self.scale), Counts(lanes, self.scale))
        self._edges = np.full((lanes, len(SHARES)), self.scale.cells + 1, dtype=np.int64)
        self._above = np.zeros(self._edges.shape)
        self._next = 0.0
        self._bets = tuple(Bets(lanes, RATIOS, [1.0] * len(SHARES), tolerated) for _ in range(4))

    def add(self, block: Block) -> None:
        """Settle the bets on a block, count it, move the thresholds."""
        cells = [self.scale.place(arm.score) for arm in (block.canary, block.baseline)]
        learned = self._next > 0
        sizes = [(each >= 0).sum(axis=1) * learned for each in cells]
        above = [(each[:, :, None] >= self._edges[:, None, :]).sum(axis=1) for each in cells]
        below = [size[:, None] - each for size, each in zip(sizes, above, strict=True)]
        rare_above, rare_below = np.minimum(self._above, MOST_EXPECTED), np.minimum(1 - self._above, MOST_EXPECTED)
        for bets, events, expected in ((0, above, rare_above), (2, below, rare_below)):
            self._bets[bets].add(events[0], sizes[0], events[1], sizes[1], expected)
            self._bets[bets + 1].add(events[1], sizes[1], events[0], sizes[0], expected)
        for counts, each in zip(self._arms, cells, strict=True):
            counts.add(each)
        self._learn()

    def _learn(self) -> None:
        if (self._arms[0].total + self._arms[1].total).min() < max(self._next, 2 * len(SHARES)):
            return
        pooled = self._arms[0].at_or_above() + self._arms[1].at_or_above()
        self._next = float(pooled[:, 0].min()) * GROWTH
        self._edges = np.stack([edge_with_share(pooled, share) for share in SHARES], axis=1)
        self._above = pooled[np.arange(len(pooled))[:, None], self._edges] / pooled[:, :1]

    def samples(self) -> Cells:
        """Scores of canary and baseline, ``(R, 2) int64``."""
        return np.stack([arm.total for arm in self._arms], axis=1)

    def log_evidence(self) -> Floats:
        """Log evidence that the distance is above the tolerated one, ``(R,) float64``: the mean over both directions and both tails."""
        wealth = np.stack([bets.log_wealth() for bets in self._bets], axis=0)
        return np.asarray(np.logaddexp.reduce(wealth, axis=0) - np.log(len(self._bets)))

    def effect(self) -> Floats:
        """Design effect, the mean over the deciles, ``(R,) float64``."""
        return np.asarray(self._bets[0].dispersion.effect().size.mean(axis=1))

    def interval(self, risk: float) -> tuple[Floats, Floats, Floats]:
        """Distance of the empirical distributions and the ends of its interval, ``(R,)`` each, at a risk for both ends together."""
        samples = self.samples()
        canary, baseline = (arm.at_or_above() / np.maximum(arm.at_or_above()[:, :1], 1) for arm in self._arms)
        distance = np.abs(canary - baseline).max(axis=1)
        slack = band(samples / self.effect()[:, None], risk / 2).sum(axis=1)
        return distance, np.maximum(distance - slack, 0.0), np.minimum(distance + slack, 1.0)
