"""Which part of its inputs an operator needs when one position of its output is read: the rules of `optimize.passes.used_position`.

Operators are those of opset 13 and later.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import onnx_ir as ir

from optimize.passes.editing import MICROSOFT, axes, integer, integers, rank, same_axis

Needs = dict[int, int]
"""Number of an input → its axis along which the same one position is needed; inputs that are not named are needed whole."""

Rule = Callable[[ir.Node, int], Needs | None]
"""What a node needs for one position along an axis of its output, not negative; None where it cannot be told."""


def needs_of(node: ir.Node, axis: int) -> Needs | None:
    """Apply the rule of an operator."""
    rule = _RULES.get((node.domain, node.op_type))
    return rule(node, axis) if rule is not None and rank(node.outputs[0]) is not None else None


def _elementwise(node: ir.Node, axis: int) -> Needs | None:
    output = node.outputs[0]
    needs: Needs = {}
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        own, axis_count = rank(value), rank(output)
        if own is None or axis_count is None or value.shape is None:
            return None
        aligned = axis - (axis_count - own)
        if aligned < 0 or value.shape[aligned] == 1:
            continue  # broadcast along it
        if not same_axis(value, aligned, output, axis):
            return None
        needs[i] = aligned
    return needs


def _product(node: ir.Node, axis: int) -> Needs | None:
    """A position is a row of the left side."""
    left, right = (rank(value) if value is not None else None for value in node.inputs)
    if left is None or right is None or left < 2 or right < 2 or left < right:
        return None
    return {0: axis} if axis == left - 2 else None


def _normalization(node: ir.Node, axis: int) -> Needs | None:
    first = integer(node, "axis", -1)
    return {0: axis} if axis < first % (rank(node.outputs[0]) or 1) else None


def _residual_normalization(node: ir.Node, axis: int) -> Needs | None:
    first, second = node.inputs[:2]
    if first is None or second is None or not same_axis(first, axis, second, axis) or rank(first) != rank(second):
        return None
    return {0: axis, 1: axis} if axis == (rank(first) or 0) - 2 else None


def _softmax(node: ir.Node, axis: int) -> Needs | None:
    return {0: axis} if axis != integer(node, "axis", -1) % (rank(node.outputs[0]) or 1) else None


def _reduction(node: ir.Node, axis: int) -> Needs | None:
    gone, count = axes(node), rank(node.outputs[0]) or 1
    if gone is None or not gone or not integer(node, "keepdims", 1) or axis in {each % count for each in gone}:
        return None
    return {0: axis}


def _transpose(node: ir.Node, axis: int) -> Needs | None:
    order = integers(node, "perm") or tuple(reversed(range(rank(node.outputs[0]) or 0)))
    return {0: order[axis]}


def _reshape(node: ir.Node, axis: int) -> Needs | None:
    """Heads are split and joined behind the positions: the first two axes stay and the others are known."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None or axis != 1 or integer(node, "allowzero", 0):
        return None
    rests = (tuple(source.shape[2:]), tuple(output.shape[2:]))
    sizes = [[size for size in rest if isinstance(size, int)] for rest in rests]
    known = all(found and len(found) == len(rest) for found, rest in zip(sizes, rests, strict=True))
    # With as many positions and as much in each, there are as many in the batch.
    return {0: 1} if known and prod(sizes[0]) == prod(sizes[1]) > 0 and same_axis(source, 1, output, 1) else None


def _attention(node: ir.Node, axis: int) -> Needs | None:
    """ONNX's operator: queries are alone in being of one position; the mask has a row a query."""
    given = [*node.inputs, None, None, None, None]
    query, mask = given[0], given[3]
    if query is None or any(value is not None for value in given[4:]) or len(node.outputs) > 1 or integer(node, "is_causal", 0):
        return None
    if axis != (rank(query) or 0) - 2:
        return None
    return _with_mask({0: axis}, 3, mask, query, axis)


def _contrib_attention(node: ir.Node, axis: int) -> Needs | None:
    """ONNX Runtime's operator, with queries, keys and values apart."""
    given = [*node.inputs, *[None] * 6]
    query, key, value, _, padding, mask = given[:6]
    if query is None or key is None or value is None or any(each is not None for each in given[6:]) or integer(node, "unidirectional", 0):
        return None
    # A padding mask of one axis or three tells of queries too; a fourth axis of the keys means that they come from a cache.
    is_plain = rank(query) == rank(key) == rank(value) == 3 and (padding is None or rank(padding) == 2)
    return _with_mask({0: 1}, 5, mask, query, 1) if axis == 1 and is_plain and len(node.outputs) == 1 else None


def _with_mask(needs: Needs, slot: int, mask: ir.Value | None, query: ir.Value, axis: int) -> Needs | None:
    if mask is None:
        return needs
    rows = (rank(mask) or 0) - 2
    if mask.shape is None or rows < 0:
        return None
    if mask.shape[rows] == 1:
        return needs
    return needs | {slot: rows} if same_axis(mask, rows, query, axis) else None


_RULES: dict[tuple[str, str], Rule] = {
    **{
        ("", kind): _elementwise
        for kind in (
            *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "And", "Or", "Not", "Equal", "Less", "Greater", "PRelu"),
            *("Relu", "LeakyRelu", "Gelu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Mish", "Swish", "Sigmoid", "Softplus"),
            *("Tanh", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Sign", "IsNaN", "Cast", "Identity", "Clip"),
        )
    },
    **{(MICROSOFT, kind): _elementwise for kind in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu")},
    **{("", kind): _reduction for kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2")},
    **{("", kind): _normalization for kind in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")},
    **{(MICROSOFT, kind): _residual_normalization for kind in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")},
    ("", "MatMul"): _product,
    ("", "Softmax"): _softmax,
    ("", "Transpose"): _transpose,
    ("", "Reshape"): _reshape,
    ("", "Attention"): _attention,
    (MICROSOFT, "MultiHeadAttention"): _contrib_attention,
}
"""Domain and operator → rule. What is not here needs its inputs whole; so do quantized operators, whose scale all positions share."""
