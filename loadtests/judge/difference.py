"""How far apart are two shares? A confidence sequence for the difference.

If the baseline's share is ``p`` and the canary's at least ``p + δ``, the product of the evidences of both arms (`mixture.py`) against just
that is evidence against it; the smallest product over all p is evidence against "the difference is at least δ", as in `ratio.py`. One arm's
evidence falls with p and the other's rises, so there is one valley: it is looked for on a coarse grid, then on a fine one around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from loadtests.judge.dispersion import tempered
from loadtests.judge.mixture import Evidence, log_evidence_above, log_evidence_below

GRID = expit(np.linspace(-16, 16, 601))
"""Shares from 1e-7 to 1 − 1e-7, 5 % apart in the odds."""

COARSE = 8
"""Steps of `GRID` in one of the coarse grid."""

FINE = 48
"""Points around the valley: 1 % apart in the odds."""

HALVINGS = 20
"""Ends of an interval are found to one part in a million."""


@dataclass(frozen=True)
class SharePair:
    """Events and requests of two arms.

    Attributes
    ----------
    planned
        Requests an arm for which the interval is to be tightest.
    correlated, squared_error
        Requests that count as one, and the squared relative standard error of that (`dispersion.DesignEffect`).
    """

    canary_events: float
    canary_requests: float
    baseline_events: float
    baseline_requests: float
    planned: float
    correlated: float = 1.0
    squared_error: float = 0.0

    @property
    def value(self) -> float | None:
        """Difference seen, canary minus baseline; None where an arm has no requests."""
        if not (self.canary_requests and self.baseline_requests):
            return None
        return self.canary_events / self.canary_requests - self.baseline_events / self.baseline_requests

    def log_evidence_less(self, difference: float) -> float:
        """Log evidence against "the difference is at least `difference`"."""
        coarse = GRID[::COARSE][GRID[::COARSE] + difference < 1]
        evidence = self._against(coarse, difference)
        valley = int(np.argmin(evidence))
        around = coarse[max(0, valley - 1)], coarse[min(len(coarse) - 1, valley + 1)]
        fine = expit(np.linspace(logit(around[0]), logit(around[1]), FINE))
        return float(min(evidence[valley], self._against(fine, difference).min()))

    def _against(self, share: NDArray[np.float64], difference: float) -> NDArray[np.float64]:
        """Evidence against each share of the baseline's with one of the canary's that is higher by at least the difference."""
        evidence = self._of_arm(log_evidence_above, self.baseline_events, self.baseline_requests, share)
        least = share + difference
        # Every share of the canary's is at least one that is not above zero: nothing speaks against it.
        bound = least > 0
        evidence[bound] += self._of_arm(log_evidence_below, self.canary_events, self.canary_requests, least[bound])
        return evidence

    def _of_arm(self, evidence: Evidence, events: float, requests: float, share: NDArray[np.float64]) -> NDArray[np.float64]:
        d = self.correlated
        return tempered(evidence(events / d, requests / d, share, self.planned / d), self.squared_error)

    def swapped(self) -> SharePair:
        """The same with the arms exchanged."""
        exchanged = self.baseline_events, self.baseline_requests, self.canary_events, self.canary_requests
        return SharePair(*exchanged, self.planned, self.correlated, self.squared_error)

    def interval(self, log_needed: float) -> tuple[float, float]:
        """Ends of the differences that are not refuted."""
        return -self.swapped()._upper(log_needed), self._upper(log_needed)

    def _upper(self, log_needed: float) -> float:
        low, high = -1.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if abs(middle) < 1 and self.log_evidence_less(middle) >= log_needed:
                high = middle
            else:
                low = middle
        return high
