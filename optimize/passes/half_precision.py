"""Half-precision arithmetic in a graph: where it begins, and where it ends."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from optimize.passes.editing import Edit, array, is_feature
from optimize.passes.operator_types import FLOAT, OperatorTypes, types_of

LARGEST = float(np.finfo(np.float16).max)
"""65,504: what is larger would become infinite."""

STANDS_FOR_INFINITY = 1e9
"""From here on a constant is a mask's stand-in for infinity (exporters write -1e9 and the least float32) and becomes 65,504 instead; a
row whose scores are all masked would otherwise become NaN."""

ROUNDING = 2.0**-10
"""Twice the relative rounding of half precision. A lone number that loses more, like a normalization's 1e-6, which would be off by 1 %,
keeps its operator in float32."""

READ_SHAPES = ("Shape", "Size")

Halves = ChainMap[ir.Value | None, ir.Value]
"""Float32 value → the same in half precision."""


class Halving:
    """Turns operators of a graph to half precision, bodies of branches and loops included.

    It begins at operators that have float32 weights, constants of more than one element, and lasts along what reads their results. An
    operator stays float32 if it is kept, if its schema does not allow half precision, or if it reads a constant that half precision
    cannot hold. Values that such an operator or an output of the graph reads are cast back.

    Parameters
    ----------
    is_kept
        Whether an operator must stay float32.
    """

    def __init__(self, edit: Edit, is_kept: Callable[[ir.Node], bool]) -> None:
        self.edit, self.is_kept = edit, is_kept
        self.weights: dict[ir.Value, ir.Value] = {}

    def convert(self, graph: ir.Graph, halves: Halves) -> None:
        """Convert a graph, or the body of a branch or loop, from its first operator to its last."""
        for node in list(graph):
            for attribute in node.attributes.values():
                bodies = {ir.AttributeType.GRAPH: [attribute.value], ir.AttributeType.GRAPHS: attribute.value}.get(attribute.type, ())
                for body in bodies:
                    self.convert(body, halves.new_child())
            types = types_of(node, self.edit.opset)
            if types is None or is_feature(node):
                continue
            _infer(node, types)
            if node.op_type in READ_SHAPES:
                node.replace_input_with(0, halves.get(node.inputs[0], node.inputs[0]))
                continue
            variables = self._variables(node, types)
            if variables and not self.is_kept(node) and self._begins_or_lasts(node, types, variables, halves):
                self._rewrite(graph, node, types, variables, halves)
        for name, value in list(graph.initializers.items()):
            if value in self.weights and not value.uses() and not value.is_graph_output():
                del graph.initializers[name]

    def _variables(self, node: ir.Node, types: OperatorTypes) -> set[str]:
        """Type variables that are float32 here and may all be half; none where the result would not be, or where a type is not known."""
        read = [(given.dtype, type_) for given, type_ in zip(node.inputs, types.inputs, strict=True) if given is not None]
        variables = {type_ for dtype, type_ in read if dtype == ir.DataType.FLOAT and type_ != FLOAT}
        if any(dtype is None and not type_.startswith("tensor(") for dtype, type_ in read):
            return set()
        return variables if variables <= types.may_be_half and variables & set(types.outputs) else set()

    def _begins_or_lasts(self, node: ir.Node, types: OperatorTypes, variables: set[str], halves: Halves) -> bool:
        read = [given for given, type_ in zip(node.inputs, types.inputs, strict=True) if given is not None and type_ in variables]
        constants = [(given, held) for given in read if (held := array(given)) is not None]
        begins = any(held.size > 1 for _, held in constants) or any(given in halves for given in read)
        return begins and all(given in self.weights or _fits(held) for given, held in constants)

    def _rewrite(self, graph: ir.Graph, node: ir.Node, types: OperatorTypes, variables: set[str], halves: Halves) -> None:
        inputs = [
            self._half(graph, node, given, halves)
            if given is not None and given.dtype == ir.DataType.FLOAT and type_ in variables
            else given
            for given, type_ in zip(node.inputs, types.inputs, strict=True)
        ]
        made = [self.edit.value(f"{old.name}/fp16") if old.name else ir.Value(name="") for old in node.outputs]
        new = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), overload=node.overload, outputs=made, name=node.name)
        graph.insert_before(node, new)
        for old, half, type_ in zip(node.outputs, made, types.outputs, strict=True):
            if not old.name:
                continue
            full = half
            if type_ in variables:
                half.dtype, half.shape = ir.DataType.FLOAT16, old.shape
                full = self._cast(graph, node, half, ir.DataType.FLOAT)
                halves[full] = half
            self.edit.replace(old, full)
        graph.remove(node, safe=True)

    def _half(self, graph: ir.Graph, before: ir.Node, value: ir.Value, halves: Halves) -> ir.Value:
        held = array(value)
        if held is not None:
            if value not in self.weights:
                self.weights[value] = self.edit.constant(_halved(held), f"{value.name}/fp16")
            return self.weights[value]
        if value not in halves:
            halves[value] = self._cast(graph, before, value, ir.DataType.FLOAT16)
        return halves[value]

    def _cast(self, graph: ir.Graph, before: ir.Node, value: ir.Value, to: ir.DataType) -> ir.Value:
        made = self.edit.value(f"{value.name}/{'fp16' if to == ir.DataType.FLOAT16 else 'fp32'}")
        made.dtype, made.shape = to, value.shape
        graph.insert_before(before, ir.node("Cast", [value], {"to": to}, outputs=[made], name=made.name))
        return made


def _infer(node: ir.Node, types: OperatorTypes) -> None:
    """Tell types of results that ONNX's inference did not: it stops behind operators of ONNX Runtime."""
    read = [(type_, given.type) for given, type_ in zip(node.inputs, types.inputs, strict=True) if given is not None]
    known = {type_: found.dtype for type_, found in read if isinstance(found, ir.TensorType)}  # a sequence has a dtype too
    for made, type_ in zip(node.outputs, types.outputs, strict=True):
        if made.dtype is None and type_ in known:
            made.dtype = known[type_]
        elif made.dtype is None and type_ == FLOAT:
            made.dtype = ir.DataType.FLOAT


def _fits(held: npt.NDArray[Any]) -> bool:
    magnitude = np.abs(held[np.isfinite(held)])
    if ((magnitude > LARGEST) & (magnitude < STANDS_FOR_INFINITY)).any():
        return False
    half = _halved(held)
    return (
        held.size > 1
        or not magnitude.size
        or magnitude[0] > LARGEST
        or abs(float(half.item()) - float(held.item())) <= ROUNDING * magnitude[0]
    )


def _halved(held: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    bounded = np.where(np.isfinite(held), np.clip(held, -LARGEST, LARGEST), held)
    half: npt.NDArray[np.float16] = bounded.astype(np.float16)
    return half
