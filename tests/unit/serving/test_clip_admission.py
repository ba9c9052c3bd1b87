"""Admission to a model with long runs: by predicted time, bounded, at once."""

from __future__ import annotations

import time

import pytest

from serving.clip import admission
from serving.clip.admission import FIRST_IMAGE_BYTES, FIRST_READ_S, Admission
from serving.contract.errors import DeadlineExceeded, Overloaded
from serving.runtime.cost import CostModel

COST = CostModel([(1, 0.02), (2, 0.04)])
ONE = FIRST_IMAGE_BYTES
ONE_S = 0.02 + FIRST_READ_S


def test_requests_are_admitted_until_the_objective_is_full_and_again_when_one_is_answered() -> None:
    gate = Admission(COST, objective_s=3.5 * ONE_S)
    tickets = [gate.admit(ONE) for _ in range(3)]
    with pytest.raises(Overloaded, match="3 requests are under way"):
        gate.admit(ONE)
    assert isinstance(gate.refusal(ONE), Overloaded)
    gate.release(tickets.pop())
    assert gate.refusal(ONE) is None
    gate.admit(ONE)


def test_with_nobody_under_way_even_a_large_request_is_taken() -> None:
    gate = Admission(COST, objective_s=ONE_S / 2)
    ticket = gate.admit(40 * ONE)
    with pytest.raises(Overloaded):
        gate.admit(ONE)
    gate.release(ticket)
    gate.admit(ONE)


def test_a_deadline_that_cannot_be_kept_is_told_at_once() -> None:
    gate = Admission(COST, objective_s=10)
    gate.admit(ONE)
    with pytest.raises(DeadlineExceeded, match="the answer would take some 60 ms"):
        gate.admit(ONE, time.perf_counter() + 1.5 * ONE_S)
    gate.admit(ONE, time.perf_counter() + 2.5 * ONE_S)


def test_the_number_of_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WAITING", 2)
    gate = Admission(COST, objective_s=1e6)
    gate.admit(ONE)
    gate.admit(ONE)
    with pytest.raises(Overloaded):
        gate.admit(ONE)


def test_it_learns_how_large_images_are_and_how_long_they_take_to_read() -> None:
    gate = Admission(COST, objective_s=1e6)
    before = gate.admit(8 * ONE).work_s
    for _ in range(500):
        gate.learn(8 * ONE, images=2, read_s=0.2)
    assert before == pytest.approx(8 * ONE_S, rel=0.01)
    assert gate.admit(8 * ONE).work_s == pytest.approx(2 * (0.02 + 0.1), rel=0.02)
