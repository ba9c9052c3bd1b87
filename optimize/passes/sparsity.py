"""Zeros in the weights of linear layers, wherever a rule says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.base import PassNotApplicable
from optimize.passes.editing import Edit, integer
from optimize.passes.linear import linears

Floats = npt.NDArray[np.float32]

Rule = Callable[[Floats, int], npt.NDArray[np.bool_]]
"""A matrix and the axis of its inputs → which of its weights become zero."""


def with_zeros(model: onnx.ModelProto, rule: Rule) -> onnx.ModelProto:
    """Apply `rule` to every linear layer; layers that share their weights still do.

    Raises
    ------
    PassNotApplicable
        It changes no weight.
    """
    edit = Edit(model)
    made: dict[tuple[ir.Value, int], ir.Value] = {}
    for layer in linears(edit):
        value = layer.node.inputs[1]
        assert value is not None
        axis = 1 if layer.node.op_type == "Gemm" and integer(layer.node, "transB", 0) else 0
        if (value, axis) not in made:
            weight = layer.stored
            zeroed = rule(weight, axis)
            if not weight[zeroed].any():
                continue
            made[value, axis] = edit.constant(np.where(zeroed, np.float32(0), weight), f"{value.name}/pruned")
        layer.node.replace_input_with(1, made[value, axis])
    if not made:
        raise PassNotApplicable("the model has no linear layer with constant weights of which this share is one weight or more")
    return edit.done()
