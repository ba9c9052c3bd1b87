"""The accuracy budget: a paired bootstrap, and who is chosen inside it."""

from __future__ import annotations

import numpy as np
import pytest

from optimize.search.budget import NeChange, ne_change
from optimize.search.measure import Latency
from optimize.search.report import CandidateRecord
from optimize.search.search import DECISIVE_SIZE, TIE_PCT, choose
from optimize.training.metrics import normalized_entropy

ROWS = 4000


def _draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probability = (1 / (1 + np.exp(-rng.normal(-1.5, 1, ROWS)))).astype(np.float32)
    return (rng.random(ROWS) < probability).astype(np.float32), probability


def _shifted(probability: np.ndarray, by: float) -> np.ndarray:
    logit = np.log(probability / (1 - probability)) + by
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def test_identical_predictions_fit_a_budget_of_nothing() -> None:
    label, probability = _draw(0)
    change = ne_change(label, probability, probability.copy(), seed=0)
    assert change == NeChange(0.0, 0.0, 0.0)
    assert change.is_within(0.0)


def test_change_is_that_of_normalized_entropy() -> None:
    label, probability = _draw(1)
    worse = _shifted(probability, 0.5)
    change = ne_change(label, probability, worse, seed=0)
    expected = 100 * (normalized_entropy(label, worse) / normalized_entropy(label, probability) - 1)
    assert change.change_pct == pytest.approx(expected, rel=1e-9)
    assert change.low_pct < change.change_pct < change.high_pct


def test_interval_covers_the_true_change() -> None:
    """The true change of a shifted predictor follows from the truth; 95 % intervals miss it in some 1 of 20 data sets."""
    _, truth = _draw(0)
    p, q = truth.astype(np.float64), _shifted(truth, 0.4).astype(np.float64)
    before, after = (-(p * np.log(x) + (1 - p) * np.log(1 - x)).mean() for x in (p, q))
    expected = 100 * (after / before - 1)
    covered = 0
    for seed in range(12):
        label = (np.random.default_rng(seed).random(ROWS) < truth).astype(np.float32)
        change = ne_change(label, truth, q.astype(np.float32), seed)
        covered += change.low_pct <= expected <= change.high_pct
    assert covered >= 9, "P(fewer than 9 of 12 at 95 %) is 0.2 %"


def test_pairing_makes_small_changes_visible() -> None:
    label, probability = _draw(2)
    noisy = _shifted(probability, 0.0) * np.float32(1.001)
    change = ne_change(label, probability, noisy, seed=0)
    losses = -(label * np.log(probability) + (1 - label) * np.log(1 - probability))
    unpaired_pct = 100 * 1.96 * np.sqrt(2) * losses.std() / np.sqrt(ROWS) / losses.mean()
    assert change.high_pct - change.low_pct < unpaired_pct / 20


def test_clearly_worse_is_outside_and_better_is_inside() -> None:
    label, probability = _draw(3)
    assert not ne_change(label, probability, _shifted(probability, 1.0), seed=0).is_within(1.0)
    assert ne_change(label, _shifted(probability, 1.0), probability, seed=0).is_within(0.0)


def test_the_upper_end_decides_not_the_middle() -> None:
    assert not NeChange(0.05, -0.1, 0.2).is_within(0.1)
    assert NeChange(0.05, 0.0, 0.1).is_within(0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    label, probability = _draw(4)
    first, again = (ne_change(label, probability, _shifted(probability, 0.1), seed=5) for _ in range(2))
    assert first == again


def _candidate(
    name: str, p50_ms: float, *, passes: int = 0, refused: str | None = None, size_bytes: int = 100, built: bool = True
) -> CandidateRecord:
    latency = (
        Latency(candidates=1, p50_ms=9.0, p95_ms=9.0, rounds=5),
        Latency(candidates=DECISIVE_SIZE, p50_ms=p50_ms, p95_ms=9.0, rounds=5),
    )
    return CandidateRecord(
        name=name,
        passes=tuple(f"pass_{i}" for i in range(passes)),
        changes="",
        size_bytes=size_bytes if built else None,
        ne_change=None,
        validation={},
        test={},
        latency=latency if built else (),
        refused=refused,
    )


def test_the_fastest_allowed_is_chosen_with_its_reason() -> None:
    name, reason = choose([_candidate("fp32", 4.0), _candidate("fp16", 4.5, passes=1), _candidate("int8_dynamic", 2.0, passes=1)])
    assert name == "int8_dynamic"
    assert reason == "int8_dynamic takes 2.00 ms for 500 candidates, 2.00× as fast as fp32"


def test_what_is_refused_or_was_not_built_is_never_chosen() -> None:
    candidates = [
        _candidate("fp32", 4.0),
        _candidate("fast", 0.1, passes=1, refused="NE worse"),
        _candidate("none", 0, refused="could not be built", built=False),
    ]
    assert choose(candidates)[0] == "fp32"


@pytest.mark.parametrize("order", [1, -1])
def test_among_equally_fast_ones_the_fewest_passes_win(order: int) -> None:
    barely = 4.0 / (1 + TIE_PCT / 100) * 1.001
    candidates = [_candidate("fp32", 4.0), _candidate("int8_dynamic", barely, passes=1)][::order]
    name, reason = choose(candidates)
    assert name == "fp32"
    assert "int8_dynamic is as fast within 3 %" in reason


def test_beyond_the_tie_speed_wins() -> None:
    beyond = 4.0 / (1 + TIE_PCT / 100) * 0.999
    assert choose([_candidate("fp32", 4.0), _candidate("int8_dynamic", beyond, passes=1)])[0] == "int8_dynamic"


def test_among_ties_with_as_many_passes_the_smallest_file_wins() -> None:
    candidates = [_candidate("fp32", 9.0), _candidate("a", 2.0, passes=1, size_bytes=300), _candidate("b", 2.01, passes=1, size_bytes=200)]
    assert choose(candidates)[0] == "b"
