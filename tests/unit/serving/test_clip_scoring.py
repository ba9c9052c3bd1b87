"""Scoring: probabilities by the formulas of the papers, none-of-these, and the order of an answer."""

from __future__ import annotations

import numpy as np
import pytest

from serving.clip.scoring import best_labels, exclusive, independent, sigmoid

RNG = np.random.default_rng(5)
SIMILARITIES = RNG.uniform(-0.1, 0.4, (3, 6)).astype(np.float32)
NULL = RNG.uniform(0.1, 0.3, 3).astype(np.float32)


def test_exclusive_is_the_softmax_of_scaled_cosines() -> None:
    found, none = exclusive(SIMILARITIES, 100.0)
    powers = np.exp(100.0 * SIMILARITIES.astype(np.float64))
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
    assert none is None
    assert found.dtype == np.float32


def test_a_null_prompt_takes_its_share_of_the_softmax() -> None:
    found, none = exclusive(SIMILARITIES, 50.0, NULL)
    assert none is not None
    np.testing.assert_allclose(found.sum(axis=1) + none, 1, rtol=1e-5)
    np.testing.assert_allclose(none / found[:, 0], np.exp(50.0 * (NULL - SIMILARITIES[:, 0])), rtol=1e-4)


def test_independent_uses_the_bias_of_a_model_trained_with_a_sigmoid() -> None:
    found = independent(SIMILARITIES, 110.0, -12.9)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(12.9 - 110.0 * SIMILARITIES.astype(np.float64))), rtol=1e-5)


def test_independent_is_the_softmax_against_the_null_prompt_where_there_is_no_bias() -> None:
    found = independent(SIMILARITIES, 100.0, None, NULL)
    for label in range(SIMILARITIES.shape[1]):
        pair, _ = exclusive(np.stack([SIMILARITIES[:, label], NULL], axis=1), 100.0)
        np.testing.assert_allclose(found[:, label], pair[:, 0], rtol=1e-4)


def test_independent_probabilities_do_not_depend_on_the_other_labels() -> None:
    whole = independent(SIMILARITIES, 100.0, None, NULL)
    np.testing.assert_array_equal(independent(SIMILARITIES[:, 2:4], 100.0, None, NULL), whole[:, 2:4])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0, 1e6])
def test_extreme_scales_stay_finite(scale: float) -> None:
    for found in (exclusive(SIMILARITIES, scale)[0], independent(SIMILARITIES, scale, None, NULL)):
        assert np.isfinite(found).all()
        assert ((found >= 0) & (found <= 1)).all()
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_the_best_come_first_and_equals_keep_the_order_of_the_request() -> None:
    probabilities = np.array([0.1, 0.3, 0.1, 0.3, 0.2], np.float32)
    assert best_labels(probabilities, None, None).tolist() == [1, 3, 4, 0, 2]
    assert best_labels(probabilities, 4, None).tolist() == [1, 3, 4, 0]
    assert best_labels(probabilities, 1, None).tolist() == [1]
    assert best_labels(probabilities, 99, 0.2).tolist() == [1, 3, 4]
    assert best_labels(probabilities, None, 0.5).tolist() == []


def test_cutting_gives_what_sorting_all_would() -> None:
    probabilities = (RNG.integers(0, 40, 500) / 40).astype(np.float32)
    whole = best_labels(probabilities, None, None)
    for top_k in (1, 2, 17, 499, 500):
        np.testing.assert_array_equal(best_labels(probabilities, top_k, None), whole[:top_k])
