"""Where a graph computes multi-head attention, as torch's exporters write it: ``softmax(scale * Q Kᵀ + mask) V`` between reshapes.

References
----------
Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optimize.passes.editing import (
    Edit,
    integer,
    integers,
    made_by,
    may_be_float32,
    number,
    only_reader,
    rank,
    same_axis,
    scalar,
    width,
    without_factors,
)
from optimize.passes.shapes import axis_of, elements

TO_HEADS = (0, 2, 1, 3)
"""``(B, S, N, D)`` ↔ ``(B, N, S, D)``."""

KEYS_TO_HEADS = (0, 2, 3, 1)
"""``(B, T, N, D)`` → ``(B, N, D, T)``, the transposition of the product folded in."""


@dataclass(frozen=True)
class AttentionSite:
    """One attention.

    Attributes
    ----------
    query, key, value
        ``(B, S, N·D)`` and twice ``(B, T, N·D)``, heads side by side.
    heads
        ``N``.
    scale
        What the scores are multiplied by.
    mask
        Added to the scores, or of booleans: which are kept; broadcasts to ``(B, N, S, T)``.
    causal
        A position sees none after it.
    tail
        ``(B, S, N·D)``: what the attention gives.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    heads: int
    scale: float
    mask: ir.Value | None
    causal: bool
    tail: ir.Value


def attention_sites(edit: Edit) -> list[AttentionSite]:
    """All attentions of a graph, in order."""
    found = [_around_softmax(node, edit.opset) for node in edit.nodes("Softmax")]
    found += [_around_attention(node) for node in edit.nodes("Attention") if not node.domain]
    return [site for site in found if site is not None and may_be_float32(site.query)]


def _around_softmax(softmax: ir.Node, opset: int) -> AttentionSite | None:
    scores = softmax.inputs[0]
    # Before opset 13 all axes from `axis` on shared one softmax, and 1 was the default.
    if scores is None or rank(scores) != 4 or integer(softmax, "axis", -1 if opset >= 13 else 1) not in (-1, 3):
        return None
    weights, guarded = _past_guard(softmax.outputs[0])
    product = only_reader(weights, "MatMul") if weights is not None else None
    if product is None or product.inputs[0] is not weights:
        return None
    scores, mask = _without_mask(scores)
    if scores is None or (guarded and not _is_finite(mask)):
        return None
    scores, scale = without_factors(scores)
    scoring = made_by(scores, "MatMul")
    if scoring is None:
        return None
    query, key = _heads(scoring.inputs[0]), _transposed_heads(scoring.inputs[1])
    value = _heads(product.inputs[1])
    tail = _tail(product.outputs[0])
    if query is None or key is None or value is None or tail is None:
        return None
    return _site(query, key, value, tail, scale=scale, mask=mask)


def _around_attention(node: ir.Node) -> AttentionSite | None:
    """ONNX's own operator, as opset 23 and later have it."""
    given = [*node.inputs, None, None, None]
    has_cache_or_scores = any(value is not None for value in given[4:]) or len(node.outputs) > 1
    if has_cache_or_scores or number(node, "softcap", 0.0) or integer(node, "softmax_precision", 1) != 1:
        return None
    query, key, value = (_heads(each) for each in given[:3])
    tail = _tail(node.outputs[0])
    if query is None or key is None or value is None or tail is None:
        return None
    scale = number(node, "scale", 0.0) or (query.heads and ((width(query.source) or 0) / query.heads) ** -0.5)
    return _site(query, key, value, tail, scale=scale, mask=given[3], causal=bool(integer(node, "is_causal", 0)))


@dataclass(frozen=True)
class _Heads:
    """``(B, S, N·D)``, how many heads it was split into, and the factor that it was multiplied by since."""

    source: ir.Value
    heads: int
    factor: float


def _site(
    query: _Heads, key: _Heads, value: _Heads, tail: ir.Value, *, scale: float, mask: ir.Value | None, causal: bool = False
) -> AttentionSite | None:
    if not query.heads == key.heads == value.heads or value.factor != 1.0 or width(tail) != width(value.source):
        return None
    scale *= query.factor * key.factor
    return AttentionSite(query.source, key.source, value.source, query.heads, scale, mask, causal, tail)


