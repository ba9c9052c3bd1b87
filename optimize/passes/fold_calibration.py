"""The calibration of an output, ``scale * z + offset``, as part of the layer that computes z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import Edit, is_feature, made_by, scalar
from optimize.passes.linear import Linear, linear_at, rebuilt

ACTIVATIONS = ("Sigmoid",)
MOVES = ("Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity")
"""What changes no number."""


@dataclass(frozen=True)
class FoldCalibration(Pass):
    """Multiply the last layer's weights by the scale and put the offset into its bias.

    He et al. undo negative down-sampling by an offset, Platt scales by both; either way two operators over all candidates go.

    References
    ----------
    He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, section 6.3.
    """

    kind: ClassVar[str] = "fold_calibration"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "scale and offset of the output as part of the last layer's weights and bias"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the folded model.

        Raises
        ------
        PassNotApplicable
            No output is scaled or shifted by constants after a layer with constant weights.
        """
        edit = Edit(model)
        for output in list(edit.graph.outputs):
            _fold(edit, output)
        if not edit.changes:
            raise PassNotApplicable("the model has no output that is scaled or shifted by constants after a layer with constant weights")
        return edit.done()


def _fold(edit: Edit, output: ir.Value) -> None:
    activation = made_by(output, *ACTIVATIONS)
    value = activation.inputs[0] if activation is not None else output
    scale, offset = 1.0, 0.0
    folded: list[tuple[ir.Value, ir.Value]] = []
    while value is not None and (value is output or _is_inner(value)):
        layer = _layer_of(value)
        if layer is not None:
            if folded:
                _rescale(edit, layer, scale, offset, folded)
            return
        node = value.producer()
        if node is None or node.domain or is_feature(node) or not node.inputs or node.inputs[0] is None:
            return
        if node.op_type in MOVES:
            value = node.inputs[0]
            continue
        step = _affine(node)
        if step is None:
            return
        inner, factor, shift = step
        scale, offset = scale * factor, offset + scale * shift
        folded.append((value, inner))
        value = inner


def _is_inner(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _affine(node: ir.Node) -> tuple[ir.Value, float, float] | None:
    """``(x, a, b)`` of a node that computes ``a * x + b`` with constant numbers, and does not change the shape of x."""
    first, second = node.inputs if len(node.inputs) == 2 else (None, None)
    if first is None or second is None:
        return None
    for x, given, is_first in ((first, second, True), (second, first, False)):
        constant = scalar(given)
        if constant is None or scalar(x) is not None:
            continue
        if (given.shape is None or len(given.shape) > 0) and (x.shape is None or given.shape is None or len(given.shape) > len(x.shape)):
            continue
        found = {
            "Mul": (constant, 0.0),
            "Add": (1.0, constant),
            "Sub": (1.0, -constant) if is_first else (-1.0, constant),
            "Div": (1 / constant, 0.0) if is_first and constant else None,
        }.get(node.op_type)
        return None if found is None else (x, *found)
    return None


def _layer_of(value: ir.Value) -> Linear | None:
    node = made_by(value, "Gemm", "MatMul")
    added = made_by(value, "Add")
    if node is None and added is not None:
        node = next((product for given in added.inputs if (product := made_by(given, "MatMul")) is not None), None)
    layer = linear_at(node) if node is not None else None
    return layer if layer is not None and layer.output is value else None


def _rescale(edit: Edit, layer: Linear, scale: float, offset: float, folded: list[tuple[ir.Value, ir.Value]]) -> None:
    old = np.zeros(layer.weight.shape[1]) if layer.bias is None else layer.bias.astype(np.float64)
    weight = (layer.weight.astype(np.float64) * scale).astype(np.float32)
    result = rebuilt(edit, layer, weight, (old * scale + offset).astype(np.float32))
    edit.replace(layer.output, result)
    for outer, inner in folded:
        edit.replace(outer, result if inner is layer.output else inner)
