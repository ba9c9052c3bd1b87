from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from benchmarks import optimize  # noqa: E402
from benchmarks.optimize_arms import EXACT, FP32, KEPT, OURS, STOCK, Arm, Kitchen, recipes  # noqa: E402
from benchmarks.optimize_limit import INTEGERS, KERNELS, LARGE, Kernel, limit_ms, product_arm, rate_gops, shapes_ms  # noqa: E402
from benchmarks.optimize_subjects import (  # noqa: E402
    SPEC,
    Budget,
    Subject,
    cosine_figures,
    ne_figures,
    operations_of,
    products_of,
    ranking_subject,
    untrained,
)
from benchmarks.record import Record  # noqa: E402
from optimize.data import clicks  # noqa: E402
from optimize.export.files import save_graph  # noqa: E402
from optimize.passes.registry import parse_pass  # noqa: E402
from optimize.search.subject import Part  # noqa: E402
from serving.contract.fields import load_spec  # noqa: E402
from serving.runtime.session import GraphSession  # noqa: E402
from tests.graphs import drawn, graph  # noqa: E402

COSINE = Budget(cosine_figures, "cosine_min", 0.99, "", at_most=False)


def _subject(name: str = "image_tower") -> Subject:
    model = graph("(float[B, 4] x) => (float[B, 3] y) { y = MatMul(x, w) }", w=drawn(4, 3))
    return Subject(name, name, model, lambda: None, {}, (), {(50, 4, 3): 2}, Part(()), Part(()), COSINE)


def _arm(size_bytes: int, **quality: float) -> Arm:
    return Arm(None, size_bytes, quality, np.empty(0, np.float32))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def wide_subject() -> Subject:
    return ranking_subject(untrained(load_spec(SPEC)), clicks.split(clicks.ClickSettings(impressions=2000), "random"))


@pytest.fixture(scope="module")
def wide(wide_subject: Subject) -> onnx.ModelProto:
    return wide_subject.graph


def test_the_ranker_is_as_wide_as_it_says_and_torch_answers_what_the_graph_answers(wide_subject: Subject, tmp_path: Path) -> None:
    subject = wide_subject
    assert subject.products[500, 429, 429] == 3
    assert {product for product in subject.products if product[1] != 429} == {(500, 512, 256), (500, 256, 128), (500, 557, 1)}
    save_graph(subject.graph, tmp_path / "fp32.onnx")
    session = GraphSession(tmp_path / "fp32.onnx", threads=1)
    with torch.inference_mode():
        eager = subject.eager().numpy()
    # Both sum the same float32 products: see `optimize.export.parity.TOLERANCE`.
    np.testing.assert_allclose(session.run(subject.feeds)[0], eager, atol=1e-5)
    assert len(subject.test.answers(session)) == 200
    assert all(len(feeds["topic"]) == 500 for feeds in subject.calibration)


def test_products_of_linear_layers_and_patches_are_counted() -> None:
    nn = torch.nn
    module = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5))
    found = products_of(module, lambda: module(torch.zeros(2, 3, 8, 8)))
    assert found == {(8, 48, 8): 1, (16, 4, 5): 1, (16, 5, 5): 2}
    assert operations_of(found) == 2 * (8 * 48 * 8 + 16 * 4 * 5 + 2 * 16 * 5 * 5)
    module(torch.zeros(1, 3, 8, 8))
    assert found.total() == 4, "the hooks are gone"


def test_answers_that_are_no_number_are_outside_every_budget() -> None:
    label, reference = np.tile(np.float32([0, 1, 1]), 20), np.tile(np.float32([0.2, 0.7, 0.8]), 20)
    ne = Budget(lambda before, found: ne_figures(label, before, found), "ne_change_high", 0.1, "%", at_most=True)
    assert ne.allows(ne.measure(reference, reference))
    assert not ne.allows(ne.measure(reference, np.where(np.arange(60) == 7, np.float32(np.nan), reference)))
    same = drawn(4, 8)
    assert COSINE.allows(cosine_figures(same, 3 * same))
    assert not COSINE.allows(cosine_figures(same, np.full_like(same, np.nan)))
    assert not COSINE.allows(cosine_figures(same, np.concatenate([same[:3], -same[3:]])))


def test_ratios_pair_the_rounds() -> None:
    assert optimize.ratio({"torch": [6.0, 60.0, 12.0], "ours": [1.0, 10.0, 4.0]}, "torch", "ours") == 6.0


@pytest.mark.parametrize(
    ("allowed", "chosen"),
    [({"a": True, "b": True}, "b"), ({"a": True, "b": False}, "a"), ({"a": False, "b": False}, "b")],
)
def test_the_fastest_recipe_inside_the_budget_is_ours(allowed: Mapping[str, bool], chosen: str) -> None:
    assert optimize.choose({"a": 2.0, "b": 1.0}, allowed) == chosen


def test_aims_say_whether_they_are_met() -> None:
    samples: dict[str, Sequence[float]] = {"torch": [100.0], STOCK: [30.0], OURS: [20.0]}
    arms = {FP32: _arm(400, cosine_min=1.0), STOCK: _arm(100, cosine_min=0.99), OURS: _arm(90, cosine_min=0.995)}
    aims = {aim.name: aim for aim in optimize.aims_of(_subject(), arms, samples, limit=10.0)}
    assert (aims["image_tower_speedup_over_torch"].value, aims["image_tower_speedup_over_torch"].met) == (5.0, False)
    assert (aims["image_tower_speedup_over_stock_int8"].value, aims["image_tower_speedup_over_stock_int8"].met) == (1.5, False)
    assert aims["image_tower_cosine_min"].met
    assert (aims["image_tower_over_int8_limit"].value, aims["image_tower_over_int8_limit"].met) == (2.0, True)


