"""Intervals of quantiles hold the truth as often as they say, for independent requests and for correlated ones."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from loadtests.quantiles import correlations, interval, intervals, quantile

P50, P99 = Fraction(1, 2), Fraction(99, 100)
TRUTH = {P50: 0.0, P99: 2.3263479}


def _normal(count: int, seed: int, autocorrelation: float) -> NDArray[np.float64]:
    draw = np.random.default_rng(seed).standard_normal(count + 200)
    return np.asarray(lfilter([np.sqrt(1 - autocorrelation**2)], [1, -autocorrelation], draw)[200:])


@pytest.mark.parametrize(("autocorrelation", "share", "least"), [(0.0, P50, 0.92), (0.0, P99, 0.92), (0.8, P50, 0.87), (0.8, P99, 0.87)])
def test_intervals_hold_the_truth(autocorrelation: float, share: Fraction, least: float) -> None:
    held = 0
    for seed in range(100):
        samples = _normal(2000, seed, autocorrelation)
        ordered = np.sort(samples)
        value = quantile(ordered, share)
        assert value is not None
        low, high = interval(ordered, share, correlation=float(correlations(samples, [value])[0]))
        held += (low is None or low <= TRUTH[share]) and (high is None or TRUTH[share] <= high)
    assert held >= 100 * least


def test_correlated_requests_widen_the_interval() -> None:
    samples = _normal(5000, 1, 0.9)
    assert correlations(samples, [0.0])[0] > 5
    assert correlations(_normal(5000, 1, 0.0), [0.0])[0] < 2
    narrow, wide = interval(np.sort(samples), P50), interval(np.sort(samples), P50, correlation=9)
    assert narrow[0] is not None
    assert narrow[1] is not None
    assert wide[0] is not None
    assert wide[1] is not None
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_an_end_that_too_few_samples_show_is_none() -> None:
    ordered = np.arange(300.0)
    assert interval(ordered, P99)[1] is None
    assert interval(ordered, P99)[0] is not None
    assert interval(ordered[:3], P50) == (None, None)
    assert interval(np.zeros(0), P50) == (None, None)


def test_one_stall_does_not_make_a_tail_sure() -> None:
    samples = np.full(1500, 5.0) + np.random.default_rng(0).random(1500)
    samples[700:800] = np.linspace(1000, 10, 100)
    low, high = intervals(samples, [P99])[0]
    as_if_independent, _ = interval(np.sort(samples), P99)
    assert low is not None
    assert as_if_independent is not None
    assert low < as_if_independent / 2
    assert high is None
    assert intervals(np.zeros(0), [P99]) == [(None, None)]
