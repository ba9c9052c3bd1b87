"""How long a run takes, by its size: measured at warm-up, and followed while serving."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MEMORY = 64
"""Runs over which the scale forgets: some tenths of a second at hundreds of runs a second, the time in which a noisy neighbour comes."""

MAX_STEP = 4.0
"""One run counts as at most so many times its prediction, so that a single stall of the machine does not close the door."""


class CostModel:
    """``seconds = scale * (fixed + per_unit * units)``.

    The shape, ``fixed`` and ``per_unit``, comes from runs of several sizes at warm-up: traffic of one size alone could not tell
    the two apart. The scale follows the runs that are served, and with them the load of the machine.

    Parameters
    ----------
    samples
        Pairs of units and seconds of measured runs.
    """

    def __init__(self, samples: Iterable[tuple[int, float]]) -> None:
        units, seconds = np.array(list(samples), np.float64).T
        if len(set(units)) > 1:
            slope, intercept = np.polyfit(units, seconds, 1)
        else:
            slope, intercept = 0.0, float(seconds.mean())
        self.per_unit = max(float(slope), 0.0)
        self.fixed = max(float(intercept), float(seconds.min()) * 0.1)  # a line through small sizes may cross below zero
        self.scale = 1.0

    def predict(self, units: float) -> float:
        """Seconds that a run of so many units will take."""
        return self.scale * (self.fixed + self.per_unit * units)

    def observe(self, units: int, seconds: float) -> None:
        """Learn from one run that was served."""
        ratio = seconds / (self.fixed + self.per_unit * units)
        ratio = min(max(ratio, self.scale / MAX_STEP), self.scale * MAX_STEP)
        self.scale += (ratio - self.scale) / MEMORY
