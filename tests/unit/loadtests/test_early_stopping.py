"""Early stopping: MLPerf's numbers come out, and looking often does not make it wrong more often than it says."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from loadtests.early_stopping import EarlyStopping, Looks, look, requests_needed


def test_requests_needed_are_those_of_mlperf() -> None:
    assert [requests_needed(over, 0.99, 0.99) for over in range(3)] == [459, 662, 838]
    assert [requests_needed(over, 0.9, 0.99) for over in range(2)] == [44, 64]


def test_a_single_look_meets_the_limit_with_exactly_as_many_as_needed() -> None:
    once = EarlyStopping(limit_ms=50, looks=1)
    assert look(once, 662, 1).outcome == "met"
    short = look(once, 661, 1)
    assert (short.outcome, short.needed) == ("open", 662)
    assert look(once, 1000, 25).outcome == "missed"


def test_nothing_is_met_without_requests() -> None:
    assert look(EarlyStopping(limit_ms=50), 0, 0).outcome == "open"


def test_a_run_ends_at_the_first_look_that_decides_and_keeps_what_it_found() -> None:
    looks = Looks(EarlyStopping(limit_ms=50, looks=4), planned=4000)
    none_over = np.zeros(2500, dtype=bool)
    assert looks.see(none_over[:999]) is None
    stop = looks.see(none_over[:1400])
    assert stop is not None
    assert (stop.outcome, stop.requests, stop.over) == ("met", 1000, 0)
    assert looks.see(np.ones(4000, dtype=bool)) == stop


def test_looking_often_is_not_wrong_more_often_than_promised() -> None:
    settings = EarlyStopping(limit_ms=50, confidence=0.9, looks=10)
    draw = np.random.default_rng(5)
    stops = [Looks(settings, 3000).see(draw.random(3000) < 0.01) for _ in range(1000)]
    met = sum(stop is not None and stop.outcome == "met" for stop in stops)
    missed = sum(stop is not None and stop.outcome == "missed" for stop in stops)
    # Exactly at the limit each is a mistake. 10 % are promised; without sharing the risk it would be 25 %.
    assert 0 < met <= 100
    assert 0 < missed <= 100


@pytest.mark.parametrize("wrong", [{"quantile": 99}, {"confidence": 0.3}, {"looks": 0}, {"limit_ms": 0}, {"limit": 3}])
def test_settings_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        EarlyStopping.model_validate({"limit_ms": 50, **wrong})