def test_the_size_of_a_ranker_is_held_to_a_share_of_float32() -> None:
    samples: dict[str, Sequence[float]] = {"torch": [8.0], STOCK: [3.0], OURS: [1.0]}
    arms = {FP32: _arm(400, cosine_min=1.0), OURS: _arm(200, cosine_min=0.995)}
    aims = {aim.name: aim for aim in optimize.aims_of(_subject("dcn_v2"), arms, samples, limit=1.0)}
    assert (aims["dcn_v2_file_share"].value, aims["dcn_v2_file_share"].met) == (50.0, False)
    assert aims["dcn_v2_speedup_over_torch"].met


def test_the_limit_is_the_best_integer_rate_on_large_matrices() -> None:
    times: dict[Kernel, float] = {"fp32": 1.0, "int7": 4.0, "int8": 2.0, "uint8": 8.0}
    assert limit_ms(2 * math.prod(LARGE), times) == pytest.approx(2.0)
    assert rate_gops((10, 20, 50), 0.5) == pytest.approx(0.04)


def test_products_at_their_own_shapes_take_the_fastest_kernel_each() -> None:
    small, wide = (5, 8, 8), (5, 8, 32)
    times = {
        ("int7", small): 2.0,
        ("int8", small): 1.0,
        ("uint8", small): 3.0,
        ("int7", wide): 4.0,
        ("int8", wide): 5.0,
        ("uint8", wide): 6.0,
    }
    assert shapes_ms({small: 3, wide: 1}, times) == 7.0  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_multiply_matrices_of_the_shape(kernel: Kernel) -> None:
    (answer,) = product_arm(kernel, (5, 8, 3))(0)  # type: ignore[misc]
    assert answer.shape == (5, 3)
    assert answer.dtype == (np.int32 if kernel in INTEGERS else np.float32)


def test_a_search_is_timed_from_nothing_and_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import optimize_search
    from optimize.search.candidates import parse_candidate

    monkeypatch.setattr(
        optimize_search, "default_candidates", lambda family: [parse_candidate("int8_dynamic")] if family == "transformer" else []
    )
    model = graph("(float[B, 64] x) => (float[B, 32] y) { y = MatMul(x, w) }", w=drawn(64, 32))
    part = Part(tuple({"x": drawn(1, 64, seed=i)} for i in range(4)))
    subject = Subject("image_tower", "image_tower", model, lambda: None, part.feeds[0], (), {}, part, part, COSINE, {1: part.feeds[0]})
    told: list[str] = []
    found = optimize_search.timed(subject, tmp_path, 1, lambda what, _: told.append(what))
    assert [c.name for c in found.report.candidates] == ["fp32", "int8_dynamic"]
    assert found.report.budget.limit == pytest.approx(0.01)
    assert 0 < found.again_s < found.first_s
    assert {path.name for path in tmp_path.iterdir()} == {"first", "again", "cache"}
    findings = optimize.Findings()
    optimize._search(subject, tmp_path / "other", findings, lambda *_: None)
    assert [aim.name for aim in findings.aims] == ["image_tower_search_s", "image_tower_search_again_s"]
    assert all(aim.met for aim in findings.aims)


def test_recipes_share_their_first_passes() -> None:
    kitchen = Kitchen(_subject())
    int7, int8 = (kitchen.cook((*EXACT["image_tower"], f"int8_dynamic:weight_type={each}")) for each in ("int7", "int8"))
    assert {node.op_type for node in int7.graph.node} >= {"MatMulInteger"}
    assert int7.SerializeToString() != int8.SerializeToString()
    assert kitchen.cook(("fuse_gelu",)) is kitchen.subject.graph, "a pass that has nothing to do is left out"


@pytest.mark.parametrize(("flags", "weights"), [(["avx2"], "int7"), (["avx2", "avx512_vnni"], "int8")])
def test_a_quick_run_takes_the_weights_that_suit_the_processor(flags: list[str], weights: str) -> None:
    assert list(recipes("image_tower", flags=flags, is_whole=False)) == [weights]
    assert list(recipes("dcn_v2", flags=flags, is_whole=False)) == ["rank32"]


@pytest.mark.parametrize("name", ["dcn_v2", "image_tower"])
def test_recipes_are_of_passes_that_there_are(name: str) -> None:
    offered = recipes(name, flags=[], is_whole=True)
    assert len(offered) > 2
    assert all(parse_pass(text).name for recipe in offered.values() for text in recipe)


def test_layers_that_stay_float32_are_the_output_and_those_of_the_request(wide: onnx.ModelProto) -> None:
    weights = {tensor.name: list(tensor.dims) for tensor in wide.graph.initializer}
    products = {node.name: weights[node.input[1]] for node in wide.graph.node if node.op_type in ("Gemm", "MatMul")}
    kept = [shape for pattern in KEPT for name, shape in products.items() if fnmatchcase(name, pattern)]
    assert kept == [[1, 557], [429, 193], [512, 193]]


def test_notes_are_printed_only_where_there_are_some() -> None:
    assert "notes" not in Record({}, {}, (), ()).as_dict()
    assert Record({}, {}, (), (), {"rivals": "left out"}).as_dict()["notes"] == {"rivals": "left out"}
