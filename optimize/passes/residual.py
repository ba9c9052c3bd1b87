"""The residual stream of a transformer: every value that has its channels, and what writes, reads and normalizes them.

Letters: ``H`` channels, ``K`` and ``M`` inputs and outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from optimize.passes.editing import MICROSOFT, Edit, array, axes, integer, integers, is_feature, rank, width
from optimize.passes.hidden import ELEMENTWISE, ELEMENTWISE_OF_RUNTIME
from optimize.passes.linear import Linear, linears
from optimize.passes.shapes import elements

NORMS = frozenset(["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"])

Rule = Callable[[ir.Node], bool]

Slot = tuple[ir.Node, int]
"""A node and the number of one of its inputs."""


@dataclass
class Stream:
    """Values with the same channels on their last axis, which can only become fewer together.

    Attributes
    ----------
    width
        ``H``.
    values
        All of them, sources excepted.
    writers, readers
        Layers whose outputs, or inputs, have the channels; one may be both.
    norms
        Normalizations over the channels, with constant scales.
    sums
        How many sums of two values there are: residual connections.
    constants
        Inputs that hold a number a channel on their last axis: scales and biases, embedding tables, class tokens.
    shapes
        Inputs that are a shape whose last element is ``H``.
    sources
        Values that something else makes, which goes on to make all channels.
    reads
        For each value: inputs of nodes that take it with fewer channels,
    whole
        and of those that need all.
    """

    width: int
    values: dict[ir.Value, None] = field(default_factory=dict)
    writers: dict[ir.Node, Linear] = field(default_factory=dict)
    readers: dict[ir.Node, Linear] = field(default_factory=dict)
    norms: dict[ir.Node, None] = field(default_factory=dict)
    sums: int = 0
    constants: dict[Slot, None] = field(default_factory=dict)
    shapes: dict[Slot, None] = field(default_factory=dict)
    sources: dict[ir.Value, None] = field(default_factory=dict)
    reads: dict[ir.Value, list[Slot]] = field(default_factory=dict)
    whole: dict[ir.Value, list[Slot]] = field(default_factory=dict)

    @property
    def is_residual(self) -> bool:
        """Whether it is what the name says: layers write into it and read from it, sums carry it past them, and it is normalized."""
        return bool(self.norms and self.sums and self.writers and self.readers)


def streams(edit: Edit) -> list[Stream]:
    """All residual streams of a graph, in order."""
    layers = linears(edit)
    by_output, by_node = {layer.output: layer for layer in layers}, {layer.node: layer for layer in layers}
    found: list[Stream] = []
    for node in edit.nodes(*NORMS):
        start = node.inputs[0]
        size = width(start) if start is not None else None
        if start is None or not size or any(start in stream.values for stream in found):
            continue
        stream = _Search(edit.graph, by_output, by_node, size).from_value(start)
        if stream.is_residual:
            found.append(stream)
    return found


@dataclass(frozen=True)
class _Step:
    """A node that keeps channels apart: the slots of values and constants that have them, and of a shape that does."""

    values: tuple[int, ...]
    constants: tuple[int, ...] = ()
    shape: int | None = None


class _Search:
    """The search for one stream, along its edges both ways. What no rule knows is a border: it gives, or is given, all channels."""

    def __init__(self, graph: ir.Graph, by_output: dict[ir.Value, Linear], by_node: dict[ir.Node, Linear], channels: int) -> None:
        self.graph, self.by_output, self.by_node = graph, by_output, by_node
        self.stream = Stream(channels)
        self._pending: list[ir.Value] = []

    def from_value(self, start: ir.Value) -> Stream:
        stream = self.stream
        self._pending.append(start)
        while self._pending:
            value = self._pending.pop()
            if value in stream.values or value in stream.sources:
                continue
            if not self._follow_back(value):
                stream.sources[value] = None
            else:
                stream.values[value] = None
            for reader, index in value.uses():
                if self._passes(reader):
                    stream.reads.setdefault(value, []).append((reader, index))
                elif index == 0 and reader in self.by_node and value in stream.values:
                    stream.readers[reader] = self.by_node[reader]
                elif not self._asks_for_size(reader):
                    stream.whole.setdefault(value, []).append((reader, index))
        return stream

    def _follow_back(self, value: ir.Value) -> bool:
        layer, node = self.by_output.get(value), value.producer()
        if layer is not None:
            self.stream.writers[layer.node] = layer
            return True
        return node is not None and self._passes(node)

    def _passes(self, node: ir.Node) -> bool:
        """Whether a node keeps channels apart; what else it takes and gives joins the search."""
        step = self._step(node)
        if step is None:
            return False
        stream = self.stream
        if node.op_type == "Add" and len(step.values) == 2 and node.outputs[0] not in stream.values:
            stream.sums += 1
        if node.op_type in NORMS:
            stream.norms[node] = None
        stream.constants |= dict.fromkeys((node, index) for index in step.constants)
        if step.shape is not None:
            stream.shapes[node, step.shape] = None
        self._pending += [value for value in (node.inputs[index] for index in step.values) if value is not None]
        self._pending.append(node.outputs[0])
        return True

    def _step(self, node: ir.Node) -> _Step | None:
        output = node.outputs[0]
        # Sums of a layer's product and its bias belong to the layer.
        has_extras = any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:])
        if is_feature(node) or node.graph is not self.graph or has_extras or output in self.by_output or node in self.by_node:
            return None
        if not node.domain and node.op_type in _MOVES and node.inputs[0] is not None:
            return self._move(node, _MOVES[node.op_type])
        if width(output) != self.stream.width:
            return None
        if node.op_type in NORMS:
            return self._norm(node)
        if node.op_type in ({"": ELEMENTWISE | {"Where", "Cast"}, MICROSOFT: ELEMENTWISE_OF_RUNTIME}.get(node.domain, ())):
            return self._by_width(node, range(len(node.inputs)))
        return None

    def _norm(self, node: ir.Node) -> _Step | None:
        source = node.inputs[0]
        scales = [array(given) for given in node.inputs[1:] if given is not None]
        last = integer(node, "axis", -1) in (-1, (rank(node.outputs[0]) or 0) - 1)
        fits = scales and all(held is not None and held.shape == (self.stream.width,) for held in scales)
        if not last or not fits or source is None or array(source) is not None:
            return None
        return _Step((0,), tuple(i for i in range(1, len(node.inputs)) if node.inputs[i] is not None))

    def _by_width(self, node: ir.Node, slots: range) -> _Step | None:
        """Sort inputs that broadcast: those with the channels, constants with them, and those with one number for all."""
        values: list[int] = []
        constants: list[int] = []
        for index in slots:
            given = node.inputs[index]
            if given is None:
                continue
            held = array(given)
            size = (held.shape[-1] if held.ndim else 1) if held is not None else 1 if rank(given) == 0 else width(given)
            if size == self.stream.width:
                (values if held is None else constants).append(index)
            elif size != 1:
                return None
        return _Step(tuple(values), tuple(constants)) if values or constants else None

    def _move(self, node: ir.Node, keeps_last: Rule) -> _Step | None:
        """Operators that move, repeat or leave out positions."""
        if width(node.outputs[0]) != self.stream.width or not keeps_last(node):
            return None
        shape = None
        if node.op_type in ("Reshape", "Expand"):
            wanted = elements(node.inputs[1])
            if not wanted or wanted[-1] not in (1, -1, self.stream.width):
                return None
            shape = 1 if wanted[-1] == self.stream.width else None
        step = self._by_width(node, range(len(node.inputs)) if node.op_type == "Concat" else range(1))
        return None if step is None else _Step(step.values, step.constants, shape)

    def _asks_for_size(self, node: ir.Node) -> bool:
        """Whether only the sizes of other axes are read."""
        if node.op_type != "Shape" or node.domain or node.inputs[0] is None:
            return False
        count = rank(node.inputs[0]) or 0
        end = integer(node, "end", count)
        if (end + count if end < 0 else end) < count:
            return True
        picked = [_picks(reader, count) for reader in node.outputs[0].consumers()]
        return not node.outputs[0].is_graph_output() and integer(node, "start", 0) == 0 and all(picked)


def _picks(reader: ir.Node, count: int) -> bool:
    """Whether a node takes other elements of a shape than the last."""
    taken = elements(reader.inputs[1]) if reader.op_type == "Gather" and not reader.domain else None
    return bool(taken) and all(isinstance(i, int) and 0 <= i % count < count - 1 for i in taken or ())


def _count(value: ir.Value | None) -> int:
    held = array(value)
    return held.ndim if held is not None else (rank(value) or 0) if value is not None else 0


def _axis_before_last(node: ir.Node) -> bool:
    """The node's axis is one of positions."""
    count = _count(node.inputs[0])
    return count > 1 and integer(node, "axis", 0) % count != count - 1


