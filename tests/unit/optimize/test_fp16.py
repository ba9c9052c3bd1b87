"""Where half precision begins, where it ends, and what it never touches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.passes.base import PassNotApplicable
from optimize.passes.editing import Edit
from optimize.passes.fp16 import Fp16
from optimize.passes.registry import parse_pass
from tests.graphs import drawn, graph, kinds, run

SIGNATURE = "(float[B, 8] x) => (float[B, 8] y)"
CLOSE = 4e-3
"""Three roundings of 2**-11 in sums of eight values around 1, absolute; measured up to 1.3e-3."""


def _halves(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16]


def _reads(model: onnx.ModelProto, operator: str) -> set[int]:
    """Element types that operators of this kind read."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=False).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    return {types[name] for node in inferred.node if node.op_type == operator for name in node.input if name}


def _close(model: onnx.ModelProto, step: Fp16, *shape: int) -> onnx.ModelProto:
    after = step.apply(model)
    feeds = {"x": drawn(*shape, seed=9)}
    for before, found in zip(run(model, feeds), run(after, feeds), strict=True):
        assert found.dtype == before.dtype
        np.testing.assert_allclose(found, before, atol=CLOSE)
    return after


def test_it_lasts_from_weights_to_the_end_and_inputs_and_outputs_stay() -> None:
    body = "(float[B, 8] x) => (float[B, 8] y, float[B, 8] z) { a = Add(x, x) b = MatMul(a, w) c = Relu(b) y = Add(c, v) z = Sigmoid(c) }"
    after = _close(graph(SIGNATURE.partition("=>")[0] + body.partition(")")[2], w=drawn(8, 8), v=drawn(8, seed=1)), Fp16(), 3, 8)
    assert [value.name for value in (*after.graph.input, *after.graph.output)] == ["x", "y", "z"]
    assert len(_halves(after)) == len(after.graph.initializer) == 2
    assert _reads(after, "Sigmoid") == _reads(after, "MatMul") == {TensorProto.FLOAT16}
    assert kinds(after)["Cast"] == 3, "into the first product and out of both outputs; what is before the weights stays float32"


def test_operators_and_nodes_are_kept_by_name() -> None:
    model = graph(SIGNATURE + "{ a = MatMul(x, w) b = Tanh(a) c = MatMul(b, v) y = Relu(c) }", w=drawn(8, 8), v=drawn(8, 8, seed=1))
    model.graph.node[2].name = "head/MatMul"
    assert _reads(_close(model, Fp16(), 3, 8), "Tanh") == {TensorProto.FLOAT16}
    assert _reads(_close(model, Fp16(keep_operators=("Tanh",)), 3, 8), "Tanh") == {TensorProto.FLOAT}
    kept = _close(model, Fp16(keep_nodes=("head/*",)), 3, 8)
    assert _reads(kept, "MatMul") == {TensorProto.FLOAT16, TensorProto.FLOAT}
    assert [tensor.name for tensor in kept.graph.initializer if tensor.data_type == TensorProto.FLOAT] == ["v"]
    assert parse_pass("fp16:keep_operators=Tanh+Softmax,keep_nodes=head/*") == Fp16(
        keep_operators=("Tanh", "Softmax"), keep_nodes=("head/*",)
    )
    assert Fp16(keep_operators=("Tanh", "Softmax")).name == "fp16:keep_operators=Tanh+Softmax"


def test_feature_preprocessing_is_never_converted() -> None:
    model = graph(SIGNATURE + "{ a = Add(x, w) y = MatMul(a, v) }", w=drawn(8), v=drawn(8, 8, seed=1))
    model.graph.node[0].name = "features/shift"
    after = _close(model, Fp16(), 3, 8)
    assert _reads(after, "Add") == {TensorProto.FLOAT}


@pytest.mark.parametrize(
    "body", ["y = ReduceMean<keepdims=0>(d)", "y = ReduceSum<keepdims=0>(d)", "e = Exp(a) y = ReduceMax<keepdims=0>(e)"]
)
def test_sums_and_exponentials_stay_float32(body: str) -> None:
    model = graph(
        "(float[B, 8] x) => (float y) { a = MatMul(x, w) d = Mul(a, many) " + body + " }", w=drawn(8, 8), many=np.full(8, 64, np.float32)
    )
    after = Fp16().apply(model)
    x = {"x": np.abs(drawn(500, 8)) * 6}
    before, found = run(model, x)[0], run(after, x)[0]
    assert "ReduceMean" in body or abs(before) > 65_504
    np.testing.assert_allclose(found, before, rtol=0.05 if "Exp" in body else CLOSE)


@pytest.mark.parametrize(("constant", "is_kept"), [(1e6, True), (1e-6, True), (-1e5, True), (0.5, False), (-3.4e38, False), (-1e9, False)])
def test_a_constant_that_half_precision_cannot_hold_keeps_its_operator(constant: float, is_kept: bool) -> None:
    after = Fp16().apply(graph(SIGNATURE + "{ a = MatMul(x, w) y = Max(a, c) }", w=drawn(8, 8), c=np.float32(constant)))
    assert _reads(after, "Max") == {TensorProto.FLOAT if is_kept else TensorProto.FLOAT16}


