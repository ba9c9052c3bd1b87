"""SmoothQuant: float answers stay as they are, to the bit; int8 ones come closer to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize.passes.base import CalibrationError, Context, Feeds, PassNotApplicable
from optimize.passes.registry import UnknownPass, parse_pass
from optimize.passes.smooth_quant import divisors
from tests.graphs import drawn, graph, kinds, run

STEP = parse_pass("smooth_quant")
K, M = 8, 6

SIZES = np.exp2(np.arange(K) - 2.0).astype(np.float32)
"""Of the input channels: from 1/4 to 32."""


def _runs(*shape: int, count: int = 16) -> list[Feeds]:
    return [{"x": drawn(*shape, seed=100 + i) * SIZES} for i in range(count)]


def _smoothed(text: str, shape: Sequence[int] = (16, K), **constants: object) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Before and after, held to equal answers."""
    before = graph(text, **constants)
    after = STEP.apply(before, Context(calibration=_runs(*shape)))
    x = {"x": drawn(*shape) * SIZES}
    for expected, found in zip(run(before, x), run(after, x), strict=True):
        np.testing.assert_array_equal(found, expected)
    return before, after


def _spread(model: onnx.ModelProto, name: str) -> float:
    """Of the magnitudes of the rows of a weight."""
    (held,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
    rows = np.abs(held).max(axis=1)
    return float(rows.max() / rows.min())


def test_channels_of_an_input_are_divided_by_a_product() -> None:
    _, after = _smoothed(f"(float[N,{K}] x) => (float[N,{M}] y) {{ y = MatMul(x, w) }}", w=np.ones((K, M), np.float32))
    assert kinds(after) == {"Mul": 1, "MatMul": 1}
    assert [node.name for node in after.graph.node][1] == "MatMul_0", "patterns of `keep` still find it"
    assert _spread(after, "w/smoothed") == pytest.approx(2 ** (7 / 2), rel=0.5), "half of the size has moved"


@pytest.mark.parametrize(
    ("norm", "constants"),
    [
        ("LayerNormalization(x, g, c)", ("g", "c")),
        ("LayerNormalization(x, g)", ("g",)),
        ("SimplifiedLayerNormalization(x, g)", ("g",)),
        ("com.microsoft.SkipLayerNormalization(x, x, g, c)", ("g", "c")),
    ],
)
def test_a_normalization_divides_for_its_readers(norm: str, constants: Sequence[str]) -> None:
    text = f"(float[B,N,{K}] x) => (float[B,N,{M}] y, float[B,N,{M}] z) {{ h = {norm} y = MatMul(h, v) z = MatMul(h, w) }}"
    values = {"g": SIZES, "c": drawn(K)}
    before, after = _smoothed(text, (2, 16, K), v=drawn(K, M, seed=1), w=drawn(K, M, seed=2), **{name: values[name] for name in constants})
    assert kinds(after) == kinds(before)


@pytest.mark.parametrize("attributes", ["", "<transB: int = 1>", "<alpha: float = 0.5, beta: float = 2.0>"])
@pytest.mark.parametrize("bias", ["b", "one"])
def test_a_linear_layer_in_front_divides_its_outputs(attributes: str, bias: str) -> None:
    u = drawn(K, K, seed=1) * SIZES
    before, after = _smoothed(
        f"(float[N,{K}] x) => (float[N,{M}] y) {{ h = Gemm {attributes} (x, u, {bias}) r = Relu(h) y = MatMul(r, w) }}",
        u=u.T if "transB" in attributes else u,
        w=drawn(K, M, seed=3),
        **({"b": drawn(K, seed=2)} if bias == "b" else {"one": np.array([0.5], np.float32)}),
    )
    assert kinds(after) - kinds(before) == {"Mul": 1}, "for x alone"


def test_a_product_with_a_sum_divides_both() -> None:
    _, after = _smoothed(
        f"(float[N,{K}] x) => (float[N,{M}] y) {{ p = MatMul(x, u) h = Add(b, p) y = MatMul(h, w) }}",
        u=drawn(K, K, seed=1) * SIZES,
        b=drawn(K, seed=2),
        w=drawn(K, M, seed=3),
    )
    assert kinds(after)["Mul"] == 1


READ_BY_OTHERS = {
    "a sum": "h = LayerNormalization(x, g) p = MatMul(h, w) y = Add(p, h)",
    "an output": "h = LayerNormalization(x, g) y = MatMul(h, w) z = Identity(h)",
    "an activation": "n = LayerNormalization(x, g) h = Sigmoid(n) y = MatMul(h, w)",
    "the value before the activation": "h = MatMul(x, w) r = Relu(h) p = MatMul(r, w) y = Add(p, h)",
}


@pytest.mark.parametrize("body", READ_BY_OTHERS.values(), ids=READ_BY_OTHERS.keys())
def test_what_others_read_is_left_as_it_is(body: str) -> None:
    outputs = f"float[N,{K}] y, float[N,{K}] h" if "Identity" in body else f"float[N,{K}] y"
    body = body.replace("z = Identity(h)", "")
    constants = {"g": SIZES} if "g)" in body else {}
    _, after = _smoothed(f"(float[N,{K}] x) => ({outputs}) {{ {body} }}", w=drawn(K, K) * SIZES, **constants)
    assert kinds(after)["Mul"] == len([1 for node in after.graph.node if node.op_type == "MatMul"])


def test_weights_that_others_read_stay() -> None:
    _, after = _smoothed(f"(float[N,{K}] x) => (float[N,{K}] y, float[{K},{K}] z) {{ y = MatMul(x, w) z = Identity(w) }}", w=drawn(K, K))
    assert {"w", "w/smoothed"} <= {t.name for t in after.graph.initializer}


def test_layers_that_read_the_same_share_a_scale() -> None:
    _, after = _smoothed(
        f"(float[N,{K}] x) => (float[N,{M}] y, float[N,{M}] z) {{ y = MatMul(x, v) z = MatMul(x, w) }}",
        v=drawn(K, M),
        w=drawn(K, M, seed=1),
    )
    assert kinds(after)["Mul"] == 1


@pytest.mark.parametrize("base", ["int8_dynamic", "int8_static"])
def test_int8_comes_closer(base: str) -> None:
    model, context = (
        graph(f"(float[N,{K}] x) => (float[N,{M}] y) {{ y = MatMul(x, w) }}", w=drawn(K, M) / SIZES[:, None]),
        Context(_runs(64, K)),
    )
    x = {"x": drawn(64, K) * SIZES}
    (expected,) = run(model, x)
    plain, smooth = (
        np.linalg.norm(run(parse_pass(base).apply(step, context), x)[0] - expected) / np.linalg.norm(expected)
        for step in (model, STEP.apply(model, context))
    )
    # Channels of 1/4 have a step of 32/64: nothing of them is left, half of the answer is noise. Measured 0.11 and 0.011.
    assert plain > 4 * smooth


def test_divisors_are_powers_of_two_and_leave_dead_channels() -> None:
    found = divisors(np.array([0.0, 1.0, 3.0, 100.0], np.float32), [np.array([[1.0], [0.0], [1.0], [1.0]], np.float32)], 0.5)
    assert (found[:2] == 1).all()
    assert (np.exp2(np.rint(np.log2(found))) == found).all()
    assert found[3] > found[2]


def test_a_model_with_nothing_to_move_is_refused() -> None:
    even = graph(f"(float[N,{K}] x) => (float[N,{M}] y) {{ y = MatMul(x, w) }}", w=np.ones((K, M), np.float32))
    runs = [{"x": np.ones((4, K), np.float32)}] * 8
    with pytest.raises(PassNotApplicable, match="the model has no linear layer whose input channels differ in size"):
        STEP.apply(even, Context(calibration=runs))
    with pytest.raises(CalibrationError, match="pass 'smooth_quant' needs calibration data, at least 8 runs, and got 0"):
        STEP.apply(even)
    with pytest.raises(UnknownPass, match="alpha=1"):
        parse_pass("smooth_quant:alpha=1")
