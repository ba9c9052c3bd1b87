"""What every ranking architecture must keep, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch

from optimize.data.interactions import Interactions
from optimize.export.files import save_graph
from optimize.export.parity import BATCH_SIZES, TOLERANCE, check_parity
from optimize.export.to_onnx import export_ranking
from optimize.features.encode import Encoded, encode
from optimize.models.base import RankingModel
from optimize.models.embeddings import SplitLinear
from optimize.models.registry import ModelSettings, build
from serving.contract.fields import MISSING_INTEGER, MISSING_STRING, REQUEST_INDEX, CategoricalField, FeatureSpec
from serving.contract.manifest import ranking_signature
from serving.runtime.session import GraphSession

SETTINGS = {settings.model_fields["architecture"].default: settings for settings in get_args(get_args(ModelSettings)[0])}
ROWS = 64
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""Sums of under 100 float32 products in another order: 100 · 2**-24 = 6e-6 of their magnitude (see optimize/export/parity.py)."""

Make = Callable[..., RankingModel]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _make(architecture: str, spec: FeatureSpec, seed: int = 0) -> RankingModel:
    """A model with weights and a calibration that matter: the tables are drawn wide, so that every field moves the output."""
    torch.manual_seed(seed)
    model = build(SETTINGS[architecture](hidden=(8, 4)), spec).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=0.5)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
    model.scale.fill_(0.8)
    model.offset.fill_(-0.3)
    return model


@pytest.fixture(scope="module")
def model(architecture: str, tiny_spec: FeatureSpec) -> RankingModel:
    return _make(architecture, tiny_spec)


def _columns(spec: FeatureSpec, rows: int, seed: int = 0, *, missing: float = 0.2) -> dict[str, np.ndarray]:
    """Random values of every field, some missing; lists are padded at the end."""
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {}
    for field in spec.fields:
        if not isinstance(field, CategoricalField):
            columns[field.name] = np.where(rng.random(rows) < missing, np.nan, rng.random(rows) * 50).astype(np.float32)
            continue
        ids: Any = rng.integers(0, 30, (rows, field.max_values))
        values = ids.astype(np.int64) if field.dtype == "int64" else np.char.add("v", ids.astype(str)).astype(object)
        kept = np.where(rng.random(rows) < missing, 0, rng.integers(1, field.max_values + 1, rows))
        values[np.arange(field.max_values) >= kept[:, None]] = MISSING_INTEGER if field.dtype == "int64" else MISSING_STRING
        columns[field.name] = values if field.is_list else values[:, 0]
    return columns


def _interactions(columns: dict[str, np.ndarray]) -> Interactions:
    rows = len(next(iter(columns.values())))
    return Interactions(columns, np.zeros(rows, np.float32), np.full(rows, "u", object), np.zeros(rows, np.int64))


def _tensors(encoded: Encoded) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {k: torch.from_numpy(v) for k, v in encoded.rows.items()}, {k: torch.from_numpy(v) for k, v in encoded.numbers.items()}


def _probabilities(model: RankingModel, columns: dict[str, np.ndarray]) -> torch.Tensor:
    """Calibrated probabilities of interactions."""
    with torch.inference_mode():
        return torch.sigmoid(model.scale * model.interaction_logits(*_tensors(encode(model.spec, columns))) + model.offset)


def _feeds(columns: dict[str, np.ndarray], index: np.ndarray, spec: FeatureSpec) -> dict[str, np.ndarray]:
    """Requests with their candidates: rows of the request's fields as they are, those of the candidates as many as `index`."""
    requests = int(index.max()) + 1
    cut = {f.name: columns[f.name][: len(index) if f.part == "candidate" else requests] for f in spec.fields}
    return {**cut, REQUEST_INDEX: index}


def _spread(feeds: dict[str, np.ndarray], spec: FeatureSpec) -> dict[str, np.ndarray]:
    """The same as interactions: the request's values repeated for each candidate."""
    return {f.name: feeds[f.name] if f.part == "candidate" else feeds[f.name][feeds[REQUEST_INDEX]] for f in spec.fields}


@pytest.fixture(scope="module")
def columns(tiny_spec: FeatureSpec) -> dict[str, np.ndarray]:
    return _columns(tiny_spec, ROWS)


