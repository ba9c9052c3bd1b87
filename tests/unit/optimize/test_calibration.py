"""Platt scaling and the correction for down-sampled negatives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optimize.training import calibration
from optimize.training.metrics import calibration_ratio


def _sigmoid(t: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-t))


def _draw(n: int, scale: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 1.5, n).astype(np.float32)
    return z, (rng.random(n) < _sigmoid(scale * z + offset)).astype(np.float32)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.7)])
def test_fit_recovers_the_scale_and_offset_that_made_the_data(scale: float, offset: float) -> None:
    fitted = calibration.fit(*_draw(60_000, scale, offset))
    # Standard errors by the inverse Fisher information of the three cases are at most 0.017: some six of them.
    assert fitted.method == "platt"
    assert fitted.scale == pytest.approx(scale, abs=0.1)
    assert fitted.offset == pytest.approx(offset, abs=0.1)


@pytest.mark.parametrize("rate", [0.5, 0.05])
def test_fit_undoes_negative_down_sampling(rate: float) -> None:
    rng = np.random.default_rng(1)
    truth = _sigmoid(rng.normal(-2, 1, 60_000))
    label = (rng.random(60_000) < truth).astype(np.float32)
    sampled = truth / (truth + (1 - truth) * rate)  # what training on down-sampled negatives learns
    z = np.log(sampled / (1 - sampled)).astype(np.float32)
    fitted = calibration.fit(z, label, rate)
    corrected = _sigmoid(fitted.scale * z + fitted.offset)
    by_the_paper = sampled / (sampled + (1 - sampled) / rate)
    assert by_the_paper == pytest.approx(truth)
    assert fitted.offset == pytest.approx(math.log(rate), abs=0.1)
    assert fitted.negative_sampling_rate == rate
    assert np.abs(corrected - by_the_paper).mean() < 0.005
    assert calibration_ratio(label, corrected) == pytest.approx(1.0, abs=0.001), "a fitted offset makes the mean exact"


def test_the_order_of_scores_survives_calibration() -> None:
    z, label = _draw(2000, 0.3, -2.0)
    fitted = calibration.fit(z, label)
    assert fitted.scale > 0


def test_separable_data_does_not_run_away() -> None:
    z = np.linspace(-3, 3, 1001, dtype=np.float32)
    fitted = calibration.fit(z, (z > 0).astype(np.float32))
    assert fitted.method == "platt"
    assert 1 < fitted.scale < 100


def test_constant_scores_become_the_base_rate() -> None:
    label = np.repeat([1, 0, 0, 0], 100).astype(np.float32)
    fitted = calibration.fit(np.zeros(400, np.float32), label)
    assert _sigmoid(np.array(fitted.offset)) == pytest.approx(0.25, abs=1e-4)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", ["upside down", "not a number"])
def test_degenerate_scores_keep_only_the_known_correction(case: str) -> None:
    z, label = _draw(2000, 3.0, 0.0)
    z = -5 * z if case == "upside down" else np.full_like(z, np.nan)
    fitted = calibration.fit(z, label, 0.1)
    assert (fitted.method, fitted.scale) == ("none", 1.0)
    assert fitted.offset == pytest.approx(math.log(0.1))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_class_keeps_only_the_known_correction(value: float) -> None:
    z, _ = _draw(2000, 1.0, 0.0)
    fitted = calibration.fit(z, np.full(2000, value, np.float32), 0.1)
    assert (fitted.method, fitted.scale) == ("none", 1.0), "the likelihood has no maximum: the offset would run to infinity"
    assert fitted.offset == pytest.approx(math.log(0.1))
