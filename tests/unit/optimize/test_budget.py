"""The accuracy budget: a paired bootstrap that holds for all candidates at once."""

from __future__ import annotations

import numpy as np
import pytest

from optimize.search.budget import Bootstrap, Change
from optimize.search.metrics import METRICS
from optimize.training.metrics import auc, normalized_entropy
from serving.contract.errors import PilotageError

ROWS = 4000
NE, AUC, ACCURACY, COSINE = (METRICS[name] for name in ("ne", "auc", "accuracy", "cosine"))


def _draw(seed: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probability = (1 / (1 + np.exp(-rng.normal(-1.5, 1, rows)))).astype(np.float32)
    return (rng.random(rows) < probability).astype(np.float32), probability


def _shifted(probability: np.ndarray, by: float | np.ndarray) -> np.ndarray:
    logit = np.log(probability / (1 - probability)) + by
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def _change(label: np.ndarray, reference: np.ndarray, variant: np.ndarray, looks: int = 1, seed: int = 0, metric: object = NE) -> Change:
    before, after = (metric.losses(label, answers, reference) for answers in (reference, variant))
    return Bootstrap(len(label), looks=looks, seed=seed).change(metric, before, after)


def test_identical_predictions_fit_a_budget_of_nothing() -> None:
    label, probability = _draw(0)
    change = _change(label, probability, probability.copy())
    assert change == Change(0.0, 0.0, 0.0)
    assert change.is_within(0.0)


def test_change_is_that_of_normalized_entropy() -> None:
    label, probability = _draw(1)
    worse = _shifted(probability, 0.5)
    change = _change(label, probability, worse)
    expected = 100 * (normalized_entropy(label, worse) / normalized_entropy(label, probability) - 1)
    assert change.value == pytest.approx(expected, rel=1e-9)
    assert change.low < change.value < change.high


def test_change_is_that_of_auc() -> None:
    label, probability = _draw(1)
    noisy = _shifted(probability, np.random.default_rng(0).normal(0, 0.5, ROWS))
    change = _change(label, probability, noisy, metric=AUC)
    assert change.value == pytest.approx(auc(label, probability) - auc(label, noisy), abs=1e-12)


def test_auc_interval_is_as_wide_as_that_of_redrawn_data() -> None:
    """Placement values against the truth: the spread of the difference over new data sets."""
    differences, widths = [], []
    for seed in range(40):
        label, probability = _draw(seed, 1500)
        noisy = _shifted(probability, np.random.default_rng(100 + seed).normal(0, 0.5, 1500))
        differences.append(auc(label, probability) - auc(label, noisy))
        if seed < 5:
            change = _change(label, probability, noisy, metric=AUC)
            widths.append((change.high - change.low) / 2 / 1.96)
    assert np.mean(widths) == pytest.approx(np.std(differences), rel=0.35), "a spread of 40 values is itself off by 11 %"


def test_accuracy_counts_mistakes_and_a_hundred_right_answers_prove_little() -> None:
    label = np.repeat([0, 1, 2, 3], 25)
    answers = np.eye(4, dtype=np.float32)[label]
    change = _change(label, answers, answers, metric=ACCURACY)
    assert (change.value, change.low) == (0.0, 0.0)
    assert change.high == pytest.approx(100 * (1 - 0.025 ** (1 / 100))), "3.6 points: as many may be wrong and not one be seen"
    wrong = answers.copy()
    wrong[:10] = wrong[99]
    assert _change(label, answers, wrong, metric=ACCURACY).value == pytest.approx(10.0)


def test_cosine_compares_with_the_reference_alone() -> None:
    reference = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    losses = COSINE.losses(None, 3 * reference, reference)
    np.testing.assert_allclose(losses, 0, atol=1e-7)
    np.testing.assert_allclose(COSINE.losses(None, -reference, reference), 2, rtol=1e-6)
    assert np.isnan(COSINE.losses(None, np.zeros_like(reference), reference)).all(), "no direction is no agreement"


def test_interval_covers_the_true_change() -> None:
    """The true change of a shifted predictor follows from the truth; 95 % intervals miss it in some 1 of 20 data sets."""
    _, truth = _draw(0)
    p, q = truth.astype(np.float64), _shifted(truth, 0.4).astype(np.float64)
    before, after = (-(p * np.log(x) + (1 - p) * np.log(1 - x)).mean() for x in (p, q))
    expected = 100 * (after / before - 1)
    covered = 0
    for seed in range(12):
        label = (np.random.default_rng(seed).random(ROWS) < truth).astype(np.float32)
        change = _change(label, truth, q.astype(np.float32), seed=seed)
        covered += change.low <= expected <= change.high
    assert covered >= 9, "P(fewer than 9 of 12 at 95 %) is 0.2 %"


def test_who_looks_often_needs_wider_intervals() -> None:
    label, probability = _draw(2)
    worse = _shifted(probability, np.random.default_rng(0).normal(0, 0.2, ROWS))
    once, often = _change(label, probability, worse), _change(label, probability, worse, looks=20)
    assert often.value == once.value
    # Normal quantiles: 3.02 standard errors at 1 - 0.025 / 20, 1.96 at 1 - 0.025.
    assert (often.high - often.low) / (once.high - once.low) == pytest.approx(3.02 / 1.96, rel=0.12)


def test_the_luckiest_of_twenty_bad_candidates_is_not_let_through() -> None:
    """All are truly worse by half the noise of one look; judged one by one some would pass."""
    lucky_once = lucky_often = 0
    for seed in range(10):
        label, probability = _draw(seed)
        rng = np.random.default_rng(1000 + seed)
        naive, honest = Bootstrap(ROWS, seed=seed), Bootstrap(ROWS, looks=20, seed=seed)
        before = NE.losses(label, probability, probability)
        # Losses that are worse by 0.3 % of the mean, under noise of 0.16 % of it: a budget of 0 must refuse all of them.
        after = [before + before.mean() * (0.003 + 0.1 * rng.standard_normal(ROWS)) for _ in range(20)]
        lucky_once += any(naive.change(NE, before, one).is_within(0.0) for one in after)
        lucky_often += any(honest.change(NE, before, one).is_within(0.0) for one in after)
    assert lucky_often == 0
    assert lucky_once <= 10


def test_pairing_makes_small_changes_visible() -> None:
    label, probability = _draw(2)
    noisy = _shifted(probability, 0.0) * np.float32(1.001)
    change = _change(label, probability, noisy)
    losses = -(label * np.log(probability) + (1 - label) * np.log(1 - probability))
    unpaired_pct = 100 * 1.96 * np.sqrt(2) * losses.std() / np.sqrt(ROWS) / losses.mean()
    assert change.high - change.low < unpaired_pct / 20


def test_clearly_worse_is_outside_and_better_is_inside() -> None:
    label, probability = _draw(3)
    assert not _change(label, probability, _shifted(probability, 1.0)).is_within(1.0)
    assert _change(label, _shifted(probability, 1.0), probability).is_within(0.0)


def test_the_upper_end_decides_not_the_middle() -> None:
    assert not Change(0.05, -0.1, 0.2).is_within(0.1)
    assert Change(0.05, 0.0, 0.1).is_within(0.1)
    assert not Change(float("nan"), float("nan"), float("nan")).is_within(1e9)


def test_the_same_seed_gives_the_same_interval() -> None:
    label, probability = _draw(4)
    first, again = (_change(label, probability, _shifted(probability, 0.1), seed=5) for _ in range(2))
    assert first == again


def test_a_share_of_nothing_is_an_error_that_says_so() -> None:
    with pytest.raises(PilotageError, match="the reference has a ne of 0 on 30 examples"):
        Bootstrap(30).change(NE, np.zeros(30), np.ones(30))
