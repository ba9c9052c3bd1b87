"""Hidden units between linear layers: who writes them, who reads them, and everything between, which treats each unit by itself.

Letters: ``H`` units, ``K`` and ``M`` inputs and outputs of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from optimize.passes.editing import MICROSOFT, Edit, array, integer, is_feature, rank, width
from optimize.passes.linear import Linear, linears

ELEMENTWISE = frozenset({
    "Abs", "Add", "Celu", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log",
    "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt",
    "Sub", "Swish", "Tanh", "ThresholdedRelu",
})  # fmt: skip
"""ONNX's operators that compute each element from the elements at its place alone."""

ELEMENTWISE_OF_RUNTIME = frozenset(["BiasGelu", "FastGelu", "Gelu", "QuickGelu"])


@dataclass(frozen=True)
class Reader:
    """A layer that reads the units, from row `start` of its weights on: 0 unless it reads several values side by side."""

    layer: Linear
    value: ir.Value
    start: int


@dataclass(frozen=True)
class Hidden:
    """Units that can be removed without anybody else noticing.

    Attributes
    ----------
    width
        ``H``.
    writers
        Layers whose outputs are the units, before what is elementwise.
    values
        All values of this width between writers and readers, the writers' outputs included.
    constants
        Inputs of nodes that hold one number a unit in their last axis: node and number of the input.
    joined
        Values that hold the units beside others.
    """

    width: int
    writers: tuple[Linear, ...]
    readers: tuple[Reader, ...]
    values: tuple[ir.Value, ...]
    constants: tuple[tuple[ir.Node, int], ...]
    joined: tuple[ir.Value, ...]


def hidden_units(edit: Edit) -> list[Hidden]:
    """All groups of hidden units of a graph, in order.

    A group is closed: everything that computes or reads one of its values is elementwise, repeats rows, or is a linear layer. Where
    anything else does, a normalization for one, there is no group.
    """
    layers = linears(edit)
    by_output = {layer.output: layer for layer in layers}
    by_node = {layer.node: layer for layer in layers}
    found: list[Hidden] = []
    seen: set[ir.Value] = set()
    for layer in layers:
        if layer.output not in seen:
            group = _Search(by_output, by_node, layer.weight.shape[1])
            if group.closes(layer.output):
                found.append(group.hidden())
            seen.update(group.values)
    return found


class _Search:
    """The search for one group, along its edges both ways."""

    def __init__(self, by_output: dict[ir.Value, Linear], by_node: dict[ir.Node, Linear], units: int) -> None:
        self.by_output, self.by_node, self.units = by_output, by_node, units
        self.values: dict[ir.Value, None] = {}
        self.writers: dict[ir.Node, Linear] = {}
        self.readers: list[Reader] = []
        self.constants: dict[tuple[ir.Node, int], None] = {}
        self.joined: dict[ir.Value, None] = {}
        self._pending: list[ir.Value] = []

    def hidden(self) -> Hidden:
        return Hidden(
            self.units, tuple(self.writers.values()), tuple(self.readers), tuple(self.values), tuple(self.constants), tuple(self.joined)
        )

    def closes(self, start: ir.Value) -> bool:
        self._pending.append(start)
        while self._pending:
            value = self._pending.pop()
            if value in self.values:
                continue
            self.values[value] = None
            if value.is_graph_output() or width(value) != self.units or not self._follow_back(value) or not self._follow(value):
                return False
        is_own = {reader.layer.node for reader in self.readers} & set(self.writers)
        return bool(self.readers) and not is_own and self.units > 1

    def _follow_back(self, value: ir.Value) -> bool:
        layer, node = self.by_output.get(value), value.producer()
        if layer is not None:
            self.writers[layer.node] = layer
            return True
        return node is not None and self._passes(node)

    def _follow(self, value: ir.Value) -> bool:
        return all(self._reads(node, index, value) or self._joins(node, value) or self._passes(node) for node, index in value.uses())

    def _reads(self, node: ir.Node, index: int, value: ir.Value) -> bool:
        layer = self.by_node.get(node)
        if layer is None or index != 0:
            return False
        self.readers.append(Reader(layer, value, 0))
        return True

    def _joins(self, node: ir.Node, value: ir.Value) -> bool:
        """Whether the units lie beside other values, which linear layers alone read."""
        if node.op_type != "Concat" or node.domain or is_feature(node) or integer(node, "axis", 0) not in (-1, (rank(value) or 0) - 1):
            return False
        whole = node.outputs[0]
        widths = [None if given is None else width(given) for given in node.inputs]
        if whole.is_graph_output() or any(size is None for size in widths):
            return False
        if not all(index == 0 and reader in self.by_node for reader, index in whole.uses()):
            return False
        if whole in self.joined:
            return True
        self.joined[whole] = None
        for i, given in enumerate(node.inputs):
            if given is value:
                start = sum(size or 0 for size in widths[:i])
                self.readers += [Reader(self.by_node[reader], value, start) for reader in whole.consumers()]
        return True

    def _passes(self, node: ir.Node) -> bool:
        """Whether a node keeps units apart; what else it takes and gives joins the search."""
        output = node.outputs[0]
        if is_feature(node) or node.graph is not next(iter(self.values)).graph or any(extra.uses() for extra in node.outputs[1:]):
            return False
        if node.op_type == "Gather" and not node.domain:
            first = node.inputs[0]
            if first is None or array(first) is not None or integer(node, "axis", 0) != 0 or (rank(first) or 0) < 2:
                return False
            self._pending += [first, output]
            return True
        if node.op_type not in {"": ELEMENTWISE, MICROSOFT: ELEMENTWISE_OF_RUNTIME}.get(node.domain, ()):
            return False
        if output.shape is None and node.domain and node.inputs[0] is not None:  # inference does not know the runtime's own operators
            output.shape = node.inputs[0].shape
        self._pending.append(output)
        return all(given is None or self._takes(node, i, given) for i, given in enumerate(node.inputs))

    def _takes(self, node: ir.Node, index: int, given: ir.Value) -> bool:
        held = array(given)
        if held is None:
            if width(given) != 1:
                self._pending.append(given)
            return True
        if held.ndim and held.shape[-1] != 1:
            self.constants[node, index] = None
            return bool(held.shape[-1] == self.units)
        return True
