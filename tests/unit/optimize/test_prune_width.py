"""Channels of the residual stream: which go, what becomes of those who read them, and where all stay."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from optimize.passes import prune_width
from optimize.passes.activations import MIN_RUNS
from optimize.passes.base import CalibrationError, Context, PassNotApplicable
from optimize.passes.prune_width import PruneWidth
from tests.graphs import drawn, graph, run

HALF, POSITIONS, IDS = 6, 4, 9
WIDTH = 2 * HALF
FEEDS = {"x": drawn(3, POSITIONS, 5)}
CONTEXT = Context(calibration=tuple({"x": drawn(3, POSITIONS, 5, seed=s)} for s in range(MIN_RUNS)))
SIGNATURE = f"(float[B, {POSITIONS}, 5] x) => (float[B, N, {{out}}] y)"
BLOCK = """n = LayerNormalization (e, scale, shift) u = MatMul(n, up) v = Add(u, up_bias) a = Gelu(v) d = MatMul(a, down) b = Add(d, down_bias)
    r = Add(e, b)"""
EMBED = "e = MatMul(x, into)"
OUT = "f = LayerNormalization (r, scale, shift) m = MatMul(f, out) y = Add(m, out_bias)"
BODIES = {
    "one_block": f"{EMBED} {BLOCK} {OUT}",
    "positions": f"g = MatMul(x, into) e = Add(g, places) {BLOCK} {OUT}",
    "class_token": f"g = MatMul(x, into) s = Shape <start = 0, end = 1> (g) t = Concat <axis = 0> (s, one, width) c = Expand(token, t) "
    f"e = Concat <axis = 1> (c, g) {BLOCK} {OUT}",
    "layer_scale": f"{EMBED} {BLOCK.replace('r = Add(e, b)', 'z = Mul(b, lam) r = Add(e, z)')} {OUT}",
    "flattened": f"{EMBED} {BLOCK} q = Reshape(r, rows) {OUT.replace('(r,', '(q,')}",
    "spelled_norm": f"{EMBED} {BLOCK} me = ReduceMean <keepdims = 1> (r, last) de = Sub(r, me) sq = Mul(de, de) va = ReduceMean(sq, last) "
    "sa = Add(va, epsilon) ro = Sqrt(sa) no = Div(de, ro) we = Mul(no, scale) f = Add(we, shift) m = MatMul(f, out) y = Add(m, out_bias)",
    "rms": f"{EMBED} {BLOCK.replace('LayerNormalization (e, scale, shift)', 'RMSNormalization (e, scale)')} {OUT}",
    "first_position": f"{EMBED} {BLOCK} q = Slice(r, zero, one, one) {OUT.replace('(r,', '(q,')}",
    "turned": f"{EMBED} {BLOCK} q = Transpose <perm = [1, 0, 2]> (r) {OUT.replace('(r,', '(q,')}",
    "a_table": f"i = Cast <to = 7> (x) j = Mod(i, ids) k = ReduceMax <keepdims = 0> (j, last) e = Gather(table, k) {BLOCK} {OUT}",
}


def _paired(*shape: int, seed: int) -> np.ndarray:
    """Every channel twice."""
    held = drawn(*shape[:-1], HALF, seed=seed)
    return np.concatenate([held, held], axis=-1)


def _scale() -> np.ndarray:
    """The second of each pair is scaled down, so that the first one counts for more, whichever pair it is of."""
    held = np.linspace(0.8, 1.2, HALF, dtype=np.float32)
    return np.concatenate([held, held / 1000])


def _model(body: str, out: int = 7) -> onnx.ModelProto:
    constants = {
        "into": _paired(5, HALF, seed=1),
        "places": _paired(POSITIONS, HALF, seed=2),
        "token": _paired(1, 1, HALF, seed=3),
        "scale": _scale(),
        "lam": _paired(HALF, seed=4),
        "shift": _paired(HALF, seed=5),
        "up": drawn(WIDTH, 8, seed=6),
        "up_bias": drawn(8, seed=7),
        "down": _paired(8, HALF, seed=8),
        "down_bias": _paired(HALF, seed=9),
        "out": drawn(WIDTH, 7, seed=10),
        "out_bias": drawn(7, seed=11),
        "table": _paired(IDS, HALF, seed=12),
        "ids": np.array(IDS),
        "rows": np.array([1, -1, WIDTH]),
        "width": np.array([WIDTH]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "last": np.array([-1]),
        "epsilon": np.array(1e-5, np.float32),
    }
    used = {name: held for name, held in constants.items() if re.search(rf"\b{name}\b", body)}
    return graph(f"{SIGNATURE.format(out=out)} {{ {body} }}", 23, **used)


def _widths(model: onnx.ModelProto) -> set[int]:
    return {size for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT for size in tensor.dims}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_channels_that_others_tell_go_without_a_trace(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_width, "RIDGE", 1e-9)
    model = _model(body)
    after = PruneWidth(share=0.5).apply(model, CONTEXT)
    onnx.checker.check_model(after, full_check=True)
    assert WIDTH not in _widths(after)
    assert HALF in _widths(after)
    np.testing.assert_allclose(run(after, FEEDS)[0], run(model, FEEDS)[0], rtol=1e-3, atol=1e-3)


OUTPUTS = {
    "is_the_output": f"{EMBED} {BLOCK} y = LayerNormalization (r, scale, shift)",
    "is_read_by_others": f"{EMBED} {BLOCK} f = LayerNormalization (r, scale, shift) m = MatMul(f, out) y = Softmax <axis = -1> (f)",
    "is_made_by_others": f"g = MatMul(x, into) e = Softmax <axis = -1> (g) {BLOCK} y = LayerNormalization (r, scale, shift)",
}


@pytest.mark.parametrize("body", OUTPUTS.values(), ids=OUTPUTS)
def test_a_stream_that_leaves_gets_all_channels_back(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_width, "RIDGE", 1e-9)
    model = _model(body, out=WIDTH)
    after = PruneWidth(share=0.5).apply(model, CONTEXT)
    assert [(v.name, v.type.tensor_type.shape.dim[-1].dim_value) for v in after.graph.output] == [("y", WIDTH)]
    assert {tuple(tensor.dims) for tensor in after.graph.initializer} >= {(HALF, 8), (8, HALF), (HALF, WIDTH)}
    np.testing.assert_allclose(run(after, FEEDS)[0], run(model, FEEDS)[0], rtol=1e-3, atol=1e-3)


def test_removed_channels_stay_on_average() -> None:
    """What is not predicted keeps its mean: the output is linear in the stream here."""
    model = _model(f"{EMBED} {BLOCK} f = LayerNormalization (r, scale, shift) h = MatMul(f, out) y = MatMul(e, out)")
    after = PruneWidth(share=0.7).apply(model, CONTEXT)
    before, found = (np.mean([run(each, feeds)[0] for feeds in CONTEXT.calibration], axis=(0, 1, 2)) for each in (model, after))
    np.testing.assert_allclose(found, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "body",
    [
        f"{EMBED} {BLOCK.replace('r = Add(e, b)', 'r = Relu(b)')} {OUT}",  # nothing goes past the layers
        f"{EMBED} u = MatMul(e, up) d = MatMul(u, down) r = Add(e, d) m = MatMul(r, out) y = Relu(m)",  # nothing is normalized
        f"{EMBED} {BLOCK} {OUT}".replace("scale", "given"),  # a scale that is computed
    ],
    ids=["no_sum", "no_norm", "computed_scale"],
)
def test_near_misses_are_left_alone(body: str) -> None:
    if "given" in body:
        body = f"pa = ReduceSum <keepdims = 0> (places) given = Mul(pa, scale) {body}"
        model = _model(body)
        model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "places"))
        model.graph.input.append(onnx.helper.make_tensor_value_info("places", onnx.TensorProto.FLOAT, [POSITIONS, WIDTH]))
    else:
        model = _model(body)
    with pytest.raises(PassNotApplicable, match="the model has no residual stream"):
        PruneWidth(share=0.5).apply(model, CONTEXT)


def test_a_share_of_less_than_one_channel_is_refused() -> None:
    with pytest.raises(PassNotApplicable, match="too few channels"):
        PruneWidth(share=0.05).apply(_model(BODIES["one_block"]), CONTEXT)


def test_weights_alone_are_refused() -> None:
    with pytest.raises(CalibrationError, match="needs calibration data"):
        PruneWidth(share=0.5).apply(_model(BODIES["one_block"]))
