"""Latency of variants, measured in interleaved rounds on the runtime that serves.

One round times every variant at every size once, in a fresh random order, so that a slow moment of the machine hits all
of them alike and a variant's median over rounds is comparable with another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serving.features.columns import Feeds
from serving.runtime.session import GraphSession

WARM_UP_RUNS = 5


@dataclass(frozen=True)
class Latency:
    """Time of one run of the graph at one number of candidates, in milliseconds."""

    candidates: int
    p50_ms: float
    p95_ms: float
    rounds: int


def measure(
    sessions: Mapping[str, GraphSession], feeds: Mapping[int, Feeds], *, rounds: int, seed: int, on_round: Callable[[int], None]
) -> dict[str, list[Latency]]:
    """Time all sessions at all sizes.

    Parameters
    ----------
    sessions
        Variant → session.
    feeds
        Number of candidates → feeds of one request.
    rounds
        Timings of each pair of variant and size.
    """
    rng = np.random.default_rng(seed)
    pairs = [(name, size) for name in sessions for size in feeds]
    samples: dict[tuple[str, int], list[float]] = {pair: [] for pair in pairs}
    for name, size in pairs:
        for _ in range(WARM_UP_RUNS):
            sessions[name].run(feeds[size])
    for done in range(rounds):
        for i in rng.permutation(len(pairs)).tolist():
            name, size = pairs[i]
            started = time.perf_counter()
            sessions[name].run(feeds[size])
            samples[pairs[i]].append((time.perf_counter() - started) * 1e3)
        on_round(done + 1)
    return {name: [_summary(size, samples[name, size]) for size in feeds] for name in sessions}


def _summary(size: int, samples_ms: Sequence[float]) -> Latency:
    p50, p95 = np.percentile(samples_ms, [50, 95])
    return Latency(size, float(p50), float(p95), len(samples_ms))