def test_a_row_that_is_masked_whole_gives_no_nan() -> None:
    body = "(float[B, 8] x, bool[B, 8] m) => (float[B, 8] y) { a = MatMul(x, w) n = Where(m, zero, lowest) s = Add(a, n) y = Softmax(s) }"
    model = graph(body, w=drawn(8, 8), zero=np.float32(0), lowest=np.full((1, 1), np.finfo(np.float32).min, np.float32))
    feeds = {"x": drawn(2, 8), "m": np.array([[True] * 5 + [False] * 3, [False] * 8])}
    before, after = run(model, feeds)[0], run(Fp16().apply(model), feeds)[0]
    np.testing.assert_allclose(after[0], before[0], atol=CLOSE)
    assert np.isfinite(after).all()


def test_infinite_weights_stay_infinite() -> None:
    mask = np.triu(np.full((8, 8), -np.inf, np.float32), 1)
    after = Fp16().apply(
        graph("(float[8, 8] x) => (float[8, 8] y) { a = MatMul(x, w) b = Add(a, m) y = Softmax(b) }", w=drawn(8, 8), m=mask)
    )
    assert any(np.isneginf(numpy_helper.to_array(tensor)).any() for tensor in _halves(after))


def test_a_model_that_is_partly_half_stays_valid_and_goes_the_rest_of_the_way() -> None:
    body = """{
        h = Cast<to=10>(x) a = MatMul(h, w) f = Cast<to=1>(a)
        b = MatMul(f, v) g = Cast<to=10>(b) c = Relu(g) y = Cast<to=1>(c)
    }"""
    model = graph(SIGNATURE + body, w=drawn(8, 8).astype(np.float16), v=drawn(8, 8, seed=1))
    after = _close(model, Fp16(), 3, 8)
    assert len(_halves(after)) == 2
    with pytest.raises(PassNotApplicable, match="the model has no float32 weights"):
        Fp16().apply(after)


def test_branches_and_loops_are_converted_inside() -> None:
    then = helper.make_graph(
        [helper.make_node("MatMul", ["h", "inner"], ["t0"], name="inside"), helper.make_node("Add", ["t0", "x"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["B", 8])],
        [numpy_helper.from_array(drawn(8, 8, seed=1), "inner")],
    )
    otherwise = helper.make_graph(
        [helper.make_node("MatMul", ["h", "outer"], ["e"])], "else", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, ["B", 8])]
    )
    model = graph(
        "(float[B, 8] x, bool c) => (float[B, 8] y) { h = MatMul(x, w) y = Identity(h) }", w=drawn(8, 8), outer=drawn(8, 8, seed=2)
    )
    del model.graph.node[1]
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=otherwise))
    after = Fp16().apply(model)
    body = next(a.g for node in after.graph.node if node.op_type == "If" for a in node.attribute if a.name == "then_branch")
    stored = [*after.graph.initializer, *body.initializer]
    assert {tensor.data_type for tensor in stored} == {TensorProto.FLOAT16}
    assert len(stored) == 3
    for choice in (True, False):
        feeds = {"x": drawn(3, 8, seed=9), "c": np.array(choice)}
        np.testing.assert_allclose(run(after, feeds)[0], run(model, feeds)[0], atol=3 * CLOSE)


def test_behind_operators_of_onnx_runtime_it_goes_on() -> None:
    model = graph(
        SIGNATURE + "{ a = MatMul(x, w) b = com.microsoft.FastGelu(a) c = MatMul(b, v) y = Neg(c) }", w=drawn(8, 8), v=drawn(8, 8, seed=1)
    )
    after = _close(model, Fp16(), 3, 8)
    assert kinds(after)["Cast"] == 2


def test_a_shape_alone_needs_no_cast_back() -> None:
    body = "(float[B, 8] x) => (float[B, 8] y, int64[2] s) { a = MatMul(x, w) s = Shape(a) y = Relu(a) }"
    assert kinds(_close(graph(body, w=drawn(8, 8)), Fp16(), 3, 8))["Cast"] == 2


def test_an_initializer_that_is_an_input_may_be_overridden_and_stays() -> None:
    model = graph(
        "(float[B, 8] x, float[8, 8] w) => (float[B, 8] y) { a = MatMul(x, w) y = MatMul(a, v) }", w=drawn(8, 8), v=drawn(8, 8, seed=1)
    )
    after = Fp16().apply(model)
    assert {tensor.name: tensor.data_type for tensor in after.graph.initializer}["w"] == TensorProto.FLOAT
    assert [value.name for value in after.graph.input] == ["x", "w"]


def test_weights_that_an_option_keeps_are_not_counted() -> None:
    with pytest.raises(PassNotApplicable, match="no option keeps"):
        Fp16(keep_operators=("MatMul",)).apply(graph(SIGNATURE + "{ y = MatMul(x, w) }", w=drawn(8, 8)))


def test_sequences_stay_sequences() -> None:
    body = "{ a = MatMul(x, w) s = SequenceConstruct(a, x) b = SequenceAt(s, zero) y = Relu(b) }"
    model = graph(SIGNATURE + body, w=drawn(8, 8), zero=np.array(0))
    Edit(model).done()
    _close(model, Fp16(), 3, 8)


def test_a_model_that_cannot_be_edited_is_refused_with_the_reason() -> None:
    shipped = Path(onnxruntime.__file__).parent / "datasets/logreg_iris.onnx"
    with pytest.raises(PassNotApplicable, match="the model has no form that can be edited: Map types"):
        Edit(onnx.load(str(shipped)))
