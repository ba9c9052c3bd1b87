"""What the tests are fed with: the requests of a short stretch of time, of one arm or of both.

Letters: ``R`` lanes, ``N`` requests of an arm in the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.scale import LATENCY, Cells, Counts, Scale

BLOCK = 10
"""Requests of the rarer arm in a block: few, so that both arms meet the same conditions; more than one, so that a long run costs little."""

BLOCKS = 1000
"""A block is at least this part of the requests before it, so that a million requests take some thousands of blocks."""


@dataclass(frozen=True)
class ArmBlock:
    """Requests of one arm.

    Attributes
    ----------
    latency_ms
        ``(R, N) float64``; NaN for a failed request, whose latency says nothing about how fast answers are.
    cells
        ``(R, N) int64``, latencies on the scale of the counts.
    failed
        ``(R, N) bool``.
    score
        ``(R, N) float64``, what the model answered; NaN where there is none.
    refused
        ``(R, N) bool``; none where the samples do not say it.
    """

    latency_ms: NDArray[np.float64]
    cells: Cells
    failed: NDArray[np.bool_]
    score: NDArray[np.float64]
    refused: NDArray[np.bool_]

    @property
    def sizes(self) -> Cells:
        """Requests, ``(R,) int64``."""
        return np.full(len(self.failed), self.failed.shape[1], dtype=np.int64)

    @property
    def answered(self) -> Cells:
        """Requests with a latency, ``(R,) int64``."""
        return np.asarray((self.cells >= 0).sum(axis=1), dtype=np.int64)

    def slower(self, edges: Cells) -> Cells:
        """Requests at or above each edge ``(R, L)``, as ``(R, L) int64``."""
        return np.asarray((self.cells[:, :, None] >= edges[:, None, :]).sum(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class Block:
    """Requests of both arms in the same stretch of time; `baseline` has none of them where one arm is judged alone."""

    canary: ArmBlock
    baseline: ArmBlock


def arm_block(
    latency_ms: NDArray[np.float64],
    failed: NDArray[np.bool_],
    score: NDArray[np.float64] | None = None,
    scale: Scale = LATENCY,
    refused: NDArray[np.bool_] | None = None,
) -> ArmBlock:
    """Make a block of an arm from ``(R, N)`` arrays."""
    latency = np.where(failed, np.nan, latency_ms)
    scores = np.full_like(latency, np.nan) if score is None else score
    return ArmBlock(latency, scale.place(latency), failed, scores, np.zeros_like(failed) if refused is None else refused)


class Latencies:
    """Latencies of both arms so far; the tests of one stream share it."""

    def __init__(self, lanes: int, scale: Scale = LATENCY) -> None:
        self.lanes = lanes
        self.scale = scale
        self.canary = Counts(lanes, scale)
        self.baseline = Counts(lanes, scale)

    def add(self, block: Block) -> None:
        """Count a block, after all tests have seen it."""
        self.canary.add(block.canary.cells)
        self.baseline.add(block.baseline.cells)
