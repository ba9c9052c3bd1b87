"""A run seen through its stream: figures near the exact ones, and an end as soon as the outcome is known and not before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtests.early_stopping import EarlyStopping
from loadtests.judge import Policy
from loadtests.load_profile import load_profile
from loadtests.samples import Samples
from loadtests.stream import StreamWriter
from loadtests.watch import EarlyEnd, Figures, Watch
from tests.load_samples import made_up


def _chunks(samples: Samples, size: int = 250) -> list[Samples]:
    return [samples.rows(np.arange(first, min(first + size, len(samples)))) for first in range(0, len(samples), size)]


def test_figures_add_up_over_chunks() -> None:
    samples, figures = made_up(3000, errors=0.01), Figures()
    assert figures.quantile_ms(0.5) is None
    for chunk in _chunks(samples):
        figures.add(chunk)
    assert (figures.requests, figures.failures) == (3000, int((~samples.ok).sum()))
    for share in (0.5, 0.99):
        exact = np.quantile(samples.latency_ms[samples.ok], share, method="inverted_cdf")
        assert figures.quantile_ms(share) == pytest.approx(exact, rel=0.006)
    assert figures.rate_rps == pytest.approx(200, rel=0.15)
    assert "3,000 requests" in str(figures)


def test_a_run_may_end_once_all_requests_before_a_look_have_ended() -> None:
    samples = made_up(4000)
    early = EarlyEnd(EarlyStopping(limit_ms=30, looks=4), np.sort(samples.intended_s))
    thousandth = np.sort(samples.intended_s)[999]
    for chunk in _chunks(samples, 50):
        if early.add(chunk):
            break
    ended = samples.rows(samples.ended_s <= chunk.ended_s.max())
    assert np.count_nonzero(ended.intended_s <= thousandth) == 1000
    assert len(ended) < 1150


def test_a_request_that_is_still_under_way_holds_the_look_up() -> None:
    samples = made_up(2000)
    slow = np.argmin(samples.intended_s)
    without = samples.rows(np.arange(len(samples)) != slow)
    early = EarlyEnd(EarlyStopping(limit_ms=30, looks=1), np.sort(samples.intended_s))
    assert not early.add(without)
    assert early.add(samples.rows(np.array([slow])))


@pytest.mark.parametrize(("times", "ends"), [(1.0, False), (20.0, True)])
def test_a_run_of_a_search_ends_once_it_has_failed(tmp_path: Path, times: float, ends: bool) -> None:
    profile = load_profile("smoke", objective=load_profile("saturation").objective, samples=4000)
    writer, watch = StreamWriter(tmp_path), Watch(profile, tmp_path, fail_fast=Policy())
    assert not watch.look()
    for chunk in _chunks(made_up(2000, times=times)):
        writer.add(chunk)
    assert watch.look() is ends
    assert watch.figures.requests == 2000
