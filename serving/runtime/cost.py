"""How long a run takes, by its size: measured at warm-up, and followed while serving."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

MEMORY = 64
"""Runs over which the scale forgets: some tenths of a second at hundreds of runs a second, the time in which a noisy neighbour comes."""

MAX_STEP = 4.0
"""One run counts as at most so many times its prediction, so that a single stall of the machine does not close the door."""


class CostModel:
    """``seconds = scale * (curve(units) + (requests - 1) * per_joined)``.

    The curve goes straight from each measured size to the next. One line through all of them would be wrong where it matters: past what
    a core's cache holds a unit costs more, and stacking begins to lose. The shape comes from warm-up: traffic of one size alone
    could not tell it. The scale follows the runs that are served, and with them the load of the machine.

    Parameters
    ----------
    samples
        Pairs of units and seconds of measured runs of one request.
    per_joined
        Seconds that a run of the same units takes longer for each further request in it: joining the arrays, parting the result.
    """

    def __init__(self, samples: Iterable[tuple[int, float]], per_joined: float = 0.0) -> None:
        self._units: list[float] = []
        self._seconds: list[float] = []
        for units, seconds in sorted(samples):
            self._units.append(float(units))
            self._seconds.append(
                max(seconds, self._seconds[-1] if self._seconds else 0.0)
            )  # more never takes less: noise of the measurement
        self.per_joined = max(per_joined, 0.0)
        self.scale = 1.0

    def predict(self, units: float, requests: int = 1) -> float:
        """Seconds that a run of so many units of so many requests will take."""
        return self.scale * self._shape(units, requests)

    def observe(self, units: float, seconds: float, requests: int = 1) -> float:
        """Learn from one run that was served; how long it was predicted to take."""
        shape, scale = self._shape(units, requests), self.scale
        ratio = min(max(seconds / shape, scale / MAX_STEP), scale * MAX_STEP)
        self.scale += (ratio - scale) / MEMORY
        return scale * shape

    def _shape(self, units: float, requests: int) -> float:
        sizes, seconds = self._units, self._seconds
        after = bisect_left(sizes, units)
        if after == 0:
            alone = seconds[0]
        elif len(sizes) == 1:
            alone = seconds[0] * units / sizes[0]
        else:
            after = min(after, len(sizes) - 1)  # beyond the largest, the last slope goes on
            slope = (seconds[after] - seconds[after - 1]) / (sizes[after] - sizes[after - 1])
            alone = seconds[after] + slope * (units - sizes[after])
        return alone + (requests - 1) * self.per_joined
