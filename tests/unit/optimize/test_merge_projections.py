"""Products of one value, side by side."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize.passes.base import PassNotApplicable
from optimize.passes.merge_projections import MergeProjections
from tests.graphs import drawn, graph, same_answers

FEEDS = {"x": drawn(3, 6), "z": drawn(3, 6, seed=9)}
SIGNATURE = "(float[B, 6] x, float[B, 6] z) => (float[B, 4] p, float[B, 2] q)"
CONSTANTS = {"v": drawn(6, 4, seed=1), "w": drawn(6, 2, seed=2), "b": drawn(4, seed=3), "c": drawn(2, seed=4), "t": drawn(4, 6, seed=5)}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("p = MatMul(x, v) q = MatMul(x, w)", {"MatMul": 1, "Split": 1}),
        ("m = MatMul(x, v) p = Add(b, m) q = MatMul(x, w)", {"MatMul": 1, "Add": 1, "Split": 1}),
        ("p = Gemm <transB = 1> (x, t, b) q = Gemm <alpha = 0.5, beta = 2.0> (x, w, c)", {"Gemm": 1, "Split": 1}),
        ("p = Gemm(x, v) q = MatMul(x, w)", {"MatMul": 1, "Split": 1}),
    ],
)
def test_products_of_one_value_are_one_product(body: str, expected: dict[str, int]) -> None:
    assert same_answers(MergeProjections(), graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS), FEEDS) == expected


def test_a_product_that_others_read_before_its_bias_is_added_keeps_both() -> None:
    body = "m = MatMul(x, v) n = Add(m, b) p = Mul(m, n) q = MatMul(x, w)"
    assert same_answers(MergeProjections(), graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS), FEEDS)["Add"] == 1


def test_the_weights_lie_side_by_side_and_no_copy_stays() -> None:
    model = MergeProjections().apply(graph(f"{SIGNATURE} {{ p = MatMul(x, v) q = MatMul(x, w) }}", **CONSTANTS))
    matrices = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2]
    assert len(matrices) == 1
    np.testing.assert_array_equal(matrices[0], np.concatenate([CONSTANTS["v"], CONSTANTS["w"]], axis=1))


@pytest.mark.parametrize(
    "body",
    [
        "p = MatMul(x, v) q = MatMul(z, w)",  # of different values
        "p = MatMul(x, v) r = Relu(w) q = MatMul(x, r)",  # weights that are computed
        "p = Gemm(x, v) xt = Transpose(x) q = Gemm <transA = 1> (xt, w)",
    ],
)
def test_near_misses_are_left_alone(body: str) -> None:
    with pytest.raises(PassNotApplicable, match="no two matrix products"):
        MergeProjections().apply(graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS))


def test_an_old_opset_is_refused_with_the_reason() -> None:
    with pytest.raises(PassNotApplicable, match="its opset is 12"):
        MergeProjections().apply(graph(f"{SIGNATURE} {{ p = MatMul(x, v) q = MatMul(x, w) }}", 12, **CONSTANTS))
