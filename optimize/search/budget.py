"""Is a variant inside its accuracy budget? Judged on an interval that holds for all candidates at once, not on a point.

The fastest of many candidates that look good is more often than not one that looks better than it is: the more are looked at on the
same data, the surer one of them is lucky. So each is judged at the confidence that all together keep (Bonferroni): with the chance of
`CONFIDENCE`, not one candidate whose true change is over the budget passes, and it does not matter how the one that ships is picked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optimize.search.metrics import METRICS, Metric, MetricName
from serving.contract.errors import PilotageError

CONFIDENCE = 0.95
MIN_DRAWS = 1000
DRAWS_BEYOND = 10
"""Draws that are to lie beyond an end of the interval, so that the end is no single draw's."""

BLOCKS = 2048
"""Examples are drawn in at most so many random blocks. A standard error from m blocks is itself off by ``1 / sqrt(2 m)``: 1.6 %."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """Most that a metric may get worse by.

    Attributes
    ----------
    limit
        In the unit of `Metric`.
    """

    metric: MetricName = "ne"
    limit: float = METRICS["ne"].budget

    @property
    def of(self) -> Metric:
        """The metric itself."""
        return METRICS[self.metric]


@dataclass(frozen=True)
class Change:
    """Change of a metric against the reference, in the metric's unit; positive is worse.

    Attributes
    ----------
    low, high
        Ends of the bootstrap interval.
    """

    value: float
    low: float
    high: float

    def is_within(self, limit: float) -> bool:
        """Whether even the upper end of the interval is inside the budget; an interval that is no number is not."""
        return self.high <= limit


class Bootstrap:
    """Compares losses on the same examples.

    Paired: an example is drawn with both of its losses, so what makes examples differ cancels. Weights are Poisson(1), which for many
    rows is the multinomial bootstrap without its sorting (Chamandy et al., "Estimating Uncertainty for Massive Data Streams", 2012).

    Parameters
    ----------
    rows
        Examples.
    looks
        Candidates that are judged on them; each is judged at ``1 - (1 - CONFIDENCE) / looks``.
    """

    def __init__(self, rows: int, *, looks: int = 1, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.looks = looks
        self._tail = (1 - CONFIDENCE) / 2 / max(1, looks)
        draws = max(MIN_DRAWS, int(np.ceil(DRAWS_BEYOND / self._tail)))
        self._blocks = min(rows, BLOCKS)
        self._block = rng.permutation(rows) % self._blocks
        self._weights = rng.poisson(1.0, (draws, self._blocks)).astype(np.uint8)

    def change(self, metric: Metric, before: Floats, after: Floats) -> Change:
        """Compare the losses ``(B,)`` of the reference and of a variant.

        Raises
        ------
        PilotageError
            The reference's loss is 0, of which nothing can be a share.
        """
        if not (np.isfinite(before).all() and np.isfinite(after).all()):
            return Change(float("nan"), float("nan"), float("nan"))
        base = before if metric.relative else np.ones_like(before)
        if not base.sum() > 0:
            raise PilotageError(
                f"the reference has a {metric.name} of 0 on {len(before)} examples; a change of it has no meaning, use more data"
            )
        worse, whole = (np.bincount(self._block, weights=x, minlength=self._blocks) for x in (after - before, base))
        sides = np.stack([worse, whole], axis=1)
        drawn = np.concatenate([chunk.astype(np.float64) @ sides for chunk in np.array_split(self._weights, len(self._weights) // 500)])
        kept = drawn[drawn[:, 1] > 0]
        low, high = metric.factor * np.quantile(kept[:, 0] / kept[:, 1], [self._tail, 1 - self._tail])
        value = metric.factor * float(worse.sum() / whole.sum())
        if metric.name == "accuracy":
            high = max(high, value + metric.factor * self._unseen(after - before))
        return Change(value, float(low), float(high))

    def _unseen(self, worse: Floats) -> float:
        """Upper end of the share of examples that get worse, where none did: nothing seen in n examples is not nothing.

        Exact for a binomial count of 0: ``1 - tail ** (1 / n)`` (Hanley and Lippman-Hand, "If Nothing Goes Wrong, Is Everything All
        Right?", JAMA 1983). A bootstrap cannot draw what is not there.
        """
        if (worse > 0).any():
            return 0.0
        return float(1 - self._tail ** (1 / len(worse)))
