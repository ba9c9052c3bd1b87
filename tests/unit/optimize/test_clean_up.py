"""A tidy graph: the same answers from fewer operators and constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize.passes.base import PassNotApplicable
from optimize.passes.clean_up import CleanUp
from tests.graphs import drawn, graph, kinds, same_answers

SIGNATURE = "(float[B, 4] x) => (float[B, 4] y)"
CONSTANTS = {"w": drawn(4, 4), "again": drawn(4, 4), "zero": np.float32(0), "one": np.float32(1), "big": np.array([1000, 1000])}
FEEDS = {"x": drawn(3, 4, seed=1)}


def _model(body: str) -> onnx.ModelProto:
    return graph(f"{SIGNATURE} {{ {body} }}", **CONSTANTS)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("v = Transpose(w) y = MatMul(x, v)", {"MatMul": 1}),
        ("a = Relu(x) b = Relu(x) y = Add(a, b)", {"Relu": 1, "Add": 1}),
        ("a = Identity(x) b = Mul(a, one) c = Add(b, zero) y = Relu(c)", {"Relu": 1}),
        ("dead = MatMul(x, w) y = Relu(x)", {"Relu": 1}),
        ("c = Constant <value = float {1.5}> () d = Add(c, one) y = Mul(x, d)", {"Mul": 1}),
    ],
    ids=["folded", "duplicate", "idle", "dead", "constant node"],
)
def test_what_changes_no_answer_goes(body: str, expected: dict[str, int]) -> None:
    assert same_answers(CleanUp(), _model(body), FEEDS) == expected


def test_equal_constants_are_one() -> None:
    after = CleanUp().apply(_model("a = MatMul(x, w) y = MatMul(a, again)"))
    assert [list(t.dims) for t in after.graph.initializer] == [[4, 4]]


def test_a_large_expansion_stays_an_operator() -> None:
    model = _model("a = Expand(one, big) s = ReduceSum <keepdims = 0> (a) unused = Relu(x) y = Mul(x, s)")
    after = CleanUp().apply(model)
    assert kinds(after)["Expand"] == 1
    assert "Relu" not in kinds(after)
    assert after.ByteSize() <= model.ByteSize()
    small = CleanUp().apply(
        _model("t = Constant <value_ints = [2, 2]> () a = Expand(one, t) s = ReduceSum <keepdims = 0> (a) y = Mul(x, s)")
    )
    assert kinds(small) == {"Mul": 1}


def test_weights_are_folded_where_that_takes_no_more_room() -> None:
    halves = {"left": drawn(4, 30000), "right": drawn(4, 30000, seed=1)}
    model = graph(
        f"{SIGNATURE} {{ v = Concat <axis = 1> (left, right) p = MatMul(x, v) y = MatMul(p, back) }}", **halves, back=drawn(60000, 4)
    )
    assert kinds(CleanUp().apply(model)) == {"MatMul": 2}


def test_a_large_constant_that_is_stored_small_stays_small() -> None:
    model = graph(
        f"{SIGNATURE} {{ w = Cast <to = 1> (half) i = Identity(w) p = MatMul(x, i) y = MatMul(p, back) }}",
        half=drawn(4, 20000).astype(np.float16),
        back=drawn(20000, 4),
    )
    assert kinds(CleanUp().apply(model)) == {"Cast": 1, "MatMul": 2}


def test_feature_preprocessing_keeps_duplicates_and_idle_operators() -> None:
    model = _model("a = Identity(x) b = Relu(a) c = Relu(a) d = Max(b, zero) e = Min(d, one) f = Add(c, zero) y = Add(e, f)")
    for made in list(model.graph.node)[:-2]:
        made.name = f"features/{made.output[0]}"
    after = CleanUp().apply(model)
    assert [n.name for n in after.graph.node if n.name.startswith("features/")] == [f"features/{name}" for name in "abcde"]
    assert {n.domain for n in after.graph.node} == {""}
    assert [o.domain for o in after.opset_import if o.domain not in ("", "com.microsoft")] == []
    onnx.checker.check_model(after)


def test_names_of_inputs_outputs_and_metadata_stay() -> None:
    model = _model("a = Identity(x) b = Relu(a) y = Identity(b)")
    model.graph.input.append(onnx.helper.make_tensor_value_info("unread", onnx.TensorProto.FLOAT, ["B"]))
    onnx.helper.set_model_props(model, {"labels": "cat,dog"})
    after = CleanUp().apply(model)
    assert [v.name for v in after.graph.input] == ["x", "unread"]
    assert [v.name for v in after.graph.output] == ["y"]
    assert [(p.key, p.value) for p in after.metadata_props] == [("labels", "cat,dog")]


def test_a_constant_that_a_caller_may_override_is_not_folded() -> None:
    model = _model("v = Transpose(w) dead = Relu(x) y = MatMul(x, v)")
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4]))
    assert same_answers(CleanUp(), model, {**FEEDS, "w": drawn(4, 4, seed=5)}) == {"Transpose": 1, "MatMul": 1}


def test_a_tidy_model_is_refused() -> None:
    with pytest.raises(PassNotApplicable, match="the model has no"):
        CleanUp().apply(graph(f"{SIGNATURE} {{ y = MatMul(x, w) }}", w=numpy_helper.to_array(numpy_helper.from_array(CONSTANTS["w"]))))


def test_a_constant_that_had_to_be_an_input_is_folded() -> None:
    """Before IR version 4 every constant was an input too, which therefore says nothing."""
    model = _model("v = Transpose(w) y = MatMul(x, v)")
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4]))
    model.ir_version, model.opset_import[0].version = 3, 9
    del model.graph.initializer[1:]
    assert same_answers(CleanUp(), model, FEEDS) == {"MatMul": 1}
    after = CleanUp().apply(model)
    assert [v.name for v in after.graph.input] == ["x"]
    onnx.checker.check_model(after, full_check=True)


@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize(
    "body",
    [
        "s = SequenceConstruct(x, x) c = ConcatFromSequence <axis = 0, new_axis = 1> (s) y = ReduceMax <axes = [0], keepdims = 0> (c)",
        "s = SplitToSequence <axis = 1> (x, parts) a = SequenceAt(s, first) b = SequenceAt(s, second) y = Concat <axis = 1> (a, b)",
    ],
    ids=["concatenated", "split"],
)
def test_sequences_of_old_opsets_are_not_written_in_operators_of_new_ones(body: str, opset: int) -> None:
    model = graph(f"{SIGNATURE} {{ dead = Relu(x) {body} }}", opset, parts=np.array([1, 3]), first=np.array(0), second=np.array(1))
    found = same_answers(CleanUp(), model, FEEDS)
    assert "Relu" not in found
    assert ("SequenceAt" in found or "SequenceConstruct" in found) == (opset < 13)


def test_rewriting_rules_leave_old_opsets_alone() -> None:
    """The third input of a product may be left out since opset 11 only."""
    model = graph(f"{SIGNATURE} {{ dead = Relu(x) y = Gemm(x, w, nothing) }}", 9, w=CONSTANTS["w"], nothing=np.zeros(4, np.float32))
    assert same_answers(CleanUp(), model, FEEDS) == {"Gemm": 1}


def test_values_that_are_maps_are_refused() -> None:
    """As classifiers of other libraries give them."""
    zipped = onnx.helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
    value = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_map_type_proto(onnx.TensorProto.INT64, value))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [zipped],
            "classifier",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", 4])],
            [onnx.helper.make_value_info("y", kind)],
        )
    )
    with pytest.raises(PassNotApplicable, match="no form that can be edited"):
        CleanUp().apply(model)
