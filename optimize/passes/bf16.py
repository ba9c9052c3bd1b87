"""Weights stored as bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from pydantic import Field

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import Edit, array, integer, is_feature
from optimize.passes.table_sites import Table, follow_rows

CAST_OPSET = 13
"""``Cast`` and ``Gather`` take bfloat16 from here on."""

LARGEST = (2 - 2.0**-7) * 2.0**127
"""3.39e38: the very largest float32 numbers, which exporters mask with, would round to infinity."""

SCALED = ("MatMulNBits", "MatMulIntegerToFloat", "Quantize", "LinearGather", "GatherBlockQuantized")
"""In names of operators whose float32 inputs are scales of what is quantized already."""


@dataclass(frozen=True)
class Bf16(Pass):
    """Store float32 weights as bfloat16, rounded to nearest, ties to even, and cast them back to float32 before they are used.

    ONNX Runtime's CPU provider multiplies no bfloat16. It computes the casts once, when it loads the model, so that runs take the time
    and weights the memory of float32; the file is half as large. Of tables that rows are looked up in, only the rows are cast: those take
    half the memory too. Unlike half precision, no value is out of range, but eight bits are left of each, not eleven.

    Attributes
    ----------
    min_weights
        Smaller constants stay float32: each takes a cast, some 100 bytes of graph.
    """

    kind: ClassVar[str] = "bf16"
    min_weights: Annotated[int, Field(ge=1)] = 1024

    @property
    def changes(self) -> str:
        """What it changes."""
        return "weights and tables stored as bfloat16; activations and arithmetic stay float32"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the model with smaller weights.

        Raises
        ------
        PassNotApplicable
            The model has no float32 weights that are enough, or its opset is older than 13.
        """
        edit = Edit(model)
        if edit.opset < CAST_OPSET:
            raise PassNotApplicable(f"the model has no Cast from bfloat16: its opset is {edit.opset}, at least {CAST_OPSET} is needed")
        for value in list(_constants(edit.graph)):
            held = array(value)
            if held is not None and held.dtype == np.float32 and held.size >= self.min_weights and _is_weight(value):
                _store(edit, value, held)
        if not edit.changes:
            raise PassNotApplicable(f"the model has no float32 weights of {self.min_weights} values or more")
        return edit.done()


def _constants(graph: ir.Graph) -> Iterator[ir.Value]:
    """Initializers and constants of a graph and of the bodies of its branches and loops."""
    yield from graph.initializers.values()
    for node in graph:
        if node.op_type == "Constant":
            yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _constants(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    yield from _constants(body)


def _is_weight(value: ir.Value) -> bool:
    readers = value.consumers()
    is_scale = any(word in node.op_type for node in readers for word in SCALED)
    return bool(readers) and not value.is_graph_output() and not is_scale and not any(is_feature(node) for node in readers)


def _store(edit: Edit, value: ir.Value, held: npt.NDArray[Any]) -> None:
    bounded = np.where(np.isfinite(held), np.clip(held, -LARGEST, LARGEST), held)
    half = bounded.astype(ml_dtypes.bfloat16)
    stored = edit.constant(half, f"{value.name}/bf16")
    lookups = tuple(node for node in value.consumers() if _looks_up_rows(edit, node, value))
    if lookups and held.ndim == 2 and np.isfinite(held).all():
        follow_rows(edit, Table(value, held, lookups), half.astype(np.float32))
    for node in lookups:
        rows = edit.add(node, "Gather", [stored, node.inputs[1]], {"axis": integer(node, "axis", 0)})
        edit.replace(node.outputs[0], edit.add(node, "Cast", [rows], {"to": onnx.TensorProto.FLOAT}))
        edit.graph.remove(node, safe=True)
    if value.uses():
        edit.replace(value, edit.add(edit.graph[0], "Cast", [stored], {"to": onnx.TensorProto.FLOAT}))


def _looks_up_rows(edit: Edit, node: ir.Node, value: ir.Value) -> bool:
    return node.op_type == "Gather" and not node.domain and node.inputs[0] is value and node.graph is edit.graph
