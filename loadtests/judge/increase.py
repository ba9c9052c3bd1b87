"""Does something, a failure or a refusal, happen to a larger share of the canary's requests? Letters: ``R`` lanes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.bets import Bets
from loadtests.judge.blocks import Block
from loadtests.judge.dispersion import DesignEffect
from loadtests.judge.objectives import Happened

RATIOS = ((2.0, 0.1), (5.0, 0.1), (200.0, 0.8))
"""Most of the wealth is on "the baseline hardly ever fails", which is how services are: nine failures against none then suffice."""

MOST_EXPECTED = 0.5


class IncreaseTest:
    """Bets that it happens to a larger share of the canary's requests.

    Parameters
    ----------
    lanes
        ``R``.
    tolerated
        Increase of the share that is no harm.
    happened
        What: the column of the blocks whose true values are counted.
    """

    def __init__(self, lanes: int, tolerated: float, happened: Happened = "failed") -> None:
        self._column = happened
        self._bets = Bets(lanes, RATIOS, [1.0], tolerated)
        self.happened = np.zeros((lanes, 2), dtype=np.int64)
        """``(R, 2) int64``: requests of canary and baseline to which it happened."""
        self.requests = np.zeros((lanes, 2), dtype=np.int64)

    def add(self, block: Block) -> None:
        """Settle the bets on a block, then count it."""
        canary, baseline = block.canary, block.baseline
        happened = np.stack([getattr(arm, self._column).sum(axis=1) for arm in (canary, baseline)], axis=1)
        sizes = np.stack([canary.sizes, baseline.sizes], axis=1)
        expected = self.happened.sum(axis=1) / np.maximum(self.requests.sum(axis=1), 1)
        self._bets.add(happened[:, :1], sizes[:, 0], happened[:, 1:], sizes[:, 1], np.minimum(expected, MOST_EXPECTED)[:, None])
        self.happened += happened
        self.requests += sizes

    def log_evidence(self) -> NDArray[np.float64]:
        """Log of the evidence that it happens more at the canary, ``(R,) float64``."""
        return self._bets.log_wealth()

    def effect(self) -> DesignEffect:
        """Design effect of what happened, ``(R,)``."""
        return self._bets.dispersion.effect().at(0)
