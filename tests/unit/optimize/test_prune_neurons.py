"""Hidden units that may go, which of them do, and graphs in which none may."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize.passes.base import CalibrationError, Context, OptionError, PassNotApplicable
from optimize.passes.prune_neurons import PruneNeurons
from tests.graphs import drawn, graph, run

H = 10
SIGNATURE = "(float[B, 6] x, int64[N] index) => (float[N, 3] y)"
FEEDS = {"x": drawn(7, 6), "index": np.arange(7)}
CALIBRATION = Context(calibration=tuple({"x": drawn(20, 6, seed=s), "index": np.arange(20)} for s in range(3)))
CONSTANTS = {
    "v": drawn(6, H, seed=1), "u": drawn(6, H, seed=2), "b": drawn(H, seed=3), "w": drawn(H, 3, seed=4), "z": drawn(H, 3, seed=5),
    "c": drawn(3, seed=6), "t": drawn(H, 6, seed=7), "wide": drawn(H + 6, 3, seed=8), "slope": drawn(H, seed=9), "half": np.float32(0.5),
    "square": drawn(H, H, seed=10), "norm": np.ones(H, np.float32),
}  # fmt: skip

GRAPHS = {
    "relu": "h = MatMul(x, v) r = Relu(h) y = MatMul(r, w)",
    "gemm": "h = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, t, b) r = Tanh(h) y = Gemm <alpha = 2.0> (r, w, c)",
    "biases": "m = MatMul(x, v) h = Add(b, m) r = Gelu(h) n = MatMul(r, w) y = Add(n, c)",
    "fused": "h = MatMul(x, v) r = com.microsoft.BiasGelu(h, b) y = MatMul(r, w)",
    "spelled_out": "h = MatMul(x, v) s = Mul(h, half) e = Sigmoid(s) r = Mul(h, e) y = MatMul(r, w)",
    "slopes": "h = MatMul(x, v) r = PRelu(h, slope) y = MatMul(r, w)",
    "gated": "h = MatMul(x, v) g = MatMul(x, u) s = Sigmoid(g) r = Mul(h, s) y = MatMul(r, w)",
    "two_readers": "h = MatMul(x, v) r = Relu(h) p = MatMul(r, w) q = MatMul(h, z) y = Add(p, q)",
    "repeated": "h = MatMul(x, v) g = Gather <axis = 0> (h, index) k = MatMul(x, u) s = Add(g, k) r = Relu(s) y = MatMul(r, w)",
    "beside_others": "h = MatMul(x, v) r = Relu(h) j = Concat <axis = 1> (x, r) y = MatMul(j, wide)",
}


def _widths(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    made = {name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input[1:2]}
    return sorted(tuple(t.dims) for t in model.graph.initializer if t.name in made)


@pytest.mark.parametrize("context", [Context(), CALIBRATION], ids=["by weights", "by activations"])
@pytest.mark.parametrize("body", GRAPHS.values(), ids=GRAPHS)
def test_units_that_nothing_depends_on_go_without_a_trace(body: str, context: Context) -> None:
    """Units that always give the same number are the least important, and with calibration that number is kept in the bias."""
    dead = [1, 4, 6, 7]
    constants = {name: np.array(value) for name, value in CONSTANTS.items()}
    for name in ("v", "u"):
        constants[name][:, dead] = 0
    constants["t"][dead] = 0
    if not context.calibration:  # then only units that give nothing can go unnoticed
        constants["b"][dead] = 0
        for name in ("w", "z"):
            constants[name][dead] = 0
        constants["wide"][6:][dead] = 0
    model = graph(f"{SIGNATURE} {{ {body} }}", **constants)
    after = PruneNeurons(share=0.4).apply(model, context)
    assert H not in {size for shape in _widths(after) for size in shape}
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_allclose(run(after, FEEDS)[0], run(model, FEEDS)[0], rtol=1e-4, atol=1e-5)


def test_calibration_keeps_answers_closer_than_weights_alone() -> None:
    constants = dict(CONSTANTS) | {"b": drawn(H, seed=3) * 4}
    model = graph(f"{SIGNATURE} {{ {GRAPHS['biases']} }}", **constants)
    expected = run(model, FEEDS)[0]
    blind, seen = (
        np.abs(run(PruneNeurons(share=0.3).apply(model, context), FEEDS)[0] - expected).mean() for context in (Context(), CALIBRATION)
    )
    assert seen < blind / 2


def test_layers_of_a_chain_each_lose_their_share() -> None:
    body = "h = MatMul(x, v) r = Relu(h) k = MatMul(r, square) s = Relu(k) y = MatMul(s, w)"
    after = PruneNeurons(share=0.3).apply(graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS), CALIBRATION)
    assert _widths(after) == sorted([(6, 7), (7, 7), (7, 3)])


@pytest.mark.parametrize(
    "body",
    [
        "h = MatMul(x, v) r = Softmax(h) y = MatMul(r, w)",
        "h = MatMul(x, v) r = LayerNormalization(h, norm) y = MatMul(r, w)",
        "h = MatMul(x, v) r = Relu(h) p = MatMul(r, w) q = ReduceSum <keepdims = 1> (r) y = Add(p, q)",
        "h = MatMul(x, v) r = Relu(h) y = MatMul(w2, r)",
        "h = MatMul(x, v) k = MatMul(h, square) r = Add(h, k) y = MatMul(r, w)",  # a layer from the units to themselves
        "h = MatMul(x, v) r = Transpose(h) s = Transpose(r) y = MatMul(s, w)",
        "h = MatMul(x, v) g = Gather <axis = 1> (h, order) y = MatMul(g, w)",
        "h = MatMul(x, v) j = Concat <axis = 1> (x, h) k = Relu(j) y = MatMul(k, wide)",
        "h = MatMul(x, v) j = Concat <axis = 0> (h, h) y = MatMul(j, w)",
        "h = MatMul(x, v) p = Gather <axis = 0> (rows, index) r = Mul(h, p) y = MatMul(r, w)",  # rows of a table
        "y = MatMul(x, first)",
    ],
)
def test_near_misses_are_left_alone(body: str) -> None:
    extra = {"order": np.arange(H)[::-1].copy(), "rows": drawn(9, H), "first": drawn(6, 3), "w2": drawn(3, 7)}
    with pytest.raises(PassNotApplicable, match="the model has no hidden units"):
        PruneNeurons(share=0.4).apply(graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS, **extra), CALIBRATION)


def test_units_that_are_an_output_stay() -> None:
    model = graph(f"(float[B, 6] x) => (float[B, 3] y, float[B, {H}] r) {{ {GRAPHS['relu']} }}", **CONSTANTS)
    with pytest.raises(PassNotApplicable):
        PruneNeurons().apply(model)


def test_a_share_of_less_than_one_unit_is_refused() -> None:
    with pytest.raises(PassNotApplicable, match="too few"):
        PruneNeurons(share=0.05).apply(graph(f"{SIGNATURE} {{ {GRAPHS['relu']} }}", **CONSTANTS))


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": drawn(4, 5), "index": np.arange(4)}, "does not run"),
        ({"index": np.arange(4)}, "does not run"),
        ({"x": np.full((4, 6), np.nan, np.float32), "index": np.arange(4)}, "not finite"),
        ({"x": drawn(0, 6), "index": np.arange(0)}, "no rows"),
    ],
)
def test_calibration_data_that_does_not_fit_is_refused(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        PruneNeurons().apply(graph(f"{SIGNATURE} {{ {GRAPHS['relu']} }}", **CONSTANTS), Context(calibration=(feeds,)))


def test_units_without_weights_go_first_and_the_rest_keep_theirs() -> None:
    weights = {"v": np.eye(6, H, dtype=np.float32), "w": drawn(H, 3)}
    after = PruneNeurons(share=0.4).apply(graph(f"{SIGNATURE} {{ {GRAPHS['relu']} }}", **weights))
    held = {tuple(t.dims): numpy_helper.to_array(t) for t in after.graph.initializer}
    np.testing.assert_array_equal(held[6, 6], np.eye(6))
    np.testing.assert_array_equal(held[6, 3], weights["w"][:6])


@pytest.mark.parametrize("share", [0, 1, -1, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(OptionError, match="share"):
        PruneNeurons(share)
