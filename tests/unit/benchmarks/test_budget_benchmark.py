from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks.budget import BUDGET_PCT, Outcome, candidates, expected_losses, summarise
from optimize.search.budget import Change
from optimize.search.machine import Machine
from optimize.search.report import BudgetRecord, CandidateRecord, OptimizeReport


def _outcome(chosen: str, unseen: dict[str, float]) -> Outcome:
    records = (
        CandidateRecord(name="fp32", passes=(), changes=""),
        CandidateRecord(name="good", passes=("good",), changes="", change=Change(0.02, 0.0, 0.05)),
        CandidateRecord(name="doubtful", passes=("doubtful",), changes="", change=Change(0.09, 0.0, 0.15), refused="NE worse"),
        CandidateRecord(name="bad", passes=("bad",), changes="", change=Change(0.5, 0.4, 0.6), refused="NE worse"),
        CandidateRecord(name="broken", passes=("broken",), changes="", refused="does not apply"),
    )
    report = OptimizeReport(
        created_at=datetime(2026, 1, 1, tzinfo=UTC), seconds=1, run="", data="", family="ranking", rows={}, fingerprints={},
        budget=BudgetRecord(metric="ne", limit=BUDGET_PCT, unit="%", confidence=0.95, looks=4), parity_tolerance=0, parity=(),
        size_unit="candidates", decisive_size=1, candidates=records, chosen=chosen, reason="",
        machine=Machine(cpu="", flags=(), cores=1, threads=1), versions={},
    )  # fmt: skip
    return Outcome(report, unseen)


def test_every_seed_over_the_budget_counts_against_the_aim() -> None:
    inside = _outcome("good", {"fp32": 0.0, "good": BUDGET_PCT})
    outside = _outcome("good", {"fp32": 0.0, "good": BUDGET_PCT * 1.01})
    nothing = _outcome("fp32", {"fp32": 0.0, "good": 0.0})
    figures, (aim,) = summarise([inside, outside, nothing])
    by_name = {figure.name: figure.value for figure in figures}
    assert by_name == {
        "seeds_within_budget": 2,
        "seeds_reference_chosen": 1,
        "worst_change_pct": BUDGET_PCT * 1.01,
        "median_change_pct": BUDGET_PCT,
        "allowed": 3,
        "allowed_over_budget": 1,
        "refused_on_quality": 6,
        "refused_though_its_middle_is_inside": 3,
    }
    assert (aim.value, aim.aim, aim.met) == (2, 3, False)
    assert summarise([inside])[1][0].met


def test_expected_losses_are_those_of_many_clicks() -> None:
    truth, probability = np.array([0.1, 0.5]), np.array([0.2, 0.5], np.float32)
    clicks = np.random.default_rng(0).random((200_000, 2)) < truth
    drawn = -np.where(clicks, np.log(probability), np.log1p(-probability)).mean(axis=0)
    assert expected_losses(truth, probability) == pytest.approx(drawn, rel=0.01)


def test_hard_passes_are_tried_beside_the_default_list() -> None:
    names = [candidate.name for candidate in candidates()]
    assert "int8_dynamic" in names
    assert "prune_magnitude:sparsity=0.5" in names
    assert len(set(names)) == len(names)
