"""Dynamic int8: weights quantized beforehand, activations at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass
from optimize.passes.editing import Edit, require_opset
from optimize.passes.int8_layers import Weights, WeightType, layers_to_quantize, quantize
from optimize.passes.linear import Linear

DYNAMIC_OPSET = 11
"""Since then there is ``DynamicQuantizeLinear``."""


@dataclass(frozen=True)
class Int8Dynamic(Pass):
    """Quantize the matrix products; embedding tables and convolutions stay as they are.

    Weights get a scale per output channel, activations one scale and zero point per tensor and run.

    Attributes
    ----------
    keep
        Name patterns of products that stay float32, as of `fnmatch`.
    weight_type
        See `optimize.passes.int8_layers.WeightType`.
    """

    kind: ClassVar[str] = "int8_dynamic"

    keep: tuple[str, ...] = ()
    weight_type: WeightType = "uint8"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "weights of matrix products as 8-bit integers by output channel, activations at run time"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the quantized model.

        Raises
        ------
        PassNotApplicable
            The model has no matrix product with constant weights, none that `keep` leaves, or an opset older than 11.
        """
        edit = Edit(model)
        layers = layers_to_quantize(edit, self.keep)
        require_opset(edit, DYNAMIC_OPSET, "DynamicQuantizeLinear")
        quantize(edit, layers, DynamicLayers(edit, Weights(edit, self.weight_type)).build)
        return edit.done()


@dataclass(frozen=True)
class DynamicLayers:
    """Builds int8 layers beside those of a graph, with the operators that ONNX Runtime makes one kernel of.

    They are those of `onnxruntime.quantization.quantize_dynamic`, which fails on models that had their weights in a file, knows constants
    only as initializers, and keeps a transposed copy of each ``Gemm``'s weights in memory.
    """

    edit: Edit
    weights: Weights
    _sources: dict[ir.Value, Sequence[ir.Value]] = field(default_factory=dict)

    def build(self, layer: Linear) -> ir.Value:
        """Return the output of a layer, bias added; what several layers read is quantized once."""
        edit, before = self.edit, _last(layer)
        weight = self.weights.of(layer)
        source = layer.node.inputs[0]  # by now: the layer in front may have been built anew
        assert source is not None
        if source not in self._sources:
            self._sources[source] = edit.add_many(layer.node, "DynamicQuantizeLinear", [source], outputs=3)
        values, step, zero = self._sources[source]
        sums = edit.add(before, "MatMulInteger", [values, weight.values, zero, *([weight.zero] if weight.zero is not None else [])])
        product = edit.add(before, "Cast", [sums], {"to": int(ir.DataType.FLOAT)})
        steps = edit.add(before, "Mul", [step, weight.scale])
        scaled = edit.add(before, "Mul", [product, steps])
        return scaled if layer.bias is None else edit.add(before, "Add", [scaled, edit.constant(layer.bias, f"{layer.output.name}/bias")])


def _last(layer: Linear) -> ir.Node:
    """The node that gives a layer's output."""
    node = layer.output.producer()
    assert node is not None
    return node
