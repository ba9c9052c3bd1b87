"""Who is faster, from made-up rounds: on a machine that drifts, with outliers, with few rounds; and races with stand-ins for sessions."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optimize.search import measure as measuring
from optimize.search.measure import Samples
from optimize.search.pairs import TIE_PCT, fastest, is_slower, ratio
from optimize.search.race import DROP_FACTOR, STAGE_ROUNDS, race, survivors

ROUNDS = 60
Costs = dict[str, float]


def _drifting(costs: Costs, seed: int, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Times on a machine that is up to three times slower for whole stretches of rounds, with 3 % of noise and rare interruptions."""
    rng = np.random.default_rng(seed)
    pace = 1 + 2 * np.abs(np.sin(np.linspace(0, rng.uniform(2, 9), rounds) + rng.uniform(0, 3)))

    def of(cost: float) -> list[float]:
        noise = rng.normal(1, 0.03, rounds) + 4 * (rng.random(rounds) < 0.04)
        out: npt.NDArray[np.float64] = cost * pace * noise
        return [float(x) for x in out]

    return {name: of(cost) for name, cost in costs.items()}


def test_a_drifting_machine_does_not_move_the_ratio() -> None:
    costs = {"fp32": 2.0, "a": 1.0, "b": 1.08}
    found = [_drifting(costs, seed) for seed in range(40)]
    assert all(fastest(rounds, "fp32") == "a" for rounds in found)
    assert all(is_slower(ratio(rounds["b"], rounds["a"])) for rounds in found)
    gains = [ratio(rounds["fp32"], rounds["a"]).value for rounds in found]
    # Medians of ratios of two times with 3 % of noise each: sqrt(2) * 3 % * 1.25 / sqrt(60) = 0.7 %, four times that for 40 of them.
    np.testing.assert_allclose(gains, 2.0, rtol=0.03)


def test_who_left_early_is_compared_in_the_rounds_that_it_had() -> None:
    """Medians over other rounds would call `late` the faster one: the machine was three times as slow when `early` ran."""
    slow, quick = [3.0] * 10, [1.0] * 50
    rounds = {"fp32": [*slow, *quick], "early": [0.5 * x for x in slow], "late": [0.8 * x for x in (*slow, *quick)]}
    assert median(rounds["early"]) > median(rounds["late"])
    assert fastest(rounds, "fp32") == "early"
    assert ratio(rounds["fp32"], rounds["early"]).rounds == 10


@pytest.mark.parametrize(("rounds", "looks"), [(5, 1), (20, 1), (60, 1), (60, 17)])
def test_intervals_hold_the_true_ratio_as_often_as_they_say(rounds: int, looks: int) -> None:
    """At each end at most 5 % of looks miss, over all looks together; of 600 draws 5 % are 30, and 45 are three standard errors more."""
    missed = 0
    for seed in range(600 // looks):
        drawn = _drifting({f"{i}": 1.0 for i in range(looks + 1)}, seed, rounds)
        intervals = [ratio(drawn["0"], drawn[f"{i}"], looks=looks) for i in range(1, looks + 1)]
        missed += any(interval.low > 1 for interval in intervals)
    assert missed <= 45 / looks + (3 if looks > 1 else 0)


def test_an_interval_lies_around_its_middle_and_narrows_with_rounds() -> None:
    drawn = _drifting({"a": 1.0, "b": 1.5}, 0)
    widths = []
    for rounds in (1, 2, 5, 20, 60):
        found = ratio(drawn["b"][:rounds], drawn["a"][:rounds])
        assert found.low <= found.value <= found.high
        widths.append(found.high - found.low)
    assert widths[-1] < widths[-2] < widths[2]
    assert ratio([2.0] * 60, [1.0] * 60, looks=20) == ratio([4.0] * 60, [2.0] * 60)


def test_slower_is_more_than_a_tie_and_sure() -> None:
    tie = 1 + TIE_PCT / 100
    assert is_slower(ratio([tie * 1.001] * 5, [1.0] * 5))
    assert not is_slower(ratio([tie * 0.999] * 5, [1.0] * 5)), "sure, but a tie"
    assert not is_slower(ratio([1.5, 1.5, 1.5, 1.5, 0.9], [1.0] * 5)), "one of five rounds against it"


def test_who_is_much_slower_leaves_after_the_first_stage_and_the_reference_never() -> None:
    rounds = {"fp32": [9.0, 9.9], "a": [1.0, 1.1], "b": [1.2, 1.0], "c": [1.0 + DROP_FACTOR, 1.4]}
    assert survivors(rounds, "fp32", is_first=True, looks=3) == ["fp32", "a", "b"]


class _Session:
    """Notes each run; it makes a fake clock go on by its own cost, on a machine whose pace depends on the time."""

    def __init__(self, name: str, cost_ms: float, log: list[tuple[str, int]], clock: list[float]) -> None:
        self.name, self.cost_ms, self.log, self.clock = name, cost_ms, log, clock

    def run(self, feeds: dict[str, Any], /) -> list[Any]:
        size = len(feeds["x"])
        self.log.append((self.name, size))
        self.clock[0] += self.cost_ms * size / 1e3 * (1 + 0.5 * np.sin(self.clock[0]))
        return []


def _race(monkeypatch: pytest.MonkeyPatch, samples: Samples | None = None) -> tuple[Samples, Counter[tuple[str, int]]]:
    log: list[tuple[str, int]] = []
    clock = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    costs = {"fp32": 2.0, "slow": 1.9, "near": 1.15, "best": 1.0, "tied": 1.005}
    sessions = {name: _Session(name, cost, log, clock) for name, cost in costs.items()}
    feeds = {size: {"x": np.zeros(size)} for size in (1, 4, 16)}
    taken = race(sessions, feeds, 4, "fp32", rounds=35, seed=0, samples=samples)
    return taken, Counter(log)


def test_a_race_spends_its_rounds_on_who_may_win(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, _ = _race(monkeypatch)
    counts = {name: len(values) for (name, size), values in taken.items() if size == 4}
    assert counts["fp32"] == counts["best"] == counts["tied"] == 35
    assert counts["slow"] == STAGE_ROUNDS
    assert STAGE_ROUNDS <= counts["near"] < 35, "surely slower, though in reach at first"
    assert {len(values) for (_, size), values in taken.items() if size == 16} == {STAGE_ROUNDS}, "larger runs decide nothing"
    assert all(len(taken[name, 1]) == count for name, count in counts.items())


def test_a_race_that_was_cut_off_goes_on_and_one_that_ended_times_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = _race(monkeypatch)
    cut = {pair: values[:13] for pair, values in whole.items()}
    again, _ = _race(monkeypatch, cut)
    assert all(again[pair][:13] == values for pair, values in cut.items())
    assert {pair: len(values) for pair, values in again.items()} == {pair: len(values) for pair, values in whole.items()}
    same, runs = _race(monkeypatch, whole)
    assert (same, sum(runs.values())) == (whole, 0)
