"""The last layer for the position that is read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import shape_inference

from optimize.passes.base import PassNotApplicable
from optimize.passes.fuse_attention import FuseAttention
from optimize.passes.merge_projections import MergeProjections
from optimize.passes.registry import parse_pass
from optimize.passes.used_position import UsedPosition
from tests.grafts import attention_constants
from tests.graphs import drawn, graph, kinds, same_answers

WIDTH, HEADS = 8, 2
FEEDS = {"x": drawn(2, 5, WIDTH)}
FIRST = {"first": np.array(0), "one": np.array([0]), "start": np.array([0]), "end": np.array([1]), "axis": np.array([1])}
CONSTANTS = {
    **attention_constants(WIDTH, HEADS),
    **{
        name: drawn(*shape, seed=i)
        for i, (name, shape) in enumerate({"u": (WIDTH, 12), "d": (12, WIDTH), "g": (WIDTH,), "s": (WIDTH,)}.items())
    },
    "mask": drawn(5, 5, seed=9)[None, None],
    **FIRST,
}
MLP = "n = LayerNormalization(x, g, s) e = MatMul(n, u) a = Gelu(e) m = MatMul(a, d) h = Add(x, m)"
PROJECTIONS = " ".join(
    f"m{p} = MatMul(n, w_{p}) p{p} = Add(m{p}, b_{p}) r{p} = Reshape(p{p}, heads) t{p} = Transpose <perm = {[0, 2, 3, 1] if p == 'k' else [0, 2, 1, 3]}> (r{p})"
    for p in "qkv"
)
SCORES = "z = MatMul(tq, tk) zt = Mul(z, temper)"
REST = "c = Softmax(zt) cv = MatMul(c, tv) ct = Transpose <perm = [0, 2, 1, 3]> (cv) cj = Reshape(ct, joined) h = Add(x, cj)"
ATTENTION = f"n = LayerNormalization(x, g, s) {PROJECTIONS} {SCORES} {REST}"
MASKED = ATTENTION.replace("(z, temper)", "(z, temper)").replace("Softmax(zt)", "Softmax(zm)").replace("c = ", "zm = Add(zt, mask) c = ")


def _model(body: str, pick: str = "y = Gather <axis = 1> (h, first)", sizes: str = "B, 5, 8") -> onnx.ModelProto:
    return graph(f"(float[{sizes}] x) => (y) {{ {body} {pick} }}", **CONSTANTS)


def _rows(model: onnx.ModelProto) -> list[int]:
    """Positions in each product with constant weights."""
    inferred = shape_inference.infer_shapes(model)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    weights = {t.name for t in model.graph.initializer}
    return [shapes[node.output[0]][1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]


@pytest.mark.parametrize(
    "pick",
    [
        "y = Gather <axis = 1> (h, first)",
        "y = Gather <axis = -2> (h, one)",
        "y = Slice (h, start, end, axis)",
        "i = Identity(h) y = Gather <axis = 1> (i, first)",
        "p = Gather <axis = 1> (h, first) q = Gather <axis = 1> (h, one) f = ReduceSum(q) y = Add(p, f)",
    ],
)
@pytest.mark.parametrize("body", [MLP, ATTENTION])
def test_every_way_to_read_the_first_position_is_seen(pick: str, body: str) -> None:
    model = _model(body, pick)
    same_answers(UsedPosition(), model, FEEDS)
    assert 1 in _rows(UsedPosition().apply(model))


def test_an_mlp_is_computed_for_one_position() -> None:
    assert _rows(UsedPosition().apply(_model(MLP))) == [1, 1]


def test_keys_and_values_are_computed_for_all() -> None:
    after = UsedPosition().apply(_model(ATTENTION))
    assert sorted(_rows(after)) == [1, 5, 5]


def test_a_mask_gives_the_row_of_the_position() -> None:
    model = _model(MASKED)
    assert same_answers(UsedPosition(), model, FEEDS)["Gather"] == 4, "of the normalized input, the residual, the mask; and the pick"


@pytest.mark.parametrize("form", ["contrib", "standard"])
@pytest.mark.parametrize("body", [ATTENTION, MASKED])
def test_fused_attention_is_narrowed_too(form: str, body: str) -> None:
    model = graph(f"(float[B, 5, 8] x) => (y) {{ {body} y = Gather <axis = 1> (h, first) }}", 23, **CONSTANTS)
    fused = parse_pass(f"fuse_attention:form={form}").apply(model)
    assert kinds(fused)["MultiHeadAttention" if form == "contrib" else "Attention"] == 1
    same_answers(UsedPosition(), fused, FEEDS)
    assert sorted(_rows(UsedPosition().apply(fused))) == [1, 5, 5]


def test_attention_is_still_recognized_and_merged_afterwards() -> None:
    narrowed = UsedPosition().apply(_model(ATTENTION))
    after = MergeProjections().apply(FuseAttention().apply(narrowed))
    assert kinds(after)["MultiHeadAttention"] == 1
    assert kinds(after)["MatMul"] == 2, "queries, and keys beside values"


def test_the_last_position_of_a_sequence_of_unknown_length() -> None:
    model = graph(f"(float[B, S, 8] x) => (y) {{ {MLP} y = Gather <axis = 1> (h, last) }}", **CONSTANTS, last=np.array(-1))
    for length in (3, 5):
        same_answers(UsedPosition(), model, {"x": drawn(2, length, WIDTH)})


def test_a_later_layer_that_reads_all_positions_keeps_them() -> None:
    body = MLP + " all = ReduceSum(a) "
    after = UsedPosition().apply(_model(body, "p = Gather <axis = 1> (h, first) y = Add(p, all)"))
    assert _rows(after) == [5, 1], "the second product is read at one position, the first at all"


@pytest.mark.parametrize(
    ("body", "pick"),
    [
        (MLP, "y = Identity(h)"),
        (MLP, "y = Gather <axis = 2> (h, first)"),  # one feature of all positions
        (MLP, "two = Constant <value_ints = [0, 1]> () y = Gather <axis = 1> (h, two)"),
        (MLP, "zero = Sub(first, first) y = Gather <axis = 1> (h, zero)"),  # a position that is computed
        (MLP + " f = Softmax <axis = 1> (h)", "y = Gather <axis = 1> (f, first)"),
        ("h = Neg(x)", "y = Gather <axis = 1> (h, first)"),  # nothing worth it
        (MLP, "p = Gather <axis = 1> (h, first) q = ReduceMax(h) y = Add(p, q)"),
        (MLP, "p = Gather <axis = 1> (h, first) t = Constant <value_int = 1> () q = Gather <axis = 1> (h, t) y = Add(p, q)"),
    ],
)
def test_where_more_is_read_nothing_changes(body: str, pick: str) -> None:
    with pytest.raises(PassNotApplicable, match="no matrix product of which one constant position"):
        UsedPosition().apply(_model(body, pick))


def test_an_old_opset_is_refused_with_the_reason() -> None:
    model = graph("(float[B, 5, 8] x) => (y) { h = MatMul(x, u) y = Gather <axis = 1> (h, first) }", 12, **CONSTANTS)
    with pytest.raises(PassNotApplicable, match="its opset is 12"):
        UsedPosition().apply(model)
