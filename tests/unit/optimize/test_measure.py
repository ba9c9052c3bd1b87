"""Timing in interleaved rounds, with stand-ins for sessions."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np

from optimize.search import measure as module
from optimize.search.measure import WARM_UP_RUNS, WARM_UP_S, Samples, measure, summary
from serving.runtime.session import GraphSession

ROUNDS = 8
SIZES = (1, 500)
COSTS = {"fp32": 2.0, "int8": 0.5, "fp16": 3.0}


class _Session:
    """Notes each run; it makes a fake clock go on by its own cost."""

    def __init__(self, name: str, cost_ms: float, log: list[tuple[str, int]], clock: list[float]) -> None:
        self.name, self.cost_ms, self.log, self.clock = name, cost_ms, log, clock

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        size = len(feeds["request_index"])
        self.log.append((self.name, size))
        self.clock[0] += self.cost_ms * size / 1e6
        return []


def _measure(monkeypatch: Any, seed: int = 0, samples: Samples | None = None) -> tuple[Samples, list[tuple[str, int]], list[int]]:
    log: list[tuple[str, int]] = []
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    sessions = {name: cast(GraphSession, _Session(name, cost, log, clock)) for name, cost in COSTS.items()}
    feeds = {size: {"request_index": np.zeros(size, np.int64)} for size in SIZES}
    seen: list[int] = []
    taken = measure(
        sessions, feeds, rounds=ROUNDS, seed=seed, samples=samples, on_round=lambda all_: seen.append(max(map(len, all_.values())))
    )
    return taken, log, seen


def test_each_pair_is_timed_once_a_round(monkeypatch: Any) -> None:
    _, log, seen = _measure(monkeypatch)
    timed = log[3 * len(SIZES) * WARM_UP_RUNS :]
    for start in range(0, len(timed), 6):
        assert set(Counter(timed[start : start + 6]).values()) == {1}, "a round holds every variant at every size"
    assert len(timed) == 6 * ROUNDS
    assert seen == list(range(1, ROUNDS + 1))


def test_the_order_within_a_round_changes(monkeypatch: Any) -> None:
    _, log, _ = _measure(monkeypatch)
    timed = log[3 * len(SIZES) * WARM_UP_RUNS :]
    assert len({tuple(timed[start : start + 6]) for start in range(0, len(timed), 6)}) > ROUNDS / 2


def test_warm_up_is_not_timed(monkeypatch: Any) -> None:
    samples, log, _ = _measure(monkeypatch)
    assert Counter(log[: 6 * WARM_UP_RUNS]) == dict.fromkeys(samples, WARM_UP_RUNS)
    assert all(len(values) == ROUNDS for values in samples.values())


def test_warm_up_of_slow_runs_ends_early(monkeypatch: Any) -> None:
    log: list[tuple[str, int]] = []
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    slow = _Session("slow", 1e6 * WARM_UP_S, log, clock)
    feeds = {1: {"request_index": np.zeros(1, np.int64)}}
    measure({"slow": slow}, feeds, rounds=2, seed=0)
    assert len(log) == 1 + 2
    log.clear()
    measure({"slow": slow}, feeds, rounds=2, seed=0, is_warm=True)
    assert len(log) == 2


def test_each_variant_gets_its_own_times_by_size(monkeypatch: Any) -> None:
    samples, _, _ = _measure(monkeypatch)
    assert list(samples) == [(name, size) for name in COSTS for size in SIZES]
    for (name, size), values in samples.items():
        found = summary(size, values)
        np.testing.assert_allclose([found.p50_ms, found.p95_ms], COSTS[name] * size / 1e3, rtol=1e-6)
        assert (found.size, found.rounds) == (size, ROUNDS)


def test_rounds_that_are_there_are_not_measured_again(monkeypatch: Any) -> None:
    known: Samples = {(name, size): [7.0] * 5 for name in COSTS for size in SIZES}
    samples, log, seen = _measure(monkeypatch, samples=known)
    assert seen == [6, 7, 8]
    assert len(log) == 6 * (WARM_UP_RUNS + 3)
    assert all(values[:5] == [7.0] * 5 and len(values) == ROUNDS for values in samples.values())
    assert all(len(values) == 5 for values in known.values()), "the caller's are his"
    again, log, _ = _measure(monkeypatch, samples=samples)
    assert (again, log) == (samples, [])
