"""Dynamic int8: weights quantized beforehand, activations at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx

from optimize.passes.base import NOTHING, Context, Pass
from optimize.passes.editing import Edit, require_opset
from optimize.passes.int8_layers import Int8Layers, WeightType, layers_to_quantize, quantize

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
        quantize(edit, layers, Int8Layers(edit, self.weight_type).dynamic)
        return edit.done()
