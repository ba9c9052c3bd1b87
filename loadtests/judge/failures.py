"""Does a larger share of the canary's requests fail, or is refused? Letters: ``R`` lanes."""

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


class FailuresTest:
    """Bets that a larger share of the canary's requests fails.

    Parameters
    ----------
    lanes
        ``R``.
    tolerated
        Increase of the share that is no harm.
    column
        Of the blocks, whose true values are counted.
    """

    def __init__(self, lanes: int, tolerated: float, column: Happened = "failed") -> None:
        self._column = column
        self._bets = Bets(lanes, RATIOS, [1.0], tolerated)
        self.failed = np.zeros((lanes, 2), dtype=np.int64)
        """``(R, 2) int64``: failed, or refused, requests of canary and baseline."""
        self.requests = np.zeros((lanes, 2), dtype=np.int64)

    def add(self, block: Block) -> None:
        """Settle the bets on a block, then count it."""
        canary, baseline = block.canary, block.baseline
        failed = np.stack([getattr(arm, self._column).sum(axis=1) for arm in (canary, baseline)], axis=1)
        sizes = np.stack([canary.sizes, baseline.sizes], axis=1)
        expected = self.failed.sum(axis=1) / np.maximum(self.requests.sum(axis=1), 1)
        self._bets.add(failed[:, :1], sizes[:, 0], failed[:, 1:], sizes[:, 1], np.minimum(expected, MOST_EXPECTED)[:, None])
        self.failed += failed
        self.requests += sizes

    def log_evidence(self) -> NDArray[np.float64]:
        """Log of the evidence that the canary fails more, ``(R,) float64``."""
        return self._bets.log_wealth()

    def effect(self) -> DesignEffect:
        """Design effect of failures, ``(R,)``."""
        return self._bets.dispersion.effect().at(0)
