"""Pruned torch models: how much is left, that fine-tuning keeps it so, and that they export and answer as before."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")

from optimize.export.files import save_graph  # noqa: E402
from optimize.export.to_onnx import export_ranking  # noqa: E402
from optimize.features.encode import Encoded  # noqa: E402
from optimize.models.base import RankingModel  # noqa: E402
from optimize.models.registry import DcnV2Settings, WideDeepSettings, build  # noqa: E402
from optimize.training.finetune import FINE_TUNING, distilled, finetune  # noqa: E402
from optimize.training.loop import TrainingData, logits  # noqa: E402
from optimize.training.shrink import factor, keep_largest, keep_two_of_four, linear_layers, remove_units  # noqa: E402
from serving.contract.errors import PilotageError  # noqa: E402
from serving.contract.fields import FeatureSpec  # noqa: E402
from serving.contract.manifest import ranking_signature  # noqa: E402
from serving.runtime.session import GraphSession  # noqa: E402

MODELS = {"dcn_v2": DcnV2Settings(cross_layers=2, hidden=(8, 4)), "wide_deep": WideDeepSettings(hidden=(8, 4))}
ROWS = 300


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tiny_spec: FeatureSpec) -> TrainingData:
    rng = np.random.default_rng(0)
    rows = {h.name: rng.integers(1, h.rows, (ROWS, 3) if tiny_spec.is_list(h) else ROWS).astype(np.int32) for h in tiny_spec.hashed}
    encoded = Encoded(rows, {n.name: rng.normal(size=ROWS).astype(np.float32) for n in tiny_spec.numeric})
    label = (rng.random(ROWS) < 0.4).astype(np.float32)
    return TrainingData(encoded, label, encoded, label)


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest, tiny_spec: FeatureSpec) -> RankingModel:
    torch.manual_seed(0)
    return build(MODELS[request.param], tiny_spec).eval()


def _zeros(model: RankingModel) -> list[tuple[int, int]]:
    return [(int((layer.weight == 0).sum()), layer.weight.numel()) for layer in linear_layers(model)]


def _tune(model: RankingModel, data: TrainingData, **options: object) -> None:
    settings = FINE_TUNING.model_copy(update={"batch_size": 50, "learning_rate": 1e-2})
    finetune(model, data, settings, 0, lambda _: None, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("averaging", [0.0, 0.98])
def test_zeros_stay_zero_while_the_rest_is_trained(model: RankingModel, data: TrainingData, averaging: float) -> None:
    masks = keep_largest(model, 0.7)
    before = _zeros(model)
    assert before == [(int(0.7 * size), size) for _, size in before]
    weights = [layer.weight.detach().clone() for layer in linear_layers(model)]
    settings = FINE_TUNING.model_copy(update={"batch_size": 50, "averaging": averaging})
    finetune(model, data, settings, 0, lambda _: None, masks=masks)
    assert _zeros(model) == before
    assert all(not torch.equal(layer.weight, old) for layer, old in zip(linear_layers(model), weights, strict=True))


@pytest.mark.parametrize("train_tables", [False, True])
def test_embedding_tables_are_trained_only_where_that_is_asked_for(model: RankingModel, data: TrainingData, train_tables: bool) -> None:
    table = model.embeddings.tables[0]
    used = np.unique(data.train.rows["user_id"])
    before = table.weight.detach().clone()
    _tune(model, data, train_tables=train_tables)
    assert torch.equal(table.weight[used], before[used]) != train_tables
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_two_of_each_four_inputs_stay(model: RankingModel, data: TrainingData) -> None:
    full = [layer.weight.detach().abs() for layer in linear_layers(deepcopy(model))]
    _tune(model, data, masks=keep_two_of_four(model))
    for layer, old in zip(linear_layers(model), full, strict=True):
        for start in range(0, layer.in_features - 3, 4):
            kept = layer.weight[:, start : start + 4] != 0
            assert (kept.sum(dim=1) == 2).all()
            group = old[:, start : start + 4]
            assert (torch.where(kept, group, torch.inf).amin(dim=1) >= torch.where(kept, 0, group).amax(dim=1)).all()


def test_units_that_never_vary_go_without_a_trace(model: RankingModel, data: TrainingData) -> None:
    with torch.no_grad():
        first = model.first_deep
        for layer in (first.request, first.candidate):
            layer.weight[[1, 5]] = 0
        linear_layers(model.deep)[0].weight[[0, 2]] = 0
    expected = logits(model, data.train)
    before = sum(p.numel() for p in model.parameters())
    remove_units(model, 0.25, data.train)
    assert first.candidate.out_features == 6
    assert sum(p.numel() for p in model.parameters()) < before
    deep = linear_layers(model.deep)[0]
    assert (deep.in_features, deep.out_features) == (6, 3)
    np.testing.assert_allclose(logits(model, data.train).mean(), expected.mean(), atol=1e-5)
    remove_units(model, 0.99, data.train)
    assert linear_layers(model.deep)[0].in_features >= 1


def test_a_layer_of_low_rank_is_factored_without_a_trace(model: RankingModel, data: TrainingData) -> None:
    wide = [layer for layer in linear_layers(model) if 2 * (layer.in_features + layer.out_features) < layer.weight.numel()]
    assert wide
    with torch.no_grad():
        for layer in wide:
            u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(u[:, :2] * s[:2] @ v[:2])
    expected = logits(model, data.train)
    factor(model, 2, data.train)
    assert not set(wide) & set(linear_layers(model))
    np.testing.assert_allclose(logits(model, data.train), expected, atol=1e-4)


def test_a_pruned_model_trains_and_exports_as_usual(tiny_spec: FeatureSpec, data: TrainingData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(MODELS["dcn_v2"], tiny_spec)
    remove_units(model, 0.5, data.train)
    factor(model, 4, data.train)
    masks = keep_largest(model, 0.5)
    _tune(model, data, masks=masks, teacher_logit=logits(deepcopy(model), data.train))
    path = tmp_path / "pruned.onnx"
    save_graph(export_ranking(model), path)
    GraphSession(path, threads=1).require(ranking_signature(tiny_spec))
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    for name, parameter in model.named_parameters():
        if isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.Linear):
            np.testing.assert_array_equal(held[f"model/{name}"], parameter.detach().numpy())


def test_distillation_is_the_weighted_sum_of_both_losses() -> None:
    rng = np.random.default_rng(0)
    label, teacher = (rng.random(50) < 0.3).astype(np.float32), rng.normal(size=50).astype(np.float32)
    z = torch.from_numpy(rng.normal(size=50).astype(np.float32))
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    mixed = loss(z, torch.from_numpy(distilled(label, teacher, 0.3)))
    both = 0.7 * loss(z, torch.from_numpy(label)) + 0.3 * loss(z, torch.sigmoid(torch.from_numpy(teacher)))
    assert float(mixed) == pytest.approx(float(both), rel=1e-6)
    with pytest.raises(PilotageError, match="share"):
        distilled(label, teacher, 1.5)


def test_an_architecture_without_a_rule_is_refused(data: TrainingData, tiny_spec: FeatureSpec) -> None:
    class Other(RankingModel):
        def raw_logits(self, rows: object, numbers: object, repeat: object) -> object: ...
        def settle_unseen(self, rows: object) -> None: ...

    with pytest.raises(PilotageError, match="hidden units of Other"):
        remove_units(Other(tiny_spec), 0.5, data.train)
