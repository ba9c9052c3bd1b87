"""Timing in interleaved rounds, with stand-ins for sessions."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np

from optimize.search import measure as module
from optimize.search.measure import WARM_UP_RUNS, Latency, measure
from serving.runtime.session import GraphSession

ROUNDS = 8
SIZES = (1, 500)


class _Session:
    """Notes each run; it makes a fake clock go on by its own cost."""

    def __init__(self, name: str, cost_ms: float, log: list[tuple[str, int]], clock: list[float]) -> None:
        self.name, self.cost_ms, self.log, self.clock = name, cost_ms, log, clock

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        size = len(feeds["request_index"])
        self.log.append((self.name, size))
        self.clock[0] += self.cost_ms * size / 1e3
        return []


def _measure(monkeypatch: Any, seed: int = 0) -> tuple[dict[str, list[Latency]], list[tuple[str, int]], list[int]]:
    log: list[tuple[str, int]] = []
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    sessions = {name: cast(GraphSession, _Session(name, cost, log, clock)) for name, cost in (("fp32", 2.0), ("int8", 0.5), ("fp16", 3.0))}
    feeds = {size: {"request_index": np.zeros(size, np.int64)} for size in SIZES}
    seen: list[int] = []
    return measure(sessions, feeds, rounds=ROUNDS, seed=seed, on_round=seen.append), log, seen


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
    latencies, log, _ = _measure(monkeypatch)
    assert Counter(log[: 6 * WARM_UP_RUNS]) == {(name, size): WARM_UP_RUNS for name in latencies for size in SIZES}
    assert all(latency.rounds == ROUNDS for found in latencies.values() for latency in found)


def test_each_variant_gets_its_own_times_by_size(monkeypatch: Any) -> None:
    latencies, _, _ = _measure(monkeypatch)
    for name, cost in (("fp32", 2.0), ("int8", 0.5), ("fp16", 3.0)):
        assert [latency.candidates for latency in latencies[name]] == list(SIZES)
        np.testing.assert_allclose([latency.p50_ms for latency in latencies[name]], [cost, 500 * cost], rtol=1e-6)
        assert all(latency.p95_ms >= latency.p50_ms * (1 - 1e-9) for latency in latencies[name])
