"""Bets on the ratio of two means: what they may be wrong about, and how seldom."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadtests.judge import JudgeError
from loadtests.judge.mean_ratio import MeanRatio

RATIOS = (0.5, 0.8, 1.0, 1.25, 2.0)


def drawn(pairs: int, ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clicks with dependent probabilities, E x = ratio · E y; both are 0 or 1, which is the widest there is."""
    draw = np.random.default_rng(seed)
    likely, chance = draw.beta(1, 3, pairs), draw.random(pairs)
    return (chance < ratio * likely).astype(float), (draw.random(pairs) < likely).astype(float)


def test_nothing_is_known_before_the_first_pair() -> None:
    bets = MeanRatio(RATIOS)
    assert (bets.value, bets.interval(math.log(20))) == (None, (None, None))


def test_the_interval_holds_the_truth_at_all_times_but_for_its_risk() -> None:
    # 150 runs with the truth on the grid, looked at after every pair; the risk of each end is 0.1. With 15 expected, 29 are four deviations more.
    wrong = np.zeros(2, dtype=int)
    for seed in range(150):
        bets = MeanRatio([1.0])
        bets.add(*drawn(150, 1.0, seed))
        wrong += (bets.above(1.0) >= math.log(10), bets.below(1.0) >= math.log(10))
    assert (wrong < 29).all()


@pytest.mark.parametrize(("ratio", "above", "below"), [(0.6, 0.5, 0.8), (1.0, 0.8, 1.25), (1.6, 1.25, 2.0)])
def test_the_interval_closes_around_the_truth(ratio: float, above: float, below: float) -> None:
    draw = np.random.default_rng(5)
    y = draw.beta(2, 4, 2000)
    bets = MeanRatio(RATIOS)
    bets.add(np.clip(ratio * y + draw.normal(0, 0.01, 2000), 0, 1) if ratio <= 1 else ratio * np.minimum(y, 1 / ratio), y)
    low, high = bets.interval(math.log(1000))
    assert low is not None
    assert high is not None
    assert above <= low < high <= below


def test_pairs_that_hang_together_need_fewer_of_them() -> None:
    draw = np.random.default_rng(1)
    y = draw.beta(2, 4, 400)
    together, apart = MeanRatio(RATIOS), MeanRatio(RATIOS)
    together.add(y, y)
    apart.add(draw.permutation(y), y)
    assert together.below(1.25) > apart.below(1.25)


def test_the_same_pairs_in_pieces_are_the_same_evidence() -> None:
    x, y = drawn(300, 1.3, 2)
    whole, pieces = MeanRatio(RATIOS), MeanRatio(RATIOS)
    whole.add(x, y)
    for start in range(0, 300, 70):
        pieces.add(x[start : start + 70], y[start : start + 70])
    np.testing.assert_array_equal(whole.log_above, pieces.log_above)
    assert whole.value == pieces.value


def test_evidence_once_shown_stays() -> None:
    bets = MeanRatio(RATIOS)
    bets.add(np.full(50, 0.9), np.full(50, 0.1))
    shown = bets.above(2.0)
    bets.add(np.full(500, 0.01), np.full(500, 0.9))
    assert bets.above(2.0) == shown


@pytest.mark.parametrize("x", [-0.1, 1.1, math.nan])
def test_what_is_not_bounded_is_refused(x: float) -> None:
    with pytest.raises(JudgeError, match=r"outside \[0, 1\]"):
        MeanRatio(RATIOS).add(np.array([x]), np.array([0.5]))


def test_a_ratio_that_nobody_bet_on_is_refused() -> None:
    with pytest.raises(JudgeError, match=r"nobody bet on the ratio 1\.1"):
        MeanRatio(RATIOS).above(1.1)


@pytest.mark.parametrize("ratios", [(), (0.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_ratios_must_rise_from_above_0(ratios: tuple[float, ...]) -> None:
    with pytest.raises(JudgeError, match="must be above 0 and rise"):
        MeanRatio(ratios)
