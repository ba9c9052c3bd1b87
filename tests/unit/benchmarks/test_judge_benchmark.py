from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.judge import passes_without_data, tried
from benchmarks.judge_bounds import error_bound, stretched_bound
from benchmarks.judge_cases import TRIALS
from benchmarks.judge_rules import Arms, judge, mann_whitney, threshold
from benchmarks.judge_traffic import NULLS, correlated, later, outages, slower, stalled, stretched
from loadtests.judge import Arm, Batch, Judge

LOGNORMAL = NULLS[0]


def _arms(canaries: int, count: int, times: float = 1.0, errors: float = 0.0) -> Arms:
    generator = np.random.default_rng(1)
    canary, baseline = LOGNORMAL.draw(generator, (canaries, count))
    return Arms(times * canary, baseline, generator.random(canary.shape) < errors, np.zeros(canary.shape, dtype=bool))


@pytest.mark.parametrize(("times", "errors"), [(1.0, 0.0), (1.3, 0.0), (1.0, 0.02)])
def test_canaries_judged_side_by_side_fail_when_the_judge_itself_fails_them(times: float, errors: float) -> None:
    arms = _arms(2, 1500, times, errors)
    failed = judge(arms).failed
    for row, at in enumerate(failed.tolist()):
        alone, seen = Judge(), 0
        for upto, status in ((at - 50, "inconclusive"), (at, "fail")) if at else ((1500, "not failed"),):
            columns = slice(seen, upto)
            started_s = np.arange(seen, upto, dtype=float)
            alone.add(
                Batch(
                    Arm(started_s, arms.canary_ms[row, columns], ~arms.canary_failed[row, columns]),
                    Arm(started_s + 0.5, arms.baseline_ms[row, columns], ~arms.baseline_failed[row, columns]),
                )
            )
            found = alone.verdict().status
            assert (found == status) or (status == "not failed" and found != "fail")
            seen = upto


def test_rivals_find_a_slow_canary_and_count_requests() -> None:
    arms = _arms(20, 1000, times=2.0)
    for alarms in (threshold(arms, LOGNORMAL.quantile(0.99)), mann_whitney(arms)):
        assert (alarms > 0).all()
        assert (alarms <= 1000).all()


def test_harms_do_what_they_say() -> None:
    generator = np.random.default_rng(2)
    latency, _ = LOGNORMAL.draw(generator, (50, 2000))
    assert np.quantile(slower(1.2)(generator, latency, LOGNORMAL), 0.99) == pytest.approx(1.2 * np.quantile(latency, 0.99))
    tail = stretched(1.5)(generator, latency, LOGNORMAL)
    assert (tail != latency).mean() == pytest.approx(0.02, abs=0.002)
    assert np.median(tail) == np.median(latency)
    stall = stalled(generator, latency, every=500) - latency
    assert (stall > 0).mean() == pytest.approx(20 / 500, rel=0.2)
    noise = correlated(generator, (50, 4000), 0.5)
    assert np.mean(noise[:, 1:] * noise[:, :-1]) == pytest.approx(0.5, abs=0.03)
    assert noise.std() == pytest.approx(1.0, abs=0.02)


def test_bounds_grow_with_the_harm() -> None:
    assert error_bound(3000, 0.001, 0.001) == pytest.approx(1.0, abs=0.3)
    assert 40 < error_bound(3000, 0.005, 0.01) < error_bound(3000, 0.001, 0.006) < 95
    assert error_bound(3000, 0.0, 0.005) > 99
    assert stretched_bound(3000, 1.5, excess=True) < stretched_bound(10_000, 1.5, excess=True) < 100


def test_nothing_passes_without_data() -> None:
    assert passes_without_data() == 0


def test_every_trial_has_a_name_of_its_own_and_draws_the_same_traces_again() -> None:
    names = [trial.name for trial in TRIALS]
    assert len(set(names)) == len(names)
    trial = dataclasses.replace(TRIALS[0], count=200)
    np.testing.assert_array_equal(trial.arms(3).canary_ms, trial.arms(3).canary_ms)
    assert (trial.arms(3, seed=1).canary_ms != trial.arms(3).canary_ms).all()


def test_outages_come_in_a_row_and_fail_their_share() -> None:
    failed = outages(np.random.default_rng(3), (200, 3000), 0.02, 20)
    assert failed.mean() == pytest.approx(0.02, rel=0.1)
    ended = failed[:, 20:-1] & ~failed[:, 21:]
    rows, columns = np.nonzero(ended)
    assert len(rows) > 100
    assert all(failed[row, column + 1 : column + 21].all() for row, column in zip(rows, columns, strict=True))


def test_a_harm_that_comes_later_leaves_what_was_before() -> None:
    generator = np.random.default_rng(4)
    latency, _ = LOGNORMAL.draw(generator, (2, 100))
    harmed = later(60, slower(3.0))(generator, latency, LOGNORMAL)
    np.testing.assert_array_equal(harmed, latency * np.repeat([1.0, 3.0], [60, 40]))


def test_a_trial_tells_of_the_judge_and_its_rivals() -> None:
    harmed = next(trial for trial in TRIALS if trial.name.startswith("p99 doubled: everything"))
    figures = {
        figure.name.rpartition("|")[2]: figure.value for figure in tried(dataclasses.replace(harmed, count=600, canaries=20), quick=True)
    }
    assert figures["judge"] == figures["threshold"] == figures["mann_whitney"] == 100
    assert figures["median"] <= 300
