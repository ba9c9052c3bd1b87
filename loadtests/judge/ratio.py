"""How many times slower is the canary at one quantile? A confidence sequence for the ratio of two quantiles.

Let ``s`` be the share of requests above the quantile. If the baseline's quantile is ``x`` and the canary's at most ``m x``, then at least a
share s of the baseline's requests takes x or longer, and at most a share s of the canary's takes longer than ``m x``. The product of the
evidences (`mixture.py`) against these two statements is evidence against both; x is unknown, but it is one number, so the smallest product
over all x is evidence against "the ratio is at most m" without any correction for having looked at all x. The same the other way round for
"at least m". All ratios that are not refuted make the interval; each of its ends holds with its own confidence at all times.

Both arms are taken to be as correlated as the more correlated of them. An arm that has met no stall looks independent, and its quiet would
be evidence that its quantile is low, though the next stall may only not have come yet; that there are stalls, the other arm shows. Each arm
by its own design effect raised twenty times the false alarms it may where both stall now and then.

Letters: ``R`` lanes, ``K`` cells.

References
----------
Howard and Ramdas, Bernoulli 28, 2022, section 5 (two arms); the product over arms replaces their union bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.blocks import Block, Latencies
from loadtests.judge.dispersion import DesignEffect, Dispersion, tempered
from loadtests.judge.mixture import Evidence, log_evidence_above, log_evidence_below
from loadtests.judge.scale import STEP, cells_between, edge_with_share

Floats = NDArray[np.float64]

GROWTH = 1.1
"""The threshold at which correlation is measured moves when there are this many times the samples that it was last set from."""


class RatioTest:
    """Evidence about the ratio of the canary's quantile to the baseline's.

    Parameters
    ----------
    latencies
        Of both arms so far, shared and kept by the owner of this test.
    quantile
        Between 0 and 1.
    planned
        Requests an arm for which the interval is to be tightest.
    """

    def __init__(self, latencies: Latencies, quantile: float, planned: float) -> None:
        self._latencies = latencies
        self._share = 1 - quantile
        self._planned = planned
        self._edges = np.full((latencies.lanes, 2), latencies.scale.cells + 1, dtype=np.int64)
        self._dispersion = Dispersion(latencies.lanes, 2)
        self._next = 0.0

    def add(self, block: Block) -> None:
        """Measure how much requests beyond the quantile come in clusters; what counts them is shared."""
        arms = (block.canary, block.baseline)
        slow = np.concatenate([arm.slower(self._edges[:, [number]]) for number, arm in enumerate(arms)], axis=1)
        sizes = np.stack([arm.answered for arm in arms], axis=1)
        self._dispersion.add(slow - sizes * self._share, slow * (1 - self._share), slow)

    def learn(self) -> None:
        """Move the thresholds to the quantiles of the counts, once these have grown enough."""
        arms = (self._latencies.canary, self._latencies.baseline)
        total = min(float(arm.total.min()) for arm in arms)
        if total >= max(self._next, 1 / self._share):
            tails = [arm.at_or_above() for arm in arms]
            self._next = total * GROWTH
            self._edges = np.stack([edge_with_share(tail, self._share) for tail in tails], axis=1)

    def effect(self) -> DesignEffect:
        """Design effect, the larger of both arms', ``(R,)``."""
        both = self._dispersion.effect()
        return both.at(np.argmax(both.size, axis=1))

    def log_evidence_slower(self, ratio: float) -> Floats:
        """Log evidence against "the ratio is at most `ratio`", ``(R,) float64``."""
        return _smallest(*self._slower(), cells_between(ratio) + 1)

    def shows_slower(self, ratio: float, log_needed: float) -> NDArray[np.bool_]:
        """Whether that evidence reaches what is needed, ``(R,) bool``; cheap as long as it is far from it."""
        shown = self.most_evidence_slower(ratio) >= log_needed
        if shown.any():
            shown[shown] = _smallest(*self._slower(shown), cells_between(ratio) + 1) >= log_needed
        return shown

    def log_evidence_faster(self, ratio: float) -> Floats:
        """Log evidence against "the ratio is at least `ratio`", ``(R,) float64``."""
        return _smallest(*self._faster(), math.floor(math.log(ratio) / STEP + 1e-9))

    def most_evidence_slower(self, ratio: float) -> Floats:
        """At least `log_evidence_slower`, at a fraction of its cost: the evidence at one edge instead of the smallest, ``(R,) float64``."""
        tails = self._latencies.canary.at_or_above(), self._latencies.baseline.at_or_above()
        edge = edge_with_share(tails[1], self._share)
        lane, effect = np.arange(len(edge)), self.effect()
        above = np.minimum(edge + cells_between(ratio) + 1, self._latencies.scale.cells)
        total = np.zeros(len(edge))
        for arm, where, evidence in ((0, above, log_evidence_above), (1, edge, log_evidence_below)):
            d = effect.size
            shown = evidence(tails[arm][lane, where] / d, tails[arm][:, 0] / d, self._share, self._planned / d)
            total += tempered(shown, effect.squared_error)
        return total

    def interval(self, log_needed: float) -> tuple[float, float]:
        """Ends of the ratios that are not refuted, in the first lane; 0 and infinity where nothing is."""
        slower, faster = self._slower(), self._faster()
        most = self._latencies.scale.cells
        low = _last(lambda cells: bool(_smallest(*slower, cells + 1)[0] >= log_needed), -most, most)
        high = _last(lambda cells: bool(_smallest(*faster, -cells)[0] >= log_needed), -most, most)
        return (0.0 if low is None else math.exp(low * STEP)), (math.inf if high is None else math.exp(-high * STEP))

    def _slower(self, lanes: NDArray[np.bool_] | slice = slice(None)) -> tuple[Floats, Floats]:
        """Evidence by edge that the baseline's share above it is below s, that the canary's is above, ``(R, K + 1)`` each."""
        return self._against(log_evidence_below, 1, lanes), self._against(log_evidence_above, 0, lanes)

    def _faster(self) -> tuple[Floats, Floats]:
        # The baseline's quantile lies somewhere in a cell: the count that is less favourable is that at the cell's upper edge.
        above = self._against(log_evidence_above, 1)
        return np.concatenate([above[:, 1:], above[:, -1:]], axis=1), self._against(log_evidence_below, 0)

    def _against(self, evidence: Evidence, arm: int, lanes: NDArray[np.bool_] | slice = slice(None)) -> Floats:
        """Evidence at every edge for one arm; worked out once for each count, of which there are fewer than edges."""
        tail = (self._latencies.canary, self._latencies.baseline)[arm].at_or_above()[lanes]
        effect = self.effect()
        rows = []
        for row, d, error in zip(tail, effect.size[lanes], effect.squared_error[lanes], strict=True):
            counts, where = np.unique(row, return_inverse=True)
            rows.append(tempered(evidence(counts / d, row[0] / d, self._share, self._planned / d), error)[where])
        return np.array(rows)


def _smallest(baseline: Floats, canary: Floats, cells: int) -> Floats:
    """Smallest sum over all edges of the baseline's evidence at an edge and the canary's `cells` higher."""
    columns = np.clip(np.arange(baseline.shape[1]) + cells, 0, baseline.shape[1] - 1)
    return np.asarray((baseline + canary[:, columns]).min(axis=1))


def _last(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Last number in a range for which a statement holds that holds up to some number only; None where it never does."""
    if not holds(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
