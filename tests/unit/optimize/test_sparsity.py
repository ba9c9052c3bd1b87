"""Zeros in linear layers: how many, which, and where none may be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize.passes.base import OptionError, PassNotApplicable
from optimize.passes.prune_2_4 import Prune24
from optimize.passes.prune_magnitude import PruneMagnitude
from optimize.passes.registry import UnknownPass, parse_pass
from tests.graphs import drawn, graph, run

X = {"x": drawn(5, 8)}
SIGNATURE = "(float[B, 8] x) => (float[B, M] y)"


def _weights(model: onnx.ModelProto) -> list[np.ndarray]:
    return [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 2]


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.95])
def test_the_smallest_share_of_each_matrix_is_zero_and_the_rest_is_as_it_was(sparsity: float) -> None:
    v, w = drawn(8, 6, seed=1), drawn(6, 3, seed=2) * 100
    model = graph(f"{SIGNATURE} {{ h = MatMul(x, v) r = Relu(h) y = Gemm(r, w) }}", v=v, w=w)
    for before, after in zip((v, w), _weights(PruneMagnitude(sparsity).apply(model)), strict=True):
        kept = after != 0
        assert (~kept).sum() == int(sparsity * before.size)
        np.testing.assert_array_equal(after[kept], before[kept])
        assert np.abs(before[~kept]).max() <= np.abs(before[kept]).min()


@pytest.mark.parametrize(("body", "shape", "axis"), [("MatMul(x, w)", (8, 5), 0), ("Gemm <transB = 1> (x, w)", (5, 8), 1)])
def test_two_of_each_four_inputs_of_an_output_stay_and_they_are_the_largest(body: str, shape: tuple[int, int], axis: int) -> None:
    w = drawn(*shape)
    (after,) = _weights(Prune24().apply(graph(f"{SIGNATURE} {{ y = {body} }}", w=w)))
    before, after = np.moveaxis(np.abs(w), axis, 0), np.moveaxis(np.abs(after), axis, 0)
    for start in (0, 4):
        group = before[start : start + 4]
        np.testing.assert_array_equal(after[start : start + 4], np.where(group >= np.sort(group, axis=0)[2], group, 0))


def test_inputs_that_fill_no_group_count_as_if_zeros_followed() -> None:
    w = np.arange(1, 8, dtype=np.float32)[:, None]
    model = graph("(float[B, 7] x) => (float[B, 1] y) { y = MatMul(x, w) }", w=w)
    assert _weights(Prune24().apply(model))[0].ravel().tolist() == [0, 0, 3, 4, 0, 6, 7]


def test_equal_weights_lose_no_more_than_the_share() -> None:
    model = graph(f"{SIGNATURE} {{ y = MatMul(x, w) }}", w=np.ones((8, 5), np.float32))
    assert (_weights(PruneMagnitude(0.25).apply(model))[0] == 0).sum() == 10
    assert (_weights(Prune24().apply(model))[0] == 0).sum() == 20


def test_layers_that_share_their_weights_still_do_and_a_table_keeps_its_own() -> None:
    body = "a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) rows = Gather(w, ids) y = Add(c, rows)"
    model = graph(f"{SIGNATURE} {{ {body} }}", w=drawn(8, 8), ids=np.array([0]))
    after = PruneMagnitude(0.5).apply(model)
    products = [node.input[1] for node in after.graph.node if node.op_type == "MatMul"]
    assert products[0] == products[1]
    assert sorted((w == 0).sum() for w in _weights(after)) == [0, 32]


def test_factors_of_a_gemm_stay() -> None:
    model = graph(f"{SIGNATURE} {{ y = Gemm <alpha = 0.3, beta = 2.0> (x, w, b) }}", w=drawn(8, 5), b=drawn(5))
    after = PruneMagnitude().apply(model)
    np.testing.assert_allclose(run(after, X)[0], 0.3 * X["x"] @ _weights(after)[0] + 2 * drawn(5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "r = Relu(w) y = MatMul(x, r)",  # weights that are computed
        "y = MatMul(w, x)",  # constant on the left
        "y = Gemm <transA = 1> (x, w)",
        "y = Gather(w, x_ids)",
        "y = Mul(x, w)",
    ],
)
@pytest.mark.parametrize("kind", ["prune_magnitude", "prune_2_4"])
def test_near_misses_are_left_alone(kind: str, body: str) -> None:
    with pytest.raises(PassNotApplicable, match="the model has no linear layer"):
        parse_pass(kind).apply(graph(f"{SIGNATURE} {{ {body} }}", w=drawn(8, 8), x_ids=np.array([1])))


def test_weights_that_the_caller_may_give_are_left_alone() -> None:
    model = graph("(float[B, 8] x, float[8, 5] w) => (float[B, 5] y) { y = MatMul(x, w) }", w=drawn(8, 5))
    with pytest.raises(PassNotApplicable):
        PruneMagnitude().apply(model)


@pytest.mark.parametrize("sparsity", [0, 1, -0.1, 50, float("nan")])
def test_a_sparsity_that_is_no_share_is_refused_by_name(sparsity: float) -> None:
    with pytest.raises(OptionError, match="sparsity"):
        PruneMagnitude(sparsity)
    with pytest.raises(UnknownPass, match="sparsity"):
        parse_pass(f"prune_magnitude:sparsity={sparsity}")