@pytest.fixture(scope="module")
def graph(model: RankingModel, tmp_path_factory: pytest.TempPathFactory) -> GraphSession:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    save_graph(export_ranking(model), path)
    return GraphSession(path, threads=1)


def test_weights_are_a_function_of_the_seed(architecture: str, tiny_spec: FeatureSpec) -> None:
    first, again, other = (_make(architecture, tiny_spec, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_every_field_moves_the_output(model: RankingModel, columns: dict[str, np.ndarray], tiny_spec: FeatureSpec) -> None:
    before, others = _probabilities(model, columns), _columns(tiny_spec, ROWS, seed=1, missing=0.0)
    for field in tiny_spec.fields:
        assert not torch.allclose(_probabilities(model, {**columns, field.name: others[field.name]}), before), field.name


def test_export_answers_like_the_model(model: RankingModel, graph: GraphSession, columns: dict[str, np.ndarray]) -> None:
    results = check_parity(model, graph, _interactions(columns))
    assert tuple(r.candidates for r in results) == BATCH_SIZES == (1, 3, 64)
    assert all(r.max_difference <= TOLERANCE for r in results)


def test_parity_check_notices_another_model(model: RankingModel, graph: GraphSession, columns: dict[str, np.ndarray]) -> None:
    other = _make(next(n for n in SETTINGS if isinstance(model, type(_make(n, model.spec)))), model.spec, seed=9)
    with pytest.raises(Exception, match="graph and model differ"):
        check_parity(other, graph, _interactions(columns))


def test_export_has_the_signature_and_no_loop(graph: GraphSession, tiny_spec: FeatureSpec) -> None:
    graph.require(ranking_signature(tiny_spec))
    exported = onnx.load(str(graph.path))
    assert [tensor.name for tensor in exported.graph.input] == [tensor.name for tensor in ranking_signature(tiny_spec).inputs]
    assert not {"Loop", "Scan", "If", "SequenceEmpty"} & {node.op_type for node in exported.graph.node}
    assert {opset.domain for opset in exported.opset_import} == {"", "com.microsoft"}


@pytest.mark.parametrize("index", [[0, 0, 0, 0, 0], [0, 1, 1, 2, 2, 2, 2], [2, 0, 1, 0, 2], [0]])
def test_stacked_requests_answer_like_repeated_rows(index: list[int], model: RankingModel, graph: GraphSession, columns: dict[str, np.ndarray]) -> None:  # fmt: skip
    feeds = _feeds(columns, np.array(index, np.int64), model.spec)
    expected = _probabilities(model, _spread(feeds, model.spec)).numpy()
    np.testing.assert_allclose(graph.run(feeds)[0], expected, **CLOSE)


def test_forward_equals_interaction_logits(model: RankingModel, columns: dict[str, np.ndarray]) -> None:
    rows, numbers = _tensors(encode(model.spec, columns))
    with torch.inference_mode():
        whole = model(*rows.values(), *numbers.values(), torch.arange(ROWS))
    torch.testing.assert_close(whole, _probabilities(model, columns), **CLOSE)


def test_the_requests_half_of_first_layers_runs_once_a_request(model: RankingModel, columns: dict[str, np.ndarray]) -> None:
    requests, candidates = 2, 10
    index = np.repeat(np.arange(requests), candidates // requests)
    feeds = _feeds(columns, index, model.spec)
    rows, numbers = _tensors(encode(model.spec, _spread(feeds, model.spec)))
    request = encode(model.spec, {f.name: columns[f.name][:requests] for f in model.spec.fields})
    for hashed in model.spec.hashed:
        if not model.spec.is_per_candidate(hashed):
            rows[hashed.name] = torch.from_numpy(request.rows[hashed.name])
    for number in model.spec.numeric:
        if not model.spec.is_per_candidate(number):
            numbers[number.name] = torch.from_numpy(request.numbers[number.name])
    seen: list[tuple[int, int]] = []
    halves = [m for m in model.modules() if isinstance(m, SplitLinear)]
    hooks = [m.request.register_forward_hook(lambda _m, x, _y: seen.append((requests, x[0].shape[0]))) for m in halves if m.request]
    hooks += [m.candidate.register_forward_hook(lambda _m, x, _y: seen.append((candidates, x[0].shape[0]))) for m in halves]
    try:
        with torch.inference_mode():
            model(*rows.values(), *numbers.values(), torch.from_numpy(index))
    finally:
        for hook in hooks:
            hook.remove()
    assert len(halves) >= 2
    assert len(seen) == 2 * len(halves)
    assert all(expected == found for expected, found in seen)


def test_the_exported_request_halves_run_before_rows_are_repeated(graph: GraphSession) -> None:
    """What is repeated by `request_index` is the product of a request's half, so that product has R rows and not N."""
    exported = onnx.load(str(graph.path)).graph
    producers = {output: node for node in exported.node for output in node.output}

    def comes_from_index(name: str) -> bool:
        return name == REQUEST_INDEX or (
            name in producers and len(producers[name].input) <= 2 and comes_from_index(producers[name].input[0])
        )

    repeats = [
        node for node in exported.node if node.op_type == "Gather" and node.name.startswith("model/") and comes_from_index(node.input[1])
    ]
    repeated = {node.output[0] for node in repeats}
    halves = [producers[node.input[0]] for node in repeats if producers[node.input[0]].op_type in ("Gemm", "MatMul")]
    assert len(halves) >= 2
    for half in halves:
        assert any("request.weight" in name for name in half.input)
        assert half.input[0] not in repeated


def test_shuffled_candidates_give_shuffled_answers(model: RankingModel, graph: GraphSession, columns: dict[str, np.ndarray]) -> None:
    feeds = _feeds(columns, np.repeat(np.arange(4), 8), model.spec)
    order = np.random.default_rng(0).permutation(32)
    candidates = {f.name for f in model.spec.of_part("candidate")} | {REQUEST_INDEX}
    shuffled = {name: feed[order] if name in candidates else feed for name, feed in feeds.items()}
    np.testing.assert_allclose(graph.run(shuffled)[0], graph.run(feeds)[0][order], **CLOSE)


def test_batch_of_one_equals_batch_of_many(model: RankingModel, columns: dict[str, np.ndarray]) -> None:
    together = _probabilities(model, columns)
    alone = torch.cat([_probabilities(model, {k: v[i : i + 1] for k, v in columns.items()}) for i in range(8)])
    torch.testing.assert_close(alone, together[:8], **CLOSE)


def test_unseen_ids_and_missing_values_give_probabilities(model: RankingModel, graph: GraphSession, tiny_spec: FeatureSpec) -> None:
    unseen: dict[str, np.ndarray] = {}
    for field in tiny_spec.fields:
        if isinstance(field, CategoricalField):
            value: Any = 2**63 - 1 if field.dtype == "int64" else "ein nie gesehener Wert ☃"
            shape = (3, field.max_values) if field.is_list else (3,)
            unseen[field.name] = np.full(shape, value, np.int64 if field.dtype == "int64" else object)
        else:
            unseen[field.name] = np.array([3e38, -3e38, 0], np.float32)
    for columns in (unseen, _columns(tiny_spec, 3, missing=1.0)):
        for found in (_probabilities(model, columns).numpy(), graph.run(_feeds(columns, np.array([0, 0, 0]), tiny_spec))[0]):
            assert np.isfinite(found).all()
            assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("pooling", ["mean", "sum", "sqrtn"])
@pytest.mark.parametrize("missing", ["own", "zero"])
def test_lists_pool_alike_in_training_and_in_use(pooling: str, missing: str, architecture: str, tiny_spec: FeatureSpec) -> None:
    document = tiny_spec.model_dump()
    for field in [*document["fields"], *document["crosses"]]:
        if field.get("max_values", 1) > 1 or field["name"] == "device_x_tags":
            field |= {"pooling": pooling, "missing": missing}
    spec = FeatureSpec.model_validate(document)
    model = _make(architecture, spec)
    rows, numbers = _tensors(encode(spec, _columns(spec, ROWS, missing=0.4)))
    in_use = model.eval().interaction_logits(rows, numbers)
    in_training = model.train().interaction_logits(rows, numbers)
    torch.testing.assert_close(in_training, in_use, **CLOSE)
