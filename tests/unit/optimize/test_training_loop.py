"""The training loop on a problem that has an answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optimize.features.encode import Encoded
from optimize.models.base import RankingModel
from optimize.models.registry import DcnV2Settings, build
from optimize.training import loop
from optimize.training.loop import EpochReport, TrainingData, TrainingSettings
from optimize.training.metrics import auc
from serving.contract.fields import FeatureSpec, parse_spec

ROWS = 3000
IDS = 40


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def spec() -> FeatureSpec:
    fields = [
        {"name": "user_id", "kind": "categorical", "part": "user", "buckets": 100, "dim": 4},
        {"name": "id", "kind": "categorical", "part": "candidate", "buckets": 100, "dim": 4, "unseen": "zero"},
        {"name": "price", "kind": "numeric", "part": "candidate"},
    ]
    return parse_spec({"schema_version": 1, "name": "tiny", "fields": fields}, "test")


def _encoded(seed: int, rows: int) -> tuple[Encoded, np.ndarray]:
    """Rows and labels; half of the ids are clicked, and a high price turns a click off."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(1, IDS, (2, rows), dtype=np.int32)
    price = rng.normal(0, 1, rows).astype(np.float32)
    label = ((item % 2 == 0) & (price < 1)).astype(np.float32)
    return Encoded({"user_id": user, "id": item}, {"price": price}), label


@pytest.fixture(scope="module")
def data() -> TrainingData:
    train, target = _encoded(0, ROWS)
    return TrainingData(train, target, *_encoded(1, 500))


def _train(
    spec: FeatureSpec,
    data: TrainingData,
    seed: int = 0,
    *,
    learning_rate: float = 1e-2,
    averaging: float = 0.9,
    epochs: int = 6,
    patience: int = 6,
) -> tuple[RankingModel, list[EpochReport]]:
    torch.manual_seed(0)
    model = build(DcnV2Settings(cross_layers=1, hidden=(8,)), spec)
    settings = TrainingSettings(epochs=epochs, patience=patience, batch_size=200, learning_rate=learning_rate, averaging=averaging)
    return model, loop.train(model, data, settings, seed, lambda _: None)


def test_a_learnable_problem_is_learnt(spec: FeatureSpec, data: TrainingData) -> None:
    model, history = _train(spec, data)
    assert auc(data.label, loop.logits(model, data.validation)) > 0.95
    assert history[-1].loss < history[0].loss
    assert [report.epoch for report in history] == list(range(1, len(history) + 1))


def test_the_same_seed_gives_the_same_weights(spec: FeatureSpec, data: TrainingData) -> None:
    first, again, other = (_train(spec, data, seed, epochs=2)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_the_best_epoch_is_kept(averaging: float, spec: FeatureSpec, data: TrainingData) -> None:
    """Validation labels are turned round, so that learning makes the AUC fall: the first epoch is the best."""
    against = TrainingData(data.train, data.target, data.validation, 1 - data.label)
    model, history = _train(spec, against, averaging=averaging, patience=6)
    scores = [report.validation_auc for report in history]
    assert scores[-1] < max(scores)
    assert auc(against.label, loop.logits(model, against.validation)) == pytest.approx(max(scores), abs=1e-12)


def test_training_stops_when_patience_ends(spec: FeatureSpec, data: TrainingData) -> None:
    against = TrainingData(data.train, data.target, data.validation, 1 - data.label)
    _, history = _train(spec, against, epochs=30, patience=2)
    best = max(history, key=lambda report: report.validation_auc).epoch
    assert len(history) == best + 2 < 30


def test_averaging_does_not_steer_the_steps(spec: FeatureSpec, data: TrainingData) -> None:
    """The average is evaluated and kept; the optimizer goes on from the last step: losses are those without averaging."""
    (_, without), (_, averaged) = (_train(spec, data, averaging=a, epochs=3) for a in (0.0, 0.9))
    assert [r.loss for r in averaged] == pytest.approx([r.loss for r in without], rel=1e-6)
    assert [r.validation_auc for r in averaged] != [r.validation_auc for r in without]


def test_a_loss_that_is_no_number_stops_with_advice(spec: FeatureSpec, data: TrainingData) -> None:
    broken = TrainingData(data.train, np.where(np.arange(ROWS) == 7, np.nan, data.target).astype(np.float32), data.validation, data.label)
    with pytest.raises(FloatingPointError, match=r"in epoch 1; try a lower learning_rate than 0\.01"):
        _train(spec, broken)


def test_unseen_rows_are_settled_after_training(spec: FeatureSpec, data: TrainingData) -> None:
    model, _ = _train(spec, data, epochs=1)
    table = model.get_submodule("embeddings.tables.1")
    assert isinstance(table, torch.nn.Embedding)
    assert not table.weight[IDS:].any(), "unseen = zero"
    assert table.weight[1:IDS].abs().sum(dim=1).min() > 0


def test_the_model_ends_in_evaluation_mode(spec: FeatureSpec, data: TrainingData) -> None:
    assert not _train(spec, data, epochs=1)[0].training


@pytest.mark.parametrize(
    "setting", [{"epochs": 0}, {"learning_rate": 0.0}, {"averaging": 1.0}, {"grade_weight": 1.1}, {"leraning_rate": 1e-3}]
)
def test_settings_out_of_bounds_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        TrainingSettings(**setting)  # type: ignore[arg-type]
