"""In which range to quantize a value: all that was seen, or what loses least when rare extremes are clipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx

from optimize.passes.activations import observe
from optimize.passes.base import Feeds

Method = Literal["minmax", "entropy", "percentile"]

BINS = 4096
"""Of a histogram: sixteen to a step of 8 bits."""

LEVELS = 256
"""Of 8 bits. Migacz quantizes magnitudes, of which int8 has 128."""

CANDIDATES = 64
"""Thresholds that entropy tries; ONNX Runtime tries one a bin, which takes seconds a value and changes a threshold by 1.5 % at most."""

KEPT_PCT = 99.99
"""Share of a value's elements that a percentile range keeps: on a trained ranker it cost no more than all of them, docs/passes.md."""


@dataclass(frozen=True)
class Range:
    """What of a value is kept; it contains 0, and all beyond it is clipped."""

    low: float
    high: float


def ranges(model: onnx.ModelProto, names: Sequence[str], runs: Sequence[Feeds], method: Method) -> dict[str, Range]:
    """Ranges of the values called `names` on calibration data; methods but ``minmax`` run the model twice over it.

    Raises
    ------
    CalibrationError
        The model does not run on it, or a value is not finite.
    """
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for values in observe(model, names, runs):
        for name, value in values.items():
            if value.size:
                low[name], high[name] = min(low[name], float(value.min())), max(high[name], float(value.max()))
    full = {name: Range(low[name], high[name]) for name in names}
    if method == "minmax":
        return full
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for values in observe(model, names, runs):
        for name, value in values.items():
            counts[name] += np.histogram(value, BINS, (low[name], high[name]))[0]
    choose = by_entropy if method == "entropy" else by_percentile
    return {name: choose(counts[name], full[name]) for name in names}


def by_percentile(counts: npt.NDArray[np.int64], full: Range) -> Range:
    """Leave out as many elements at either end."""
    edges = np.linspace(full.low, full.high, len(counts) + 1)
    share = np.cumsum(counts) / max(counts.sum(), 1)
    outside = (1 - KEPT_PCT / 100) / 2
    low = edges[int(np.searchsorted(share, outside, side="right"))]
    high = edges[min(int(np.searchsorted(share, 1 - outside)) + 1, len(counts))]
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def by_entropy(counts: npt.NDArray[np.int64], full: Range) -> Range:
    """Clip magnitudes at the threshold whose quantized distribution tells most about the original one.

    References
    ----------
    Migacz, "8-bit Inference with TensorRT", GTC 2017: least Kullback-Leibler divergence of the clipped distribution, with the clipped
    elements in its last bins, from its quantization to as many levels as 8 bits have.
    """
    edges = np.linspace(full.low, full.high, len(counts) + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    largest = max(-full.low, full.high)
    best, chosen = np.inf, largest
    for threshold in largest * np.arange(CANDIDATES, 0, -1) / CANDIDATES:
        inside = np.abs(middles) <= threshold
        if inside.sum() < LEVELS:
            break
        divergence = _divergence(counts, inside)
        if divergence < best:
            best, chosen = divergence, float(threshold)
    return Range(max(full.low, -chosen), min(full.high, chosen))


def _divergence(counts: npt.NDArray[np.int64], inside: npt.NDArray[np.bool_]) -> float:
    """Of the clipped distribution from its quantization, in nats."""
    first, last = np.flatnonzero(inside)[[0, -1]]
    kept = counts[first : last + 1].astype(np.float64)
    level = np.arange(len(kept)) * LEVELS // len(kept)
    occupied = kept > 0
    mean = np.bincount(level, kept, LEVELS) / np.maximum(np.bincount(level, occupied, LEVELS), 1)
    quantized = mean[level] * occupied
    kept[0] += counts[:first].sum()
    kept[-1] += counts[last + 1 :].sum()
    total, held = kept.sum(), quantized.sum()
    if not held:
        return float("inf")
    p, q = kept / total, quantized / held
    # An empty last bin that clipped elements fall into would be infinitely far; it counts as one element in all of them.
    q = np.maximum(q, np.where(p > 0, 1 / total, 0))
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / q[filled])).sum())
