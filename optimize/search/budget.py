"""Is a variant inside its accuracy budget? Judged on an interval, not on a point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optimize.training.metrics import log_losses

DRAWS = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class NeChange:
    """Relative change of normalized entropy against the reference, in percent; positive is worse.

    Attributes
    ----------
    low_pct, high_pct
        Two-sided 95 % bootstrap interval of ``change_pct``.
    """

    change_pct: float
    low_pct: float
    high_pct: float

    def is_within(self, budget_pct: float) -> bool:
        """Whether even the upper end of the interval is inside the budget."""
        return self.high_pct <= budget_pct


def ne_change(label: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], variant: npt.NDArray[np.float32], seed: int) -> NeChange:
    """Compare two sets of probabilities ``(B,)`` on the same impressions.

    The bootstrap is paired: an impression is drawn with both of its losses, so what makes impressions differ cancels. Weights
    are Poisson(1), which for many rows is the multinomial bootstrap without its sorting (Chamandy et al., "Estimating
    Uncertainty for Massive Data Streams", 2012).
    """
    before, after = log_losses(label, reference), log_losses(label, variant)
    rng = np.random.default_rng(seed)
    changes = np.empty(DRAWS)
    for draw in range(DRAWS):
        weight = rng.poisson(1.0, len(before))
        changes[draw] = (weight @ after) / (weight @ before) - 1
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(changes, [tail, 1 - tail])
    return NeChange(float(100 * (after.mean() / before.mean() - 1)), float(100 * low), float(100 * high))
