"""Dynamic int8: what it takes, what it leaves, and that it adds up on every processor."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from optimize.passes.base import PassNotApplicable
from optimize.passes.registry import UnknownPass, parse_pass
from serving.contract.errors import PilotageError
from tests.graphs import drawn, graph, kinds, run

STEP = parse_pass("int8_dynamic")
QUANTIZED = Counter(MatMulInteger=1, DynamicQuantizeLinear=1)

CLOSE = 0.03
"""Relative L2 error of one layer. Two roundings, of activations to 1/255 of a range of some six deviations and of weights to 1/127 of three:
each is uniform in a step, sqrt(12) below it, 0.007 of a deviation both. Measured here: 0.008 to 0.013."""


def _error(model: onnx.ModelProto, step: str = "int8_dynamic", **feeds: np.ndarray) -> float:
    before, after = run(model, feeds)[0], run(parse_pass(step).apply(model), feeds)[0]
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


PRODUCT = "(float[N,K] x) => (float[N,M] y) { y = MatMul(x, w) }"


@pytest.mark.parametrize("attributes", ["", "<transB: int = 1>", "<alpha: float = 0.5, beta: float = 2.0>"])
def test_gemm_keeps_its_meaning(attributes: str) -> None:
    w = drawn(24, 16, seed=1)
    model = graph(
        f"(float[N,24] x) => (float[N,16] y) {{ y = Gemm {attributes} (x, w, b) }}",
        w=w.T if "transB" in attributes else w,
        b=drawn(16, seed=2) * 5,
    )
    assert _error(model, x=drawn(40, 24)) < CLOSE
    assert kinds(STEP.apply(model)) >= QUANTIZED


def test_weights_of_a_constant_node_are_quantized() -> None:
    model = graph("(float[N,4] x) => (float[N,3] y) { w = Constant() y = MatMul(x, w) }")
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(drawn(4, 3))))
    after = STEP.apply(model)
    assert kinds(after) >= QUANTIZED
    assert "Constant" not in kinds(after)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_nothing_overflows_where_all_products_are_largest(batch: int) -> None:
    """x86 without VNNI adds pairs of products of uint8 and int8 in 16 bits: 2 · 255 · 127 is twice what they hold."""
    model = graph(PRODUCT, w=np.ones((64, 32), np.float32))
    assert _error(model, x=np.ones((batch, 64), np.float32)) < 1e-6
    assert _error(model, "int8_dynamic:weight_type=int7", x=np.ones((batch, 64), np.float32)) < 1e-6


def test_seven_bits_are_coarser_than_eight() -> None:
    model, x = graph(PRODUCT, w=drawn(64, 32)), drawn(100, 64, seed=1)
    eight, seven = _error(model, x=x), _error(model, "int8_dynamic:weight_type=int7", x=x)
    assert eight < seven < 2 * eight


def test_a_column_of_zeros_stays_zero() -> None:
    w = drawn(8, 3)
    w[:, 1] = 0
    (after,) = run(STEP.apply(graph(PRODUCT, w=w)), {"x": drawn(5, 8, seed=1)})
    assert (after[:, 1] == 0).all()


def test_what_is_shared_is_made_once() -> None:
    model = graph("(float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = MatMul(x, w) c = Add(a, b) y = MatMul(c, w) }", w=drawn(8, 8))
    after = STEP.apply(model)
    assert kinds(after)["DynamicQuantizeLinear"] == 2
    assert [t.name for t in after.graph.initializer if len(t.dims) == 2] == ["w_quantized"]


def test_a_layer_behind_a_layer_reads_what_is_left_of_it() -> None:
    model = graph("(float[N,8] x) => (float[N,8] y, float[N,8] a) { a = MatMul(x, v) y = MatMul(a, w) }", v=drawn(8, 8), w=drawn(8, 8))
    assert kinds(STEP.apply(model))["MatMul"] == 0, "no float product is left"


NEAR_MISSES = {
    "weights of a run": graph("(float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul(x, w) }"),
    "double precision": graph("(double[N,4] x) => (double[N,3] y) { y = MatMul(x, w) }", w=np.ones((4, 3))),
    "a stack of matrices": graph("(float[2,N,4] x) => (float[2,N,3] y) { y = MatMul(x, w) }", w=drawn(2, 4, 3)),
    "a transposed left side": graph("(float[4,N] x) => (float[N,3] y) { y = Gemm <transA: int = 1> (x, w) }", w=drawn(4, 3)),
    "constants on the left": graph("(float[4,N] x) => (float[3,N] y) { y = MatMul(w, x) }", w=drawn(3, 4)),
    "weights that are not finite": graph(PRODUCT, w=np.full((4, 3), np.inf, np.float32)),
    "weights that a caller may override": graph("(float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul(x, w) }", w=drawn(4, 3)),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_near_miss_is_refused(name: str) -> None:
    with pytest.raises(PassNotApplicable, match="the model has no matrix product with constant float32 weights"):
        STEP.apply(NEAR_MISSES[name])


def test_sums_beyond_32_bits_are_refused() -> None:
    with pytest.raises(PassNotApplicable, match="no matrix product"):
        STEP.apply(graph(PRODUCT, w=np.zeros((66_312, 1), np.float32)))


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(PassNotApplicable, match=r"no DynamicQuantizeLinear: its opset is 10, at least 11"):
        STEP.apply(graph(PRODUCT, opset=10, w=drawn(4, 3)))


def test_products_are_kept_by_name() -> None:
    model = graph(
        "(float[N,4] x) => (float[N,4] y) { [first] a = MatMul(x, v) [second] b = MatMul(a, w) [last] y = Gemm(b, v) }",
        v=drawn(4, 4),
        w=drawn(4, 4),
    )
    left = parse_pass("int8_dynamic:keep=fir*+last").apply(model)
    assert {node.name for node in left.graph.node} >= {"first", "last"}
    assert kinds(left)["MatMulInteger"] == 1
    with pytest.raises(PassNotApplicable, match=r"called 'head', .*; there are first, second, last"):
        parse_pass("int8_dynamic:keep=head").apply(model)
    with pytest.raises(PassNotApplicable, match=r"no matrix product but those to keep, \*"):
        parse_pass("int8_dynamic:keep=*").apply(model)
    with pytest.raises(UnknownPass, match=r"weight_type='int4'.*'uint8', 'int8' or 'int7'"):
        parse_pass("int8_dynamic:weight_type=int4")


def test_weights_that_were_loaded_from_a_file_of_their_own(tmp_path: Path) -> None:
    model = graph(PRODUCT, w=drawn(64, 32))
    expected = STEP.apply(model).SerializeToString(deterministic=True)
    convert_model_to_external_data(model, location="model.data", size_threshold=0)
    assert STEP.apply(model).SerializeToString(deterministic=True) == expected, "values are in memory, whatever the tensor says"
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    assert STEP.apply(onnx.load(str(tmp_path / "model.onnx"))).SerializeToString(deterministic=True) == expected
    with pytest.raises(PilotageError, match=r"'w' are not in memory but in 'model.data'; load the model by its path"):
        STEP.apply(onnx.load(str(tmp_path / "model.onnx"), load_external_data=False))