def _past_guard(weights: ir.Value) -> tuple[ir.Value | None, bool]:
    """The weights after torch's ``where(isnan(weights), 0, weights)``, and whether that was there."""
    readers = weights.consumers()
    if len(weights.uses()) == 1:
        return weights, False
    where = next((node for node in readers if node.op_type == "Where" and not node.domain), None)
    if where is None or len(weights.uses()) != 2 or weights.is_graph_output():
        return None, False
    asks = made_by(where.inputs[0], "IsNaN")
    if asks is None or asks.inputs[0] is not weights or scalar(where.inputs[1]) != 0.0 or where.inputs[2] is not weights:
        return None, False
    return where.outputs[0], True


def _without_mask(scores: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """Split ``scores + mask``."""
    added = made_by(scores, "Add")
    if added is None:
        return scores, None
    first, second = added.inputs
    for product, mask in ((first, second), (second, first)):
        if product is not None and mask is not None and made_by(without_factors(product)[0], "MatMul") is not None and rank(mask) == 4:
            return product, mask
    return None, None


def _is_finite(mask: ir.Value | None) -> bool:
    """Whether no row can be masked by infinities alone, whose softmax is not a number: the guard against it may go."""
    chosen = made_by(mask, "Where")
    return mask is None or (
        chosen is not None and all(np.isfinite(scalar(value) or np.inf) or scalar(value) == 0 for value in chosen.inputs[1:])
    )


def _heads(value: ir.Value | None) -> _Heads | None:
    """Where the heads ``(B, N, S, D)`` were split from."""
    value, factor = without_factors(value)
    turned = made_by(value, "Transpose")
    is_turned = turned is not None and integers(turned, "perm") == TO_HEADS
    return _split(turned.inputs[0], factor) if turned is not None and is_turned else None


def _transposed_heads(value: ir.Value | None) -> _Heads | None:
    """Where the heads ``(B, N, D, S)`` of the keys were split from."""
    value, factor = without_factors(value)
    turned = made_by(value, "Transpose")
    order = integers(turned, "perm") if turned is not None else None
    if turned is not None and order == KEYS_TO_HEADS:
        return _split(turned.inputs[0], factor)
    inner = _heads(turned.inputs[0] if turned is not None and order == (0, 1, 3, 2) else _swapped(value))
    return None if inner is None else _Heads(inner.source, inner.heads, inner.factor * factor)


def _split(value: ir.Value | None, factor: float) -> _Heads | None:
    """The ``(B, S, N·D)`` that was split into ``(B, S, N, D)``."""
    split = made_by(value, "Reshape")
    source = split.inputs[0] if split is not None else None
    if source is None or value is None or rank(value) != 4 or rank(source) != 3 or value.shape is None:
        return None
    whole, heads, size = width(source), value.shape[2], value.shape[3]
    if whole is None:
        return None
    if not isinstance(heads, int):
        heads = whole // size if isinstance(size, int) and size else 0
    fits = heads > 0 and whole % heads == 0 and (not isinstance(size, int) or heads * size == whole)
    return _Heads(source, heads, factor) if fits and _same_leading(source, value) else None


def _swapped(value: ir.Value | None) -> ir.Value | None:
    """What torch's decomposition of ``scaled_dot_product_attention`` swaps the last two axes of, by way of three axes."""
    back = made_by(value, "Reshape")
    turned = made_by(back.inputs[0], "Transpose") if back is not None else None
    flat = made_by(turned.inputs[0], "Reshape") if turned is not None else None
    if back is None or turned is None or flat is None or integers(turned, "perm") != (0, 2, 1):
        return None
    source = flat.inputs[0]
    if source is None or rank(source) != 4:
        return None
    axes = [axis_of(source, axis) for axis in range(4)]
    three, four = elements(flat.inputs[1]), elements(back.inputs[1])
    if three is None or four is None or len(three) != 3 or len(four) != 4:
        return None
    keeps = three[1:] == axes[2:] and four[2:] == [axes[3], axes[2]] and four[0] in (-1, axes[0]) and four[1] in (-1, axes[1])
    return source if keeps else None


def _tail(heads: ir.Value) -> ir.Value | None:
    """Heads ``(B, N, S, D)`` side by side again: ``(B, S, N·D)``."""
    turned = only_reader(heads, "Transpose")
    joined = only_reader(turned.outputs[0], "Reshape") if turned is not None and integers(turned, "perm") == TO_HEADS else None
    if turned is None or joined is None:
        return None
    tail = joined.outputs[0]
    return tail if rank(tail) == 3 and _same_leading(tail, turned.outputs[0]) else None


def _same_leading(three: ir.Value, four: ir.Value) -> bool:
    """Whether one of the first two axes is the same; the other then is too, since the last ones hold equally much."""
    return same_axis(three, 0, four, 0) or same_axis(three, 1, four, 1)
