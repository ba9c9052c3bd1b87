"""A transformer's last layer for the one position that is read of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import Edit, array, integer, rank
from optimize.passes.positions import Needs, needs_of

OPSET = 13
"""Since then a ``Softmax`` has one axis: with the ones before, positions would not always be apart."""

Place = tuple[int, int]
"""An axis, and the position along it that is read; negative ones count from the end."""


@dataclass(frozen=True)
class UsedPosition(Pass):
    """Where only one position of a sequence is read, as by a class token's head, pick it before it is computed instead of after.

    The pick moves up through everything that treats positions apart: the last layer's MLP, its normalizations, the output projection, the
    queries and the attention's rows. Keys and values need all positions. It has to come before quantization, whose scales all
    positions share, and before `merge_projections`, which ties the queries to keys and values.

    References
    ----------
    Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, equation 4: the answer is the class token's state alone.
    """

    kind: ClassVar[str] = "used_position"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "what is computed of all positions but read of one, of that one alone"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the rewritten model.

        Raises
        ------
        PassNotApplicable
            No matrix product is read at one constant position alone, or the opset is older than 13.
        """
        edit = Edit(model)
        if edit.opset < OPSET:
            raise PassNotApplicable(
                f"the model has no operators whose rules are known: its opset is {edit.opset}, at least {OPSET} is needed"
            )
        narrowing = _Narrowing(edit)
        if not narrowing.saves_products:
            raise PassNotApplicable("the model has no matrix product of which one constant position is read and no other")
        narrowing.rewrite()
        return edit.done()


class _Narrowing:
    """What is needed of every value: the places at which it is read, found from the last node to the first."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit
        self.picks: dict[ir.Node, Place] = {}
        self.nodes: dict[ir.Node, tuple[Place, Needs]] = {}
        self.single: dict[tuple[ir.Value, Place], ir.Value] = {}
        for node in reversed(edit.nodes(*{node.op_type for node in edit.graph})):
            place = _pick(node)
            if place is not None:
                self.picks[node] = place
                continue
            place = self._read_at(node)
            needs = needs_of(node, place[0]) if place is not None else None
            if place is not None and needs:
                self.nodes[node] = (place, needs)

    @property
    def saves_products(self) -> bool:
        """Whether the pick passes a matrix product: without one the rewriting would save next to nothing."""
        return any(node.op_type == "MatMul" and array(node.inputs[1]) is not None for node in self.nodes)

    def rewrite(self) -> None:
        """Narrow all nodes that can be, in order."""
        whole = {output: output.shape for node in self.nodes for output in node.outputs}
        for node in [node for node in self.edit.graph if node in self.nodes]:
            (axis, position), needs = self.nodes[node]
            for slot, own_axis in needs.items():
                value = node.inputs[slot]
                assert value is not None
                node.replace_input_with(slot, self._narrowed(node, value, (own_axis, position)))
            if node.op_type == "Reshape":
                rest = [size for size in (whole[node.outputs[0]] or ())[2:] if isinstance(size, int)]
                node.replace_input_with(1, self.edit.constant(np.array([0, 1, *rest], np.int64), f"{node.outputs[0].name}/one_position"))
            for output in node.outputs:
                _shorten(output, axis)
            self.edit.changes += 1
        for node, place in self.picks.items():
            source = node.inputs[0]
            if source is not None and source.producer() in self.nodes:
                self._pick_the_only_one(node, place[0])

    def _read_at(self, node: ir.Node) -> Place | None:
        """The one place at which all readers of a node's output read it."""
        places: set[Place | None] = set()
        if any(output.is_graph_output() or (i and output.uses()) for i, output in enumerate(node.outputs)):
            return None
        for use in node.outputs[0].uses():
            if use.node in self.picks and use.idx == 0:
                places.add(self.picks[use.node])
            elif use.node in self.nodes and use.idx in self.nodes[use.node][1]:
                (_, position), needs = self.nodes[use.node]
                places.add((needs[use.idx], position))
            else:
                places.add(None)
        return places.pop() if len(places) == 1 else None

    def _narrowed(self, before: ir.Node, value: ir.Value, place: Place) -> ir.Value:
        """The one position of a value: the value itself where its node gives no more, else picked from it."""
        if value.producer() in self.nodes:
            return value
        if (value, place) not in self.single:
            axis, position = place
            index = self.edit.constant(np.array([position], np.int64), f"{value.name}/position")
            picked = self.edit.add(before, "Gather", [value, index], {"axis": axis})
            picked.shape, picked.type = value.shape.copy() if value.shape is not None else None, value.type
            _shorten(picked, axis)
            self.single[value, place] = picked
        return self.single[value, place]

    def _pick_the_only_one(self, node: ir.Node, axis: int) -> None:
        name = node.outputs[0].name
        if node.op_type == "Gather":
            index = array(node.inputs[1])
            assert index is not None
            node.replace_input_with(1, self.edit.constant(np.zeros_like(index), f"{name}/first"))
            return
        for slot, number in enumerate((0, 1, axis, 1)[: len(node.inputs) - 1], start=1):
            node.replace_input_with(slot, self.edit.constant(np.array([number], np.int64), f"{name}/only_{slot}"))


def _pick(node: ir.Node) -> Place | None:
    """Where a node takes one constant position out of several."""
    source = node.inputs[0] if node.inputs else None
    if node.domain or source is None or source.shape is None or array(source) is not None:
        return None
    place: Place | None = None
    if node.op_type == "Gather":
        index = array(node.inputs[1])
        if index is not None and index.size == 1:
            place = integer(node, "axis", 0) % len(source.shape), int(index.reshape(()))
    elif node.op_type == "Slice":
        place = _sliced(node, len(source.shape))
    if place is None or source.shape[place[0]] == 1:
        return None
    size, position = source.shape[place[0]], place[1]
    # A slice past the end is empty, while a position that is not there cannot be gathered.
    is_there = -size <= position < size if isinstance(size, int) else position in (0, -1)
    return place if is_there else None


def _sliced(node: ir.Node, axis_count: int) -> Place | None:
    bounds = [array(value) for value in node.inputs[1:]]
    if len(bounds) < 3 or any(bound is None or bound.size != 1 for bound in bounds):
        return None
    start, end, axis, *step = (int(bound.reshape(())) for bound in bounds if bound is not None)
    is_one = end == start + 1 or (start == -1 and end >= np.iinfo(np.int32).max)
    return (axis % axis_count, start) if is_one and not (start == -1 and end == 0) and step in ([], [1]) else None


def _shorten(value: ir.Value, axis: int) -> None:
    if value.shape is not None and rank(value) is not None:
        value.shape = ir.Shape([1 if i == axis else size for i, size in enumerate(value.shape)])
