"""A bet on which of two arms has the larger share of events, open for looking at any time.

An event is a failed request, or one slower than a threshold. In a block with ``n_C`` requests of the canary and ``n_B`` of the baseline,
``r = n_C / (n_C + n_B)``, whoever bets at stake ``a`` that the canary has more events multiplies its wealth by ::

    Π over canary (1 + a (y − c − τ))  ·  Π over baseline (1 − a r / (1 − r) (y − c))

with ``y`` 1 for an event and 0 else, ``c`` any number fixed before the block (the share of events so far) and ``τ`` the tolerated increase.
If in this block the canary's share is at most the baseline's plus τ, and its requests are independent given what came before, the expected
factor is at most 1: by the weighted inequality of the arithmetic and the geometric mean it is at most
(1 + r a (p_C − τ − c) − r a (p_B − c)) to the power of the block's size. Wealth is then a test supermartingale, and by Ville's inequality
it ever reaches 1/α with probability at most α, however often one looks and whatever the shares do from block to block, as long as both
arms meet the same conditions within one. For τ = 0 this is the e-variable of Turner, Ly and Grünwald with the pooled share as the null.

An arm that has stalls, bursts or outages of its own does not meet the same conditions: its share in a block is known only after its first
requests, and the product over a cluster counts one piece of news many times. Log wealth is then tempered (`dispersion.py`), and it is that
which makes the bound approximate.

Nobody knows the right stake, so wealth is spread over stakes, given as ratios ρ of shares they would be best for, and over thresholds; the
mixture of test supermartingales is one.

Letters: ``R`` lanes, ``L`` thresholds, ``G`` stakes.

References
----------
Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping", Journal of
Statistical Planning and Inference 230, 2024. Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86,
2024. Ville, *Étude critique de la notion de collectif*, 1939.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from loadtests.judge.dispersion import Dispersion

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MOST_STAKED = 0.98
"""Share of its wealth that a bet may lose in one request: a bankrupt bet can never recover."""


class Bets:
    """Wealth of bets that the canary has the larger share of events.

    Parameters
    ----------
    lanes
        ``R``.
    ratios
        ``G`` ratios of shares, each above 1, and the share of the first wealth that is put on each.
    weights
        ``L`` shares of the first wealth put on the thresholds.
    tolerated
        τ, an increase of the share that is no harm.
    """

    def __init__(self, lanes: int, ratios: Sequence[tuple[float, float]], weights: Sequence[float], tolerated: float = 0.0) -> None:
        self._ratio = np.array([ratio for ratio, _ in ratios])
        start = np.outer(np.array(weights) / np.sum(weights), [share for _, share in ratios]) / sum(share for _, share in ratios)
        self._start = np.log(start)
        self._log_wealth = np.zeros((lanes, len(weights), len(ratios)))
        self._tolerated = tolerated
        self._known: tuple[Floats, Floats, tuple[Floats, ...]] | None = None
        self.dispersion = Dispersion(lanes, len(weights))

    def add(self, canary: Counts, canary_size: Counts, baseline: Counts, baseline_size: Counts, expected: Floats) -> None:
        """Settle the bets on a block.

        Parameters
        ----------
        canary, baseline
            ``(R, L) int64``, events in each arm at each threshold.
        canary_size, baseline_size
            ``(R,) int64``, requests; a block where an arm has none settles nothing.
        expected
            ``(R, L) float64``, c, at most ½: shares of events in the blocks before.
        """
        both = (canary_size > 0) & (baseline_size > 0)
        n_c = np.where(both, canary_size, 1)[:, None]
        n_b = np.where(both, baseline_size, 1)[:, None]
        gains = self._gains(n_c / n_b, expected)
        counts = (canary, n_c - canary, baseline, n_b - baseline)
        gain = sum(count[:, :, None] * each for count, each in zip(counts, gains, strict=True))
        self._log_wealth += np.where(both[:, None, None], gain, 0.0)
        r = n_c / (n_c + n_b)
        score = (1 - r) * (canary - n_c * expected) - r * (baseline - n_b * expected)
        variance = ((1 - r) ** 2 * canary + r**2 * baseline) * (1 - expected)
        settled = [np.where(both[:, None], each, 0) for each in (score, variance, canary + baseline)]
        self.dispersion.add(*settled)

    def _gains(self, odds: Floats, expected: Floats) -> tuple[Floats, ...]:
        """Log factors ``(R, L, G)`` of an event and a non-event of the canary, and of the baseline.

        The stakes are those that grow wealth fastest if the shares have the given ratios around the expected share. Arms mostly have equal
        parts and expectations rest for a while, so what was worked out for the block before is mostly right.
        """
        if self._known is not None and self._known[1] is expected and np.array_equal(self._known[0], odds):
            return self._known[2]
        c, tau, odd = expected[:, :, None], self._tolerated, odds[:, :, None]
        edge = (self._ratio - 1) / (1 + self._ratio * odd)
        stake = np.minimum(edge / (1 - c), MOST_STAKED / (c + tau + 1e-12))
        gains = (
            np.log1p(stake * (1 - c - tau)),
            np.log1p(-stake * (c + tau)),
            np.log1p(-stake * odd * (1 - c)),
            np.log1p(stake * odd * c),
        )
        self._known = (odds, expected, gains)
        return gains

    def by_threshold(self) -> Floats:
        """Log of the wealth at each threshold, correlations allowed for, ``(R, L) float64``; their logsumexp is `log_wealth`."""
        return np.asarray(logsumexp(self.dispersion.effect().temper(self._log_wealth) + self._start, axis=2))

    def log_wealth(self) -> Floats:
        """Log of the whole wealth, correlations allowed for, ``(R,) float64``; the first wealth is 1."""
        return np.asarray(logsumexp(self.by_threshold(), axis=1))
