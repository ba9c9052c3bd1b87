"""Attention as one operator, between the linear layers that project its inputs and its output.

Letters: ``N`` heads, ``K`` width of a projection's input, ``D`` width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from optimize.passes.editing import MICROSOFT, Edit, array, integer, integers, made_by, rank
from optimize.passes.linear import Linear, linears
from optimize.passes.shapes import elements

Floats = npt.NDArray[np.float32]

Slice = tuple[int, npt.NDArray[np.generic], int]
"""Number of a node's input, the constant that it is, and the axis along which heads lie."""


@dataclass(frozen=True)
class FusedAttention:
    """One attention whose heads can be removed.

    Attributes
    ----------
    projections
        Layers of queries, keys and values; none where the operator projects by itself.
    packed
        Constants of the operator that hold queries', keys' and values' projections side by side.
    mask
        A constant mask with a row a head.
    counts
        Attributes that hold the number of heads.
    key_width, value_width
        ``N·D`` of queries and keys, and of values.
    value_weight
        ``(K, N·D)``, projection of the values.
    """

    node: ir.Node
    heads: int
    projections: tuple[Linear, ...]
    packed: tuple[Slice, ...]
    mask: Slice | None
    counts: tuple[str, ...]
    key_width: int
    value_width: int
    value_weight: Floats
    readers: tuple[Linear, ...]

    @property
    def output(self) -> ir.Value:
        """``(B, S, N·D)``: heads side by side."""
        return self.node.outputs[0]


def fused_attentions(edit: Edit) -> list[FusedAttention]:
    """All attentions that only linear layers surround, in order; not those with a cache, or whose queries share keys and values."""
    layers = linears(edit)
    by_output = {layer.output: layer for layer in layers}
    by_node = {layer.node: layer for layer in layers}
    found = []
    for node in edit.nodes("MultiHeadAttention", "Attention"):
        readers = _readers(node, by_node)
        if not readers:
            continue
        is_packed = node.op_type == "Attention" and node.domain == MICROSOFT
        site = _packed(node, readers) if is_packed else _separate(node, readers, by_output)
        if site is not None:
            found.append(site)
    return found


def _readers(node: ir.Node, by_node: dict[ir.Node, Linear]) -> tuple[Linear, ...]:
    output = node.outputs[0]
    is_alone = not output.is_graph_output() and not any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:])
    if not is_alone or not all(index == 0 and reader in by_node for reader, index in output.uses()):
        return ()
    return tuple(by_node[reader] for reader in output.consumers())


def _separate(node: ir.Node, readers: tuple[Linear, ...], by_output: dict[ir.Value, Linear]) -> FusedAttention | None:
    """Queries, keys and values of three layers: ``MultiHeadAttention`` of ONNX Runtime, and ONNX's own ``Attention``."""
    is_standard = node.op_type == "Attention"
    counts = ("q_num_heads", "kv_num_heads") if is_standard else ("num_heads",)
    given: list[ir.Value | None] = [*node.inputs, *[None] * 8]
    bias, mask_index, cache = (None, 3, given[4:6]) if is_standard else (given[3], 5, given[6:10])
    heads = {integer(node, name, 0) for name in counts}
    projections = [by_output.get(value) if value is not None else None for value in given[:3]]
    if len(heads) != 1 or any(value is not None for value in cache) or any(layer is None for layer in projections):
        return None
    layers = [layer for layer in projections if layer is not None]
    if any(rank(layer.output) != 3 or len(layer.output.uses()) != 1 or layer.output.is_graph_output() for layer in layers):
        return None
    (count,) = heads
    widths = [layer.weight.shape[1] for layer in layers]
    is_known, mask = _mask_of(node, mask_index, count)
    packed: tuple[Slice, ...] = ()
    if bias is not None:
        held = array(bias)
        if held is None or held.shape != (sum(widths),):
            return None
        packed = ((3, held, 0),)
    if not is_known or count < 1 or widths[0] != widths[1] or any(size % count for size in widths):
        return None
    return FusedAttention(node, count, tuple(layers), packed, mask, counts, widths[0], widths[2], layers[2].weight, readers)


def _packed(node: ir.Node, readers: tuple[Linear, ...]) -> FusedAttention | None:
    """ONNX Runtime's ``Attention``, which projects by itself with weights side by side."""
    given: list[ir.Value | None] = [*node.inputs, *[None] * 8]
    weight, bias = array(given[1]), array(given[2])
    count = integer(node, "num_heads", 0)
    has_state = given[4] is not None or integer(node, "do_rotary", 0)
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or has_state or count < 1:
        return None
    sizes = integers(node, "qkv_hidden_sizes") or (weight.shape[1] // 3,) * 3
    is_known, mask = _mask_of(node, 5, count)
    is_odd = sum(sizes) != weight.shape[1] or sizes[0] != sizes[1] or any(size % count for size in sizes)
    if not is_known or is_odd or (given[2] is not None and (bias is None or bias.shape != (sum(sizes),))):
        return None
    packed: tuple[Slice, ...] = ((1, weight, 1),) + (() if bias is None else ((2, bias, 0),))
    return FusedAttention(node, count, (), packed, mask, ("num_heads",), sizes[0], sizes[2], weight[:, sizes[0] + sizes[1] :], readers)


def _mask_of(node: ir.Node, index: int, heads: int) -> tuple[bool, Slice | None]:
    """Whether it can be told that heads share the mask or that it is constant; and in the latter case the mask, if it has a row a head."""
    mask = node.inputs[index] if index < len(node.inputs) else None
    if mask is None or rank(mask) == 2:
        return True, None
    axis, held = (rank(mask) or 0) - 3, array(mask)
    if axis in (0, 1) and _axis_size(mask, axis) == 1:
        return True, None
    if axis not in (0, 1) or held is None or held.shape[axis] != heads:
        return False, None
    return True, (index, held, axis)


def _axis_size(mask: ir.Value, axis: int) -> object:
    size = mask.shape[axis] if mask.shape is not None else None
    expanded = made_by(mask, "Expand")
    if isinstance(size, int) or expanded is None or expanded.inputs[0] is None or expanded.inputs[0].shape is None:
        return size
    target = elements(expanded.inputs[1])
    inner = expanded.inputs[0].shape
    return 1 if target is not None and len(target) == len(inner) and target[axis] == 1 and inner[axis] == 1 else size
