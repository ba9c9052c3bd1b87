"""Synthetic clicks: a known truth, ids out of billions, tastes that turn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from optimize.data import clicks
from optimize.data.clicks import ClickSettings, draw
from optimize.data.interactions import Interactions, require_columns
from optimize.training.metrics import log_losses
from optimize.training.recipe import RECIPES
from serving.contract.errors import PilotageError
from serving.contract.fields import load_spec

N = 40_000


@pytest.fixture(scope="module")
def data() -> Interactions:
    return draw(ClickSettings(impressions=N))


def _truth(data: Interactions) -> np.ndarray:
    assert data.truth is not None
    return data.truth


def test_the_same_settings_give_the_same_data() -> None:
    first, again = (draw(ClickSettings(impressions=500, seed=7)) for _ in range(2))
    assert first.fingerprint() == again.fingerprint()
    np.testing.assert_array_equal(_truth(first), _truth(again))
    np.testing.assert_array_equal(first.timestamp, again.timestamp)


def test_another_seed_gives_other_data() -> None:
    assert draw(ClickSettings(impressions=500, seed=7)).fingerprint() != draw(ClickSettings(impressions=500, seed=8)).fingerprint()


def test_the_data_fits_the_shipped_specification(data: Interactions) -> None:
    require_columns(load_spec(RECIPES / "clicks" / "features.toml"), data)


def test_clicks_come_at_the_true_rate(data: Interactions) -> None:
    # Given the truth p_i, the sum of clicks has variance Σ p_i (1 - p_i); five standard deviations fail once in 1.7 million.
    truth = _truth(data)
    deviation = np.sqrt(np.sum(truth * (1 - truth)))
    assert abs(data.label.sum() - truth.sum()) < 5 * deviation
    for part in np.array_split(np.argsort(truth), 5):  # and not only on average
        p = truth[part]
        assert abs(data.label[part].sum() - p.sum()) < 5 * np.sqrt(np.sum(p * (1 - p)))


def test_log_loss_of_the_truth_is_its_entropy(data: Interactions) -> None:
    # The loss of row i has mean H(p_i) and variance p(1-p)·log²(p/(1-p)), so the mean over rows is normal around the entropy.
    p = _truth(data)
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    deviation = np.sqrt(np.mean(p * (1 - p) * np.log(p / (1 - p)) ** 2) / N)
    assert abs(np.mean(log_losses(data.label, p)) - entropy.mean()) < 5 * deviation


def test_the_truth_is_worth_learning(data: Interactions) -> None:
    truth = _truth(data)
    assert np.mean(log_losses(data.label, truth)) < 0.95 * np.mean(log_losses(data.label, np.full(N, data.label.mean())))


@pytest.mark.parametrize("name", ["user_id", "id"])
def test_ids_are_many_with_a_heavy_tail(name: str, data: Interactions) -> None:
    _, counts = np.unique(data.columns[name].astype(str), return_counts=True)
    assert len(counts) > N / 20, "thousands of ids"
    assert (counts == 1).sum() > len(counts) / 2, "most are seen once"
    # Zipf with exponent s on the continuous law: P(rank 1) = (1 - 2**(1-s)) / (1 - (population+1)**(1-s)); 0.13 at s = 1.2.
    top = (1 - 2**-0.2) / (1 - (clicks.USERS if name == "user_id" else clicks.ADS) ** -0.2)
    assert counts.max() / N == pytest.approx(top, abs=5 * np.sqrt(top * (1 - top) / N))


def test_ids_reach_into_the_billions() -> None:
    rank = clicks._zipf(np.random.default_rng(0), 1.01, 100_000, clicks.USERS)
    assert rank.min() >= 1
    assert clicks.USERS / 2 < rank.max() <= clicks.USERS


def test_a_users_traits_belong_to_the_user(data: Interactions) -> None:
    for trait in ("age_group", "country"):
        pairs = {(user, value) for user, value in zip(data.columns["user_id"], data.columns[trait], strict=True)}
        assert len(pairs) == len(np.unique(data.columns["user_id"].astype(str)))


def test_down_sampling_touches_training_non_clicks_alone() -> None:
    settings = ClickSettings(impressions=8000, seed=3)
    whole = clicks.split(settings, "random")
    thinned = clicks.split(dataclasses.replace(settings, negative_sampling_rate=0.1), "random")
    assert thinned.validation.fingerprint() == whole.validation.fingerprint()
    assert thinned.test.fingerprint() == whole.test.fingerprint()
    assert thinned.train.label.sum() == whole.train.label.sum(), "every click is kept"
    negatives = int((whole.train.label == 0).sum())
    kept = int((thinned.train.label == 0).sum())
    assert abs(kept - 0.1 * negatives) < 5 * np.sqrt(negatives * 0.1 * 0.9)


def test_drift_turns_tastes_late_and_leaves_them_early() -> None:
    still, turned = (draw(ClickSettings(impressions=N, drift=drift)) for drift in (0.0, 1.0))
    np.testing.assert_array_equal(still.columns["id"], turned.columns["id"])
    logits = [np.log(p / (1 - p)) for p in (_truth(still), _truth(turned))]
    early, late = (np.corrcoef(logits[0][part], logits[1][part])[0, 1] for part in (slice(0, N // 20), slice(-N // 20, None)))
    assert early > 0.98
    assert late < 0.75
    assert logits[1].std() == pytest.approx(logits[0].std(), rel=0.1), "as much to learn at the end as at the start"


def test_without_drift_time_changes_nothing_but_the_hour(data: Interactions) -> None:
    assert _truth(data)[: N // 2].mean() == pytest.approx(_truth(data)[N // 2 :].mean(), rel=0.03)


@pytest.mark.parametrize(
    "knob",
    [
        {"impressions": 99}, {"zipf": 1.0}, {"zipf": float("nan")}, {"negative_sampling_rate": 0.0}, {"negative_sampling_rate": 1.1},
        {"drift": -0.1}, {"drift": 1.5}, {"seed": -1}, {"seed": 2**32}, {"base_logit": 30.0},
    ],
)  # fmt: skip
def test_a_knob_out_of_bounds_is_refused_by_name(knob: dict[str, float]) -> None:
    with pytest.raises(PilotageError, match=f"click setting {next(iter(knob))} is .* between"):
        ClickSettings(**knob)  # type: ignore[arg-type]