def _axes_before_last(node: ir.Node) -> bool:
    count, gone = _count(node.inputs[0]), axes(node)
    if node.op_type == "Unsqueeze":
        count = _count(node.outputs[0])
    return bool(gone) and all(axis % count != count - 1 for axis in gone or ())


def _slices_positions(node: ir.Node) -> bool:
    count = _count(node.inputs[0])
    taken = elements(node.inputs[3]) if len(node.inputs) > 3 else None
    return bool(taken) and all(isinstance(axis, int) and axis % count != count - 1 for axis in taken or ())


def _keeps_last_in_place(node: ir.Node) -> bool:
    order = integers(node, "perm")
    return bool(order) and order is not None and order[-1] == len(order) - 1


def _picks_positions(node: ir.Node) -> bool:
    """``GatherND`` of whole positions."""
    indices = node.inputs[1]
    return indices is not None and not integer(node, "batch_dims", 0) and 0 < (width(indices) or 0) < _count(node.inputs[0])


def _always(node: ir.Node) -> bool:
    return True


_MOVES: dict[str, Rule] = {
    "Gather": _axis_before_last,
    "GatherND": _picks_positions,
    "Concat": _axis_before_last,
    "Slice": _slices_positions,
    "Transpose": _keeps_last_in_place,
    "Reshape": _always,
    "Expand": _always,
    **dict.fromkeys(("Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _axes_before_last),
}
"""Operators of ONNX → whether such a node leaves the last axis as it is."""
