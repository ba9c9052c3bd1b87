"""What a request's candidates share, and the calibration of an output."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize.passes.base import PassNotApplicable
from optimize.passes.fold_calibration import FoldCalibration
from optimize.passes.split_request import SplitRequest
from tests.grafts import scalars
from tests.graphs import drawn, graph, same_answers

REQUESTS, CANDIDATES = 2, 7
FEEDS = {
    "user": drawn(REQUESTS, 3),
    "context": drawn(1, 2, seed=1),
    "ad": drawn(CANDIDATES, 4, seed=2),
    "index": np.array([0, 0, 1, 1, 1, 0, 1]),
}
SIGNATURE = "(float[R, 3] user, float[1, 2] context, float[N, 4] ad, int64[N] index) => (float[N, 5] y)"
CONSTANTS = {
    "w7": drawn(7, 5, seed=3),
    "w9": drawn(9, 5, seed=4),
    "w6": drawn(6, 5, seed=4),
    "b": drawn(5, seed=5),
    "table": drawn(4, 3, seed=6),
    "fixed": np.zeros(CANDIDATES, np.int64),
    "one": np.array([1]),
    "two": np.array([2]),
}
ROWS = "rows = Shape <start = 0, end = 1> (ad)"


def _ranker(body: str) -> onnx.ModelProto:
    return graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS)


@pytest.mark.parametrize(
    "body",
    [
        "u = Gather(user, index) x = Concat <axis = 1> (u, ad) m = MatMul(x, w7) y = Add(m, b)",
        "u = Gather(user, index) x = Concat <axis = -1> (ad, u) y = Gemm(x, w7, b)",
        f"u = Gather(user, index) {ROWS} s = Concat <axis = 0> (rows, two) e = Expand(context, s) "
        "l = Concat <axis = 1> (e, u) x = Concat <axis = 1> (l, ad) y = Gemm(x, w9, b)",
        f"u = Gather(user, index) {ROWS} s = Concat <axis = 0> (rows, one) e = Tile(context, s) x = Concat <axis = 1> (ad, e, u) y = MatMul(x, w9)",
    ],
    ids=["gathered", "candidate first", "expanded, nested", "tiled"],
)
def test_the_requests_half_is_computed_once_a_request(body: str) -> None:
    model = _ranker(body)
    after = same_answers(SplitRequest(), model, FEEDS)
    assert after["Gemm"] >= 1, "the request's product"
    assert after["MatMul"] == 1, "the candidates' product"
    rows = [t.dims[0] for t in SplitRequest().apply(model).graph.initializer if len(t.dims) == 2]
    assert 4 in rows, "which has the candidates' own width"


def test_layers_over_the_same_values_share_the_concatenation() -> None:
    body = "u = Gather(user, index) x = Concat <axis = 1> (u, user2, ad) p = MatMul(x, w10) q = MatMul(x, w10) y = Add(p, q)"
    model = _ranker("user2 = Gather(user, index) " + body)
    model.graph.initializer.append(numpy_helper.from_array(drawn(10, 5, seed=8), "w10"))
    assert same_answers(SplitRequest(), model, FEEDS)["Concat"] == 1


def test_layers_over_other_uses_of_the_values_keep_them() -> None:
    body = "u = Gather(user, index) x = Concat <axis = 1> (u, ad) p = MatMul(x, w7) s = ReduceSum <keepdims = 1> (x, one) y = Add(p, s)"
    assert same_answers(SplitRequest(), _ranker(body), FEEDS)["Concat"] == 1


@pytest.mark.parametrize(
    "body",
    [
        "u = Gather(table, index) x = Concat <axis = 1> (u, ad) y = MatMul(x, w7)",  # a table is looked up, nothing repeated
        "u = Gather(user, fixed) x = Concat <axis = 1> (u, ad) y = MatMul(x, w7)",  # rows that are chosen beforehand
        "u = Gather(user, index) v = Gather(user, index) x = Concat <axis = 1> (u, v) y = MatMul(x, w6)",  # no candidate's own value
        "u = Gather(user, index) v = Relu(u) x = Concat <axis = 1> (v, ad) y = MatMul(x, w7)",  # changed since
        "u = Gather(user, index) x = Concat <axis = 1> (u, ad) v = Relu(x) y = MatMul(v, w7)",  # not a first layer
    ],
)
def test_near_misses_are_left_alone(body: str) -> None:
    with pytest.raises(PassNotApplicable, match="no layer over a concatenation"):
        SplitRequest().apply(_ranker(body))


NUMBERS = scalars(scale=0.4, offset=-2.5)
LAYER = {"w": drawn(4, 1, seed=7), "bias": drawn(1, seed=8), "axis": np.array([1]), "vector": drawn(1, seed=9)}


def _output(body: str, shape: str = "N") -> onnx.ModelProto:
    return graph(f"(float[N, 4] ad) => (float[{shape}] y) {{ {body} }}", **NUMBERS, **LAYER)


@pytest.mark.parametrize(
    "body",
    [
        "z = Gemm(ad, w, bias) f = Squeeze(z, axis) s = Mul(f, scale) t = Add(offset, s) y = Sigmoid(t)",
        "z = MatMul(ad, w) f = Squeeze(z, axis) s = Div(f, scale) y = Sub(s, offset)",
        "m = MatMul(ad, w) z = Add(m, bias) s = Sub(offset, z) f = Squeeze(s, axis) y = Sigmoid(f)",
    ],
)
def test_scale_and_offset_become_weights_and_bias(body: str) -> None:
    after = same_answers(FoldCalibration(), _output(body), {"ad": FEEDS["ad"]})
    assert not {"Mul", "Div", "Sub"} & set(after)
    assert after["Add"] <= after["MatMul"]


@pytest.mark.parametrize(
    "body",
    [
        "z = Gemm(ad, w, bias) f = Squeeze(z, axis) y = Sigmoid(f)",  # nothing to fold
        "z = Gemm(ad, w, bias) r = Relu(z) f = Squeeze(r, axis) s = Mul(f, scale) y = Sigmoid(s)",  # bent in between
        "z = Gemm(ad, w, bias) f = Squeeze(z, axis) s = Mul(f, scale) t = Sigmoid(s) y = Mul(t, f)",  # the logit is read again
        "z = Gemm(ad, w, bias) f = Squeeze(z, axis) s = Mul(f, f) y = Sigmoid(s)",  # no constant
        "c = Relu(w) z = Gemm(ad, c, bias) f = Squeeze(z, axis) s = Mul(f, scale) y = Sigmoid(s)",  # weights that are computed
        "z = Gemm(ad, w, bias) f = Squeeze(z, axis) s = Div(scale, f) y = Sigmoid(s)",
    ],
)
def test_what_is_no_calibration_is_left_alone(body: str) -> None:
    with pytest.raises(PassNotApplicable, match="no output that is scaled"):
        FoldCalibration().apply(_output(body))


def test_an_uncalibrated_output_beside_it_stays() -> None:
    model = graph(
        "(float[N, 4] ad) => (float[N, 1] y, float[N, 1] z) { z = Gemm(ad, w, bias) s = Mul(z, scale) y = Sigmoid(s) }", **NUMBERS, **LAYER
    )
    with pytest.raises(PassNotApplicable, match="no output that is scaled"):
        FoldCalibration().apply(model)
