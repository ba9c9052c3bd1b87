"""Scales of cells and counts on them: bounded memory however many samples come.

A value is known only by its cell. Counts of samples at or above the edge of a cell are exact; what happens between two edges is not known,
and every statement made from the counts takes the less favourable edge.

Letters: ``R`` lanes (judgements made side by side, 1 in production), ``N`` samples a lane, ``K`` cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int64]

STEP = 0.005
"""Width of a cell in ln(latency): ratios are known to half a per cent, a tenth of the smallest margin that makes sense for latencies."""

NO_CELL = -1
"""Cell of a value that is missing."""


@dataclass(frozen=True)
class Scale:
    """Cells of equal width, for latencies in their logarithm.

    Attributes
    ----------
    low, high
        Ends; what lies beyond is counted in the outermost cells.
    step
        Width of a cell.
    logarithmic
        Whether `step` is one of the logarithm.
    """

    low: float
    high: float
    step: float
    logarithmic: bool

    @property
    def cells(self) -> int:
        """``K``."""
        return self._number(self.high) - self._number(self.low) + 1

    def place(self, values: NDArray[np.float64]) -> Cells:
        """Cells of values, any shape; `NO_CELL` for NaN."""
        with np.errstate(divide="ignore", invalid="ignore"):
            number = np.floor((np.log(values) if self.logarithmic else values) / self.step) - self._number(self.low)
        return np.where(np.isnan(values), NO_CELL, np.clip(np.nan_to_num(number, nan=0.0), 0, self.cells - 1)).astype(np.int64)

    def edge(self, cell: int) -> float:
        """Lower edge of a cell."""
        position = (self._number(self.low) + cell) * self.step
        return math.exp(position) if self.logarithmic else position

    def _number(self, value: float) -> int:
        return math.floor((math.log(value) if self.logarithmic else value) / self.step)


LATENCY = Scale(low=1e-3, high=3.6e6, step=STEP, logarithmic=True)
"""Milliseconds, from a microsecond to an hour."""


def cells_between(ratio: float) -> int:
    """Cells that a factor spans, rounded up: a margin is never made smaller than it was asked for."""
    return math.ceil(math.log(ratio) / STEP - 1e-9)


class Counts:
    """How many samples lie in each cell of a scale."""

    def __init__(self, lanes: int, scale: Scale) -> None:
        self.scale = scale
        self.total = np.zeros(lanes, dtype=np.int64)
        """Samples, ``(R,) int64``."""
        self._counts = np.zeros((lanes, scale.cells), dtype=np.int64)
        self._tail: Cells | None = None

    def add(self, cells: Cells) -> None:
        """Count samples, ``(R, N) int64`` as `Scale.place` returned them."""
        lane, column = np.nonzero(cells >= 0)
        np.add.at(self._counts, (lane, cells[lane, column]), 1)
        self.total += np.bincount(lane, minlength=len(self.total))
        self._tail = None

    def at_or_above(self) -> Cells:
        """Samples at or above the lower edge of each cell, ``(R, K + 1) int64``; the first column counts all, the last is zero."""
        if self._tail is None:
            self._tail = np.zeros((len(self._counts), self.scale.cells + 1), dtype=np.int64)
            np.cumsum(self._counts[:, ::-1], axis=1, out=self._tail[:, -2::-1])
        return self._tail


def shifted(tail: Cells, cells: int) -> Cells:
    """Counts of samples at or above edges that lie `cells` higher (or lower, where negative), same shape."""
    columns = np.clip(np.arange(tail.shape[1]) + cells, 0, tail.shape[1] - 1)
    return tail[:, columns]


def edge_with_share(tail: Cells, share: float) -> Cells:
    """Lowest edge with at most `share` of the samples at or above it, ``(R,) int64`` from ``(R, K + 1)`` counts."""
    return np.asarray(np.argmax(tail <= share * tail[:, :1], axis=1), dtype=np.int64)
