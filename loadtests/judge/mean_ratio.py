"""How large is one mean beside another, of pairs of bounded numbers? Bets that may be looked at after every pair.

For a ratio θ, x − θ y has the mean 0 exactly where E x = θ E y, and lies in [−θ, 1]. Whoever stakes a share of a capital on its being
positive, again and again, gains nothing on average unless E x > θ E y; so the capital ever reaches 1/α with probability at most α where
the ratio is θ or less (Ville). The other way round the same. Capitals of several stakes are averaged, which keeps that true and needs no
guess of how large the difference is. Ratios that neither bet refutes are the interval.

Pairs are taken to be independent of each other; x and y of a pair may be as dependent as they like, and the more they are, the fewer pairs
are needed. Letters: ``N`` pairs, ``T`` ratios, ``S`` stakes.

References
----------
Waudby-Smith and Ramdas, Journal of the Royal Statistical Society B 86, 2024, section 4: means of bounded random variables by betting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.errors import JudgeError

Floats = NDArray[np.float64]

STAKES = 0.97 * 2.0 ** -np.arange(0, 10)
"""Shares of the capital. The best stake is about mean over variance of what is bet on: 0.97 for differences as large as the range, 0.002
for a drift of a thousandth of it. Not 1: one unlucky pair must not end it all."""


class MeanRatio:
    """Evidence about E x / E y, both in [0, 1].

    Parameters
    ----------
    ratios
        ``T`` ratios to be told apart, above 0, rising.
    """

    def __init__(self, ratios: Sequence[float]) -> None:
        self.ratios = np.asarray(ratios, dtype=np.float64)
        if len(self.ratios) == 0 or self.ratios[0] <= 0 or (np.diff(self.ratios) <= 0).any():
            raise JudgeError(f"ratios must be above 0 and rise: {ratios}")
        # Log capital of whoever bets on the truth being above, and below, each ratio; and the most it ever was.
        self._above, self._below = (np.zeros((len(self.ratios), len(STAKES))) for _ in range(2))
        self.log_above, self.log_below = (np.zeros(len(self.ratios)) for _ in range(2))
        self.pairs = 0
        self._sums = np.zeros(2)

    def add(self, x: Floats, y: Floats) -> None:
        """Take in ``N`` pairs, in the order in which they came.

        Raises
        ------
        JudgeError
            A number is outside [0, 1], or there are not as many of each.
        """
        if x.shape != y.shape or x.ndim != 1:
            raise JudgeError(f"pairs need as many numbers on both sides: {x.shape} and {y.shape}")
        if len(x) and not (min(x.min(), y.min()) >= 0 and max(x.max(), y.max()) <= 1):
            raise JudgeError("numbers outside [0, 1] cannot be compared: what is bounded is what the bets rely on")
        self.pairs += len(x)
        self._sums += (float(x.sum()), float(y.sum()))
        for first, second in zip(x.tolist(), y.tolist(), strict=True):
            # Never below −1: at most θ is lost by the one, at most 1 by the other.
            self._above += np.log1p(STAKES * ((first - self.ratios * second) / self.ratios)[:, None])
            self._below += np.log1p(STAKES * (self.ratios * second - first)[:, None])
            np.maximum(self.log_above, _mean(self._above), out=self.log_above)
            np.maximum(self.log_below, _mean(self._below), out=self.log_below)

    @property
    def value(self) -> float | None:
        """Ratio of the means so far; None where it has no value."""
        return float(self._sums[0] / self._sums[1]) if self._sums[1] > 0 else None

    def interval(self, log_needed: float) -> tuple[float | None, float | None]:
        """Ends of the ratios that are not refuted; None where that side is open.

        Parameters
        ----------
        log_needed
            Log of one over the risk of each end.
        """
        low = self.ratios[self.log_above >= log_needed]
        high = self.ratios[self.log_below >= log_needed]
        return (float(low[-1]) if len(low) else None), (float(high[0]) if len(high) else None)

    def above(self, ratio: float) -> float:
        """Log evidence that the true ratio is above one of those given."""
        return float(self.log_above[self._place(ratio)])

    def below(self, ratio: float) -> float:
        """Log evidence that the true ratio is below one of those given."""
        return float(self.log_below[self._place(ratio)])

    def _place(self, ratio: float) -> int:
        place = int(np.argmin(np.abs(self.ratios - ratio)))
        if abs(self.ratios[place] - ratio) > 1e-9 * ratio:
            raise JudgeError(f"nobody bet on the ratio {ratio:g}")
        return place


def _mean(log_capital: Floats) -> Floats:
    """Log of the mean capital over the stakes, ``(T,)``."""
    top = log_capital.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(log_capital - top).mean(axis=1)) + top[:, 0])
