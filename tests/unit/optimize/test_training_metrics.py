"""Metrics against scikit-learn, and against sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from optimize.training import metrics

GROUPS = np.array(["a", "a", "b", "b", "b"], object)


def _draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probability = rng.random(n)
    return (rng.random(n) < probability).astype(np.float32), probability


def test_log_loss_equals_scikit_learn() -> None:
    label, probability = _draw(500, 0)
    assert np.mean(metrics.log_losses(label, probability)) == pytest.approx(reference.log_loss(label, probability), rel=1e-12)


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    losses = metrics.log_losses([1.0, 0.0], [0.0, 1.0])
    assert np.isfinite(losses).all()
    assert losses == pytest.approx(-math.log(metrics.EPSILON))


@pytest.mark.parametrize("levels", [3, 10, 10_000])
def test_auc_equals_scikit_learn_with_ties(levels: int) -> None:
    label, probability = _draw(400, levels)
    score = np.floor(probability * levels)  # few levels: many ties
    assert metrics.auc(label, score) == pytest.approx(reference.roc_auc_score(label, score), abs=1e-12)


def test_auc_of_constant_scores_is_a_half() -> None:
    assert metrics.auc([1, 0, 0, 1, 0], np.full(5, 0.3)) == 0.5


def test_grouped_auc_weighs_groups_by_impressions() -> None:
    # Group a: the click is below the non-click, AUC 0. Group b: one of two pairs is right, AUC 1/2. (2·0 + 3·1/2) / 5.
    label, score = [1, 0, 0, 1, 0], [0.1, 0.9, 0.2, 0.3, 0.4]
    assert metrics.grouped_auc(label, score, GROUPS) == pytest.approx(0.3)


def test_grouped_auc_leaves_out_groups_with_one_class() -> None:
    label, score = [1, 1, 0, 1, 0], [0.1, 0.9, 0.2, 0.3, 0.4]
    assert metrics.grouped_auc(label, score, GROUPS) == pytest.approx(0.5)


def test_grouped_metrics_do_not_depend_on_the_order_of_rows() -> None:
    label, probability = _draw(300, 5)
    group = np.array([f"user-{i % 11}" for i in range(300)], object)
    order = np.random.default_rng(0).permutation(300)
    for metric in (metrics.grouped_auc, metrics.ndcg):
        assert metric(label[order], probability[order], group[order]) == pytest.approx(metric(label, probability, group))


def test_ndcg_equals_a_sum_by_hand() -> None:
    # Group a ranks its click second: 1/log2(3). Group b at k = 2: clicks at ranks 1 and 3, the third is cut off.
    label, score = [1, 0, 1, 0, 1], [0.1, 0.9, 0.9, 0.5, 0.1]
    by_hand_a = 1 / math.log2(3)
    by_hand_b = 1 / (1 + 1 / math.log2(3))
    assert metrics.ndcg(label, score, GROUPS, k=2) == pytest.approx((by_hand_a + by_hand_b) / 2)


def test_ndcg_equals_scikit_learn() -> None:
    label, probability = _draw(240, 1)
    label[::24] = 1  # every group has a click
    group = np.repeat([f"u{i}" for i in range(10)], 24).astype(object)
    expected = np.mean([reference.ndcg_score([label[group == u]], [probability[group == u]], k=10) for u in np.unique(group)])
    assert metrics.ndcg(label, probability, group, k=10) == pytest.approx(expected, abs=1e-12)


def test_ndcg_skips_groups_without_a_click() -> None:
    assert metrics.ndcg([0, 0, 1, 0, 0], [0.9, 0.1, 0.9, 0.5, 0.1], GROUPS) == 1.0


def test_normalized_entropy_of_the_base_rate_is_one() -> None:
    label = np.array([1, 0, 0, 0, 1, 0, 0], np.float32)
    assert metrics.normalized_entropy(label, np.full(7, 2 / 7)) == pytest.approx(1.0, abs=1e-12)
    assert metrics.normalized_entropy(label, np.full(7, 0.5)) > 1.0
    assert metrics.normalized_entropy(label, np.where(label > 0, 0.9, 0.1)) < 1.0


def test_calibration_ratio_is_predicted_over_observed() -> None:
    assert metrics.calibration_ratio([1, 0, 0, 0], [0.5, 0.25, 0.25, 0.5]) == pytest.approx(1.5)


def test_calibration_error_of_a_calibrated_predictor_is_sampling_noise() -> None:
    label, probability = _draw(200_000, 2)
    # A bin holds n = 10,000 rows; |mean difference| has expectation sqrt(2/π)·sqrt(p(1-p)/n) ≤ 0.8·0.005 = 0.004.
    assert metrics.expected_calibration_error(label, probability) < 0.004


def test_calibration_error_of_a_biased_predictor_is_its_bias() -> None:
    label, probability = _draw(200_000, 3)
    assert metrics.expected_calibration_error(label, probability + 0.2) == pytest.approx(0.2, abs=0.004)


def test_calibration_error_sees_what_the_ratio_cannot() -> None:
    label = np.repeat([0.0, 1.0], 500)
    probability = np.repeat([0.4, 0.6], 500)  # right on average, wrong by 0.4 on each half
    assert metrics.calibration_ratio(label, probability) == pytest.approx(1.0)
    assert metrics.expected_calibration_error(label, probability) == pytest.approx(0.4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_metrics_that_one_class_does_not_define_are_left_out(value: float) -> None:
    label, probability = np.full(5, value, np.float32), np.linspace(0.1, 0.9, 5)
    found = metrics.evaluate(label, probability, GROUPS)
    assert {"log_loss", "ece"} <= found.keys()
    assert not {"auc", "gauc", "ne"} & found.keys(), "the base rate has no entropy to divide by"
    if value == 0:
        assert not {"calibration_ratio", "ndcg@10"} & found.keys()


def test_evaluate_names_its_metrics() -> None:
    label, probability = _draw(50, 4)
    names = ["log_loss", "ne", "auc", "gauc", "ndcg@10", "calibration_ratio", "ece"]
    assert list(metrics.evaluate(label, probability, np.repeat(GROUPS, 10))) == names
