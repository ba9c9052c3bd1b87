"""Attention as exporters write it, and what only looks like it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from optimize.passes.base import PassNotApplicable
from optimize.passes.fuse_attention import FuseAttention
from tests.grafts import attention, attention_constants, node, scalars, with_nodes
from tests.graphs import drawn, graph, same_answers

WIDTH, HEADS, POSITIONS = 12, 2, 5
FEEDS = {"x": drawn(2, POSITIONS, WIDTH)}
SWAP = """ks = Shape(heads_k) first = Slice(ks, low, minus2) rows = Slice(ks, minus2, minus1) columns = Slice(ks, minus1, high)
    three = Concat <axis = 0> (minus1, rows, columns) flat = Reshape(heads_k, three) turned_k = Transpose <perm = [0, 2, 1]> (flat)
    four = Concat <axis = 0> (first, columns, rows) keys = Reshape(turned_k, four)"""


def _model(added: str = "", opset: int = 20, **constants: object) -> onnx.ModelProto:
    """One attention; `added` is the value that is added to the scores."""
    base = graph(
        f"(float[B, {POSITIONS}, {WIDTH}] x) => (float[B, {POSITIONS}, {WIDTH}] y) {{ start = Identity(x) y = Identity(start) }}", opset
    )
    nodes = attention()
    if added:
        place = next(i for i, each in enumerate(nodes) if each.op_type == "Softmax")
        nodes.insert(place, node("Add", ["tempered", added], "masked"))
        nodes[place + 1].input[0] = "masked"
    return with_nodes(base, "start", nodes, **attention_constants(WIDTH, HEADS), **constants)


def _changed(model: onnx.ModelProto, output: str, **changes: object) -> onnx.ModelProto:
    """The node that makes `output`, with other attributes or inputs."""
    made = next(each for each in model.graph.node if output in each.output)
    if "inputs" in changes:
        made.input[:] = changes.pop("inputs")  # type: ignore[assignment]
    for name, value in changes.items():
        old = next(attribute for attribute in made.attribute if attribute.name == name)
        old.CopyFrom(onnx.helper.make_attribute(name, value))
    return model


def test_eager_attention_becomes_one_operator_with_its_biases() -> None:
    after = same_answers(FuseAttention(), _model(), FEEDS)
    assert after == {"Identity": 2, "MatMul": 3, "MultiHeadAttention": 1}


def test_the_standard_operator_is_taken_where_it_is_asked_for() -> None:
    after = same_answers(FuseAttention(form="standard"), _model(opset=23), FEEDS)
    assert after["Attention"] == 1
    assert "Softmax" not in after
    assert same_answers(FuseAttention(), _model(opset=23), FEEDS) == after, "and by itself where the opset has it"
    with pytest.raises(PassNotApplicable, match="opset is 20"):
        FuseAttention(form="standard").apply(_model())


@pytest.mark.parametrize("shape", [(1, 1, POSITIONS, POSITIONS), (1, HEADS, POSITIONS, POSITIONS), (1, 1, 1, POSITIONS)])
@pytest.mark.parametrize("form", ["contrib", "standard"])
def test_masks_are_added(shape: tuple[int, ...], form: str) -> None:
    model = _model("mask", 23, mask=drawn(*shape, seed=4) * 3)
    after = same_answers(FuseAttention(form=form), model, FEEDS)  # type: ignore[arg-type]
    assert "Softmax" not in after


def _decomposed(four: str = "first, columns, rows", low: float = -1e30) -> onnx.ModelProto:
    """As torch decomposes ``scaled_dot_product_attention`` with a mask."""
    text = f"""(float[B, {POSITIONS}, {WIDTH}] x, bool[1, 1, {POSITIONS}, {POSITIONS}] kept) => (float[B, {POSITIONS}, {WIDTH}] y) {{
        q = Reshape(x, parts) heads_q = Transpose <perm = [0, 2, 1, 3]> (q) heads_k = Identity(heads_q)
        {SWAP.replace("first, columns, rows", four).replace("heads_k", "heads_q")}
        sq = Mul(heads_q, root) sk = Mul(keys, root) scores = MatMul(sq, sk)
        mask = Where(kept, zero, low_number) masked = Add(scores, mask) weights = Softmax <axis = -1> (masked)
        wrong = IsNaN(weights) safe = Where(wrong, zero, weights) attended = MatMul(safe, heads_q)
        back = Transpose <perm = [0, 2, 1, 3]> (attended) y = Reshape(back, whole) }}"""
    big = np.iinfo(np.int64)
    sizes = {"minus1": [-1], "minus2": [-2], "low": [big.min], "high": [big.max]}
    shapes = {"parts": np.array([0, 0, HEADS, WIDTH // HEADS]), "whole": np.array([0, 0, WIDTH])}
    numbers = scalars(root=0.6, zero=0.0, low_number=low)
    return graph(text, **shapes, **numbers, **{name: np.array(value) for name, value in sizes.items()})


def test_scaled_dot_product_attention_is_recognized_by_the_shapes_it_computes() -> None:
    kept = np.tril(np.ones((1, 1, POSITIONS, POSITIONS), bool))
    after = same_answers(FuseAttention(), _decomposed(), FEEDS | {"kept": kept})
    assert after == {"Where": 1, "MultiHeadAttention": 1}


def test_a_guard_that_infinities_need_stays() -> None:
    with pytest.raises(PassNotApplicable, match="no multi-head attention"):
        FuseAttention().apply(_decomposed(low=-np.inf))


def test_a_reshape_that_is_no_swap_is_not_taken_for_one() -> None:
    with pytest.raises(PassNotApplicable, match="no multi-head attention"):
        FuseAttention().apply(_decomposed("first, rows, columns"))


@pytest.mark.parametrize(
    "model",
    [
        _changed(_model(), "weights", axis=2),
        _changed(_model(), "heads_q", perm=[0, 1, 2, 3]),
        _changed(_model(), "turned", perm=[0, 1, 2, 3]),
        _changed(_model(), "scores", inputs=["heads_q", "heads_q"]),
        _changed(_model(), "attended", inputs=["heads_v", "weights"]),
        _model("weights_of_another_rank", weights_of_another_rank=drawn(POSITIONS, POSITIONS)),
    ],
    ids=["another axis", "queries not split", "not joined", "keys not transposed", "weights on the right", "a mask of two axes"],
)
def test_near_misses_are_left_alone(model: onnx.ModelProto) -> None:
    with pytest.raises(PassNotApplicable, match="no multi-head attention"):
        FuseAttention().apply(model)


def test_weights_that_are_an_output_stay() -> None:
    model = _model()
    model.graph.output.append(onnx.helper.make_tensor_value_info("weights", onnx.TensorProto.FLOAT, [None, HEADS, POSITIONS, POSITIONS]))
    with pytest.raises(PassNotApplicable, match="no multi-head attention"):
        FuseAttention().apply(model)
