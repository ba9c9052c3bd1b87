"""Simulated and recorded traffic of `benchmarks.judge`: latencies of two arms that are the same, and what can be wrong with one.

Everything is drawn for many canaries at once. Letters: ``R`` canaries, ``N`` requests of an arm. The unit of a latency does not matter; the
median is about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[Floats, Floats]]
Harm = Callable[[np.random.Generator, Floats, "Traffic"], Floats]

TRACE = Path(__file__).parent / "traces" / "served.npz"
SIGMA = 0.5
"""Of the logarithm, as in the figures that are reproduced."""

PARETO_TAIL = 2.5
"""Tail index: the variance is finite, the third moment is not."""


@dataclass(frozen=True)
class Traffic:
    """Latencies of a baseline and of a canary that is the same service.

    Attributes
    ----------
    draw
        Both arms, ``(R, N) float64`` each.
    """

    name: str
    draw: Draw

    def quantile(self, share: float) -> float:
        """Quantile of a latency, from 400,000 draws with a seed of their own."""
        baseline, _ = self.draw(np.random.default_rng(99), (200, 2000))
        return float(np.quantile(baseline, share))


def correlated(generator: np.random.Generator, shape: tuple[int, int], correlation: float) -> Floats:
    """Standard normal values, autocorrelated along each row (AR(1))."""
    noise = generator.standard_normal(shape)
    noise[:, 1:] *= np.sqrt(1 - correlation**2)
    return np.asarray(lfilter([1.0], [1.0, -correlation], noise, axis=1))


def _both(one: Callable[[np.random.Generator, tuple[int, int]], Floats]) -> Draw:
    """Draw each arm for itself: what one meets says nothing about the other. Harder than when both meet the same."""
    return lambda generator, shape: (one(generator, shape), one(generator, shape))


def _lognormal(correlation: float) -> Draw:
    return _both(lambda generator, shape: np.exp(SIGMA * correlated(generator, shape, correlation)))


def _pareto(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return (2 * (1 - generator.random(shape))) ** (-1 / PARETO_TAIL)


def _bimodal(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Four of five requests find a cache warm, the fifth takes five times as long."""
    return np.where(generator.random(shape) < 0.8, 1.0, 5.0) * np.exp(0.2 * generator.standard_normal(shape))


def _bursts(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Busy spells of 20 requests on average, in which all take twice as long; a sixth of the time."""
    state = generator.random(shape[0]) < 1 / 6
    busy = np.empty(shape, dtype=bool)
    for step in range(shape[1]):
        state = np.where(state, generator.random(shape[0]) >= 1 / 20, generator.random(shape[0]) < 1 / 100)
        busy[:, step] = state
    return np.where(busy, 2.0, 1.0) * np.exp(SIGMA * correlated(generator, shape, 0.0))


def stalled(generator: np.random.Generator, latency: Floats, every: int, length: int = 20) -> Floats:
    """Stalls at random, one in `every` requests on average, each as long as `length` requests take to come; the first waits longest."""
    began = generator.random(latency.shape) < 1 / every
    waits = np.zeros_like(latency)
    for after in range(length):
        late = np.zeros_like(began)
        late[:, after:] = began[:, : began.shape[1] - after]
        waits = np.maximum(waits, late * 50.0 * (length - after) / length)
    return latency + waits


def outages(generator: np.random.Generator, shape: tuple[int, int], share: float, length: int) -> Bools:
    """Return which requests fail, ``(R, N) bool``: `length` in a row, a `share` of all (a little less where outages overlap)."""
    began = generator.random(shape) < share / length
    failed = began.copy()
    for after in range(1, length):
        failed[:, after:] |= began[:, : shape[1] - after]
    return failed


def _stalls(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return stalled(generator, np.exp(SIGMA * generator.standard_normal(shape)), every=1000)


def _shared_stalls(generator: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Stalls of a machine that serves both arms."""
    both = stalled(generator, np.zeros((shape[0], shape[1])), every=1000)
    canary, baseline = (np.exp(SIGMA * generator.standard_normal(shape)) + both for _ in range(2))
    return canary, baseline


def recorded_trace() -> Floats:
    """The recorded latencies, divided by their median."""
    with np.load(TRACE, allow_pickle=False) as file:
        latency = file["latency_ms"].astype(np.float64)
    return np.asarray(latency / np.median(latency))


def _recorded_in_turn(generator: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """A stretch of the record, dealt to both arms in turn at random: what a router in front of one machine does."""
    trace = recorded_trace()
    first = generator.integers(0, len(trace), shape[0])
    pairs = trace[(first[:, None] + np.arange(2 * shape[1])) % len(trace)].reshape(shape[0], shape[1], 2)
    swapped = generator.random(shape) < 0.5
    return np.where(swapped, pairs[:, :, 1], pairs[:, :, 0]), np.where(swapped, pairs[:, :, 0], pairs[:, :, 1])


NULLS = (
    Traffic("lognormal", _lognormal(0.0)),
    Traffic("pareto", _both(_pareto)),
    Traffic("bimodal", _both(_bimodal)),
    Traffic("autocorrelated 0.5", _lognormal(0.5)),
    Traffic("bursts", _both(_bursts)),
    Traffic("stalls of each arm", _both(_stalls)),
    Traffic("stalls of both arms", _shared_stalls),
    Traffic("recorded", _recorded_in_turn),
)
"""Healthy canaries, each as its own and its baseline's service would be."""

BEYOND = (Traffic("autocorrelated 0.9", _lognormal(0.9)), Traffic("autocorrelated 0.98", _lognormal(0.98)))
"""Healthy, with correlations that a short run cannot see the length of: reported, not promised."""


def slower(times: float) -> Harm:
    """Return a harm: every request takes so many times as long, and so does each quantile."""
    return lambda _, latency, traffic: times * latency


def stretched(times: float) -> Harm:
    """Return a harm: requests beyond the 98th percentile take so many times as long."""

    def apply(_: np.random.Generator, latency: Floats, traffic: Traffic) -> Floats:
        return np.where(latency > traffic.quantile(0.98), times * latency, latency)

    return apply


def stretched_excess(times: float) -> Harm:
    """Return a harm: the time beyond the 98th percentile is stretched, so that the tail has no gap."""

    def apply(_: np.random.Generator, latency: Floats, traffic: Traffic) -> Floats:
        edge = traffic.quantile(0.98)
        return np.where(latency > edge, edge + times * (latency - edge), latency)

    return apply


def later(first: int, harm: Harm) -> Harm:
    """Return a harm that begins with a request, counted from 0."""

    def apply(generator: np.random.Generator, latency: Floats, traffic: Traffic) -> Floats:
        return np.concatenate([latency[:, :first], harm(generator, latency[:, first:], traffic)], axis=1)

    return apply


def stalling(every: int) -> Harm:
    """Return a harm: stalls, one in so many requests."""
    return lambda generator, latency, traffic: stalled(generator, latency, every)
