"""Whether the canary is slower than it may be, at any latency.

The null is "the canary, sped up by the tolerated ratio, is nowhere slower than the baseline": for no latency does a larger share of its
requests take longer. Bets (`bets.py`) are laid at thresholds that are fixed before the requests they are settled on: some follow quantiles
of what has been seen of both arms, which finds a shift of the whole; the others stand in a ladder above the first median seen, which finds
a tail, however far out, from its first request on.

Letters: ``R`` lanes, ``L`` thresholds, ``K`` cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.bets import Bets
from loadtests.judge.blocks import BLOCK, Block, Latencies
from loadtests.judge.dispersion import EARLY, DesignEffect
from loadtests.judge.scale import STEP, Cells, cells_between, shifted

SHARES = (0.5, 0.1, 0.02)
"""Shares of requests above the thresholds that follow quantiles."""

LADDER = tuple(1.25**rung for rung in range(1, 13)) + tuple(1.25**12 * 1.6**rung for rung in range(1, 6))
"""Thresholds above the median: fine steps to 15 times it, coarse ones to 150 times."""

RATIOS = ((1.4, 1.0), (3.0, 1.0), (30.0, 1.0))
"""Ratios of shares that stakes are laid for, and how much of the wealth on each."""

PILOT = 50
"""Requests an arm before the ladder is set: a median of 100 requests lies within 2 % of the truth's ranks either way."""

REQUESTS_PER_NAT = float(EARLY * BLOCK)
"""Requests of the smaller arm, divided by their design effect at the median, that each unit of log evidence takes: as many as the longest
sum in which correlation is looked for early. In few requests it goes unseen, and evidence that is not divided by it says too much. The
chance of that falls exponentially with the requests watched; so it stays near α or below at every α if the evidence that may be claimed
grows in proportion to them. With bursts of 20 requests, one in 120, 8,000 healthy canaries raised 0.3, 0.4, 0 and 0 times the alarms
allowed at risks of 1, 1/4, 1/40 and 1/120 %, with half as many requests 1.6, 3, 8 and 10 times."""

MOST_EXPECTED = 0.5
GROWTH = 1.1
"""Thresholds move when there are this many times the samples that they were last set from."""


class SlowdownTest:
    """Bets that a larger share of the canary's requests is slow.

    Parameters
    ----------
    latencies
        Of both arms so far, shared and kept by the owner of this test.
    tolerated_ratio
        Times that the canary may be slower, at every latency.
    """

    def __init__(self, latencies: Latencies, tolerated_ratio: float) -> None:
        self._latencies = latencies
        self.margin = cells_between(tolerated_ratio)
        lanes, followed, fixed = latencies.lanes, len(SHARES), len(LADDER)
        self._edges = np.full((lanes, followed + fixed), latencies.scale.cells + 1, dtype=np.int64)
        self._expected = np.zeros(self._edges.shape)
        self._laddered = np.zeros(lanes, dtype=bool)
        self._next = 0.0
        self._bets = Bets(lanes, RATIOS, [1 / followed] * followed + [1 / fixed] * fixed)

    def add(self, block: Block) -> None:
        """Settle the bets on a block, then move the thresholds."""
        canary, baseline = block.canary, block.baseline
        slow_canary = canary.slower(self._edges + self.margin)
        self._bets.add(slow_canary, canary.answered, baseline.slower(self._edges), baseline.answered, self._expected)

    def learn(self) -> None:
        """Set the thresholds from the counts, once these have grown enough."""
        if (self._latencies.canary.total + self._latencies.baseline.total).min() < self._next:
            return
        canary, baseline = self._latencies.canary.at_or_above(), self._latencies.baseline.at_or_above()
        pooled = shifted(canary, self.margin) + baseline
        # Everything counts as above the lowest edge, whatever was shifted past it.
        pooled[:, 0] = canary[:, 0] + baseline[:, 0]
        total = pooled[:, 0]
        self._next = max(float(total.min()) * GROWTH, 1.0)
        for number, share in enumerate(SHARES):
            edge = np.argmax(pooled <= share * total[:, None], axis=1)
            self._edges[:, number] = np.where(total * share >= 1, edge, self._edges[:, number])
        fresh = ~self._laddered & (np.minimum(canary[:, 0], baseline[:, 0]) >= PILOT)
        if fresh.any():
            rungs = np.array([round(np.log(rung) / STEP) for rung in LADDER])
            median = np.argmax(pooled <= total[:, None] / 2, axis=1)
            self._edges[fresh, len(SHARES) :] = median[fresh, None] + rungs
            self._laddered |= fresh
        lane = np.arange(len(pooled))[:, None]
        above = pooled[lane, np.minimum(self._edges, pooled.shape[1] - 1)]
        self._expected = np.minimum(above / np.maximum(total, 1)[:, None], MOST_EXPECTED)

    def log_evidence(self) -> NDArray[np.float64]:
        """Log of the evidence that the canary is slower, ``(R,) float64``; no more than the requests seen can vouch for."""
        smaller = np.minimum(self._latencies.canary.total, self._latencies.baseline.total)
        independent = smaller / self._bets.dispersion.effect().at(0).size
        return np.minimum(self._bets.log_wealth(), independent / REQUESTS_PER_NAT)

    def strongest(self) -> Cells:
        """Edge with the most evidence, on the canary's own latencies, ``(R,) int64``."""
        best = np.argmax(self._bets.by_threshold(), axis=1)
        return np.asarray(self._edges[np.arange(len(best)), best] + self.margin)

    def effect(self) -> DesignEffect:
        """Design effect at that edge, ``(R,)``."""
        return self._bets.dispersion.effect().at(np.argmax(self._bets.by_threshold(), axis=1))
