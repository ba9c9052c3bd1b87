"""Weights that are stored in sixteen bits and computed with in thirty-two."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.export.files import files_of, save_graph
from optimize.passes.base import PassNotApplicable
from optimize.passes.bf16 import Bf16
from optimize.passes.registry import parse_pass
from serving.runtime.session import GraphSession
from tests.graphs import drawn, graph, kinds, run

SIGNATURE = "(float[B, 64] x) => (float[B, 64] y)"
PRODUCT = SIGNATURE + "{ y = MatMul(x, w) }"


def _rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def _stored(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.BFLOAT16]


def test_answers_are_those_of_the_rounded_weights() -> None:
    weight, x = drawn(64, 64), drawn(3, 64, seed=1)
    after = Bf16().apply(graph(PRODUCT, w=weight))
    np.testing.assert_array_equal(run(after, {"x": x})[0], run(graph(PRODUCT, w=_rounded(weight)), {"x": x})[0])
    assert kinds(after) == {"Cast": 1, "MatMul": 1}
    assert [tensor.data_type for tensor in after.graph.initializer] == [TensorProto.BFLOAT16]


def test_weights_round_to_nearest_and_ties_to_even() -> None:
    # bfloat16's step is 2**-7 from 1 to 2
    weight = np.ones((32, 32), np.float32)
    weight[0, :4] = 1 + np.array([0.4, 0.5, 0.6, 1.5]) * 2.0**-7
    (stored,) = _stored(Bf16().apply(graph("(float[B, 32] x) => (float[B, 32] y) { y = MatMul(x, w) }", w=weight)))
    np.testing.assert_array_equal(
        numpy_helper.to_array(stored).astype(np.float32)[0, :4], [1, 1, 1 + 2.0**-7, 1 + 2 * 2.0**-7], "1.5 steps go to the even one, 2"
    )


def test_the_largest_numbers_stay_finite_and_infinity_infinite() -> None:
    weight = drawn(32, 32)
    weight[0, :3] = np.finfo(np.float32).max, -np.finfo(np.float32).max, -np.inf
    (stored,) = _stored(Bf16().apply(graph("(float[B, 32] x) => (float[B, 32] y) { y = Add(x, w) }", w=weight)))
    found = numpy_helper.to_array(stored).astype(np.float32)[0, :3]
    assert np.isfinite(found[:2]).all()
    assert np.isneginf(found[2])


def test_the_runtime_casts_matrices_once_when_it_loads(tmp_path: Path) -> None:
    """The claim that bfloat16 costs no time, which another version of the runtime could break."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(Bf16().apply(graph(PRODUCT, w=drawn(64, 64))).SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert kinds(onnx.load(str(tmp_path / "loaded.onnx"))) == {"MatMul": 1}


def test_of_a_table_only_the_rows_that_are_looked_up_are_cast() -> None:
    body = "(int64[B] i) => (float[B, 8] y, float[B, 8] z) { y = Gather<axis=0>(w, i) a = Gather(w, i) z = Relu(a) }"
    table, ids = drawn(200, 8), np.array([3, 199, 3])
    after = Bf16().apply(graph(body, w=table))
    assert kinds(after) == {"Gather": 2, "Cast": 2, "Relu": 1}
    assert len(after.graph.initializer) == 1
    np.testing.assert_array_equal(run(after, {"i": ids})[0], _rounded(table)[ids])


def test_a_table_that_is_multiplied_too_is_stored_once() -> None:
    body = "(int64[B] i) => (float[B, 200] y) { a = Gather(w, i) t = Transpose<perm=[1, 0]>(w) y = MatMul(a, t) }"
    after = Bf16().apply(graph(body, w=drawn(200, 8)))
    assert [tensor.data_type for tensor in after.graph.initializer] == [TensorProto.BFLOAT16]
    assert run(after, {"i": np.array([1])})[0].shape == (1, 200)


def test_a_row_that_was_folded_into_a_constant_follows_its_table() -> None:
    table = drawn(200, 8)
    body = "(int64[B] i) => (float[B, 8] y) { a = Gather(w, i) y = Sub(a, missing) }"
    after = Bf16().apply(graph(body, w=table, missing=table[:1]))
    np.testing.assert_array_equal(run(after, {"i": np.array([0])})[0], np.zeros((1, 8)))


def test_the_file_is_half_as_large_and_loads(tmp_path: Path) -> None:
    model = graph("(float[B, 256] x) => (float[B, 256] y) { y = MatMul(x, w) }", w=drawn(256, 256))
    sizes = []
    for name, made in (("before", model), ("after", Bf16().apply(model))):
        save_graph(made, tmp_path / f"{name}.onnx")
        sizes.append(sum(file.stat().st_size for file in files_of(tmp_path / f"{name}.onnx")))
        assert GraphSession(tmp_path / f"{name}.onnx", threads=1).run({"x": drawn(2, 256)})[0].shape == (2, 256)
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.02)


def test_weights_inside_a_branch_are_stored_too() -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["B", 64])],
        [numpy_helper.from_array(drawn(64, 64), "inner")],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])], "else", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, ["B", 64])]
    )
    model = graph("(float[B, 64] x, bool c) => (float[B, 64] y) { y = Identity(x) }")
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], name="choice", then_branch=body, else_branch=other))
    after = Bf16().apply(model)
    assert len(_stored(after)) == 1
    feeds = {"x": drawn(2, 64, seed=1), "c": np.array(True)}
    np.testing.assert_allclose(run(after, feeds)[0], feeds["x"] @ _rounded(drawn(64, 64)), rtol=1e-5, atol=1e-5)


def test_scales_of_what_is_quantized_already_are_left() -> None:
    quantized = parse_pass("weight_only:block_size=16").apply(
        graph("(float[B, 128] x) => (float[B, 256] y) { y = MatMul(x, w) }", w=drawn(128, 256))
    )
    with pytest.raises(PassNotApplicable, match="the model has no float32 weights"):
        Bf16().apply(quantized)


def test_small_constants_and_feature_preprocessing_are_left() -> None:
    for model in (graph(SIGNATURE + "{ y = Add(x, w) }", w=drawn(64)), graph(SIGNATURE + "{ y = MatMul(x, w) }", w=drawn(64, 64))):
        model.graph.node[0].name = "features/first"
        with pytest.raises(PassNotApplicable, match="the model has no float32 weights of 1024"):
            Bf16().apply(model)


def test_an_opset_without_bfloat16_is_named() -> None:
    with pytest.raises(PassNotApplicable, match="its opset is 12, at least 13"):
        Bf16().apply(graph(PRODUCT, opset=12, w=drawn(64, 64)))
