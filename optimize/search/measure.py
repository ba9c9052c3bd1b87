"""Latency of variants, measured in interleaved rounds on the runtime that serves.

One round times every variant at every size once, in a fresh random order, so that a slow moment of the machine hits all
of them alike and a variant's median over rounds is comparable with another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optimize.passes.base import Feeds

WARM_UP_RUNS = 5
WARM_UP_S = 0.3
"""Runs before the first timed one: so many, or so long. A run of half a second has been through all of its memory at once."""


class Runs(Protocol):
    """What can be timed: a session of the serving runtime, or one like it."""

    def run(self, feeds: Feeds, /) -> list[npt.NDArray[Any]]:
        """Run once."""


Samples = dict[tuple[str, int], list[float]]
"""(variant, size) → milliseconds, one a round."""


@dataclass(frozen=True)
class Latency:
    """Time of one run of the graph at one size, in milliseconds."""

    size: int
    p50_ms: float
    p95_ms: float
    rounds: int


def measure(
    sessions: Mapping[str, Runs],
    feeds: Mapping[int, Feeds],
    *,
    rounds: int,
    seed: int,
    on_round: Callable[[Samples], None] = lambda _: None,
    samples: Samples | None = None,
    is_warm: bool = False,
) -> Samples:
    """Time all sessions at all sizes.

    Parameters
    ----------
    sessions
        Variant → session.
    feeds
        Size → feeds of one run.
    rounds
        Timings of each pair of variant and size.
    samples
        Rounds that are there already, of these and maybe of other variants; they are counted and kept.
    is_warm
        Whether the sessions have just run at these sizes.

    Returns
    -------
    dict
        `samples` and the new ones.
    """
    pairs = [(name, size) for name in sessions for size in feeds]
    taken: Samples = {key: list(values) for key, values in (samples or {}).items()}
    for pair in pairs:
        taken.setdefault(pair, [])
    done = min((len(taken[pair]) for pair in pairs), default=rounds)
    if done >= rounds:
        return taken
    for name, size in [] if is_warm else pairs:
        _warm_up(sessions[name], feeds[size])
    for number in range(done, rounds):
        for i in np.random.default_rng([seed, number]).permutation(len(pairs)).tolist():
            name, size = pairs[i]
            started = time.perf_counter()
            sessions[name].run(feeds[size])
            taken[pairs[i]].append((time.perf_counter() - started) * 1e3)
        on_round(taken)
    return taken


def _warm_up(session: Runs, feeds: Feeds) -> None:
    started = time.perf_counter()
    for _ in range(WARM_UP_RUNS):
        session.run(feeds)
        if time.perf_counter() - started >= WARM_UP_S:
            return


def summary(size: int, samples_ms: Sequence[float]) -> Latency:
    """Median, 95th percentile and count."""
    p50, p95 = np.percentile(samples_ms, [50, 95])
    return Latency(size, float(p50), float(p95), len(samples_ms))
