"""One arm against a limit: the share of its events, above or below what is allowed.

An event is a request that failed, or one that took longer than the limit of a quantile: p99 is above 50 ms exactly if more than 1 % of the
requests take longer than 50 ms. What counts is the event at the limit itself, so nothing is lost by counting in cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.difference import GRID
from loadtests.judge.dispersion import DesignEffect, Dispersion, tempered
from loadtests.judge.mixture import log_evidence_above, log_evidence_below
from loadtests.judge.scale import Cells


class LimitTest:
    """Evidence about one share.

    Parameters
    ----------
    lanes
        ``R``.
    share
        Of events that is allowed.
    planned
        Requests for which the boundary is to be tightest.
    """

    def __init__(self, lanes: int, share: float, planned: float) -> None:
        self._share, self._planned = share, planned
        self.events = np.zeros(lanes, dtype=np.int64)
        self.requests = np.zeros(lanes, dtype=np.int64)
        self._dispersion = Dispersion(lanes, 1)

    def add(self, events: Cells, requests: Cells) -> None:
        """Count a block, ``(R,) int64`` each."""
        self.events += events
        self.requests += requests
        variance = (events * (1 - self._share)).astype(np.float64)
        self._dispersion.add((events - requests * self._share)[:, None], variance[:, None], events[:, None])

    def effect(self) -> DesignEffect:
        """Design effect, ``(R,)``."""
        return self._dispersion.effect().at(0)

    def log_evidence(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log evidence that the share is above, and that it is below what is allowed, ``(R,) float64`` each."""
        effect = self.effect()
        d, error = effect.size, effect.squared_error
        counted = (self.events / d, self.requests / d, self._share, self._planned / d)
        return tempered(log_evidence_above(*counted), error), tempered(log_evidence_below(*counted), error)

    def interval(self, log_needed: float) -> tuple[float | None, float, float]:
        """Share seen and the ends of the shares that are not refuted, in the first lane."""
        if not self.requests[0]:
            return None, 0.0, 1.0
        effect = self.effect()
        d, error = effect.size[0], effect.squared_error[0]
        counted = (self.events[0] / d, self.requests[0] / d, GRID, self._planned / d)
        low = GRID[tempered(log_evidence_above(*counted), error) >= log_needed]
        high = GRID[tempered(log_evidence_below(*counted), error) >= log_needed]
        return float(self.events[0] / self.requests[0]), float(low[-1]) if len(low) else 0.0, float(high[0]) if len(high) else 1.0
