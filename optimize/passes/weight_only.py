"""Weight-only int4 and int8: weights in blocks of small integers, activations in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import onnx
import onnx_ir as ir
from pydantic import BeforeValidator, PositiveInt

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.block_quantization import Bits, quantize_blocks
from optimize.passes.editing import MICROSOFT, Edit, integer, number
from optimize.passes.linear import Linear, linears


@dataclass(frozen=True)
class WeightOnly(Pass):
    """Quantize the weights of matrix products in blocks; embedding tables stay as they are.

    Time is won where weights are streamed from memory for few rows, which is a transformer at batch 1, and lost over many rows:
    docs/passes.md.

    Attributes
    ----------
    bits
        Of a weight; each block has a scale and a zero point beside.
    block_size
        Inputs that share a scale.
    accuracy_level
        As in ONNX Runtime's ``MatMulNBits``: 0 and 1 multiply in float32, 4 rounds the activations of each block to int8 on the way. It is
        the default because of speed: with a row of 768 and 3,072 outputs, 8 bits took 8.0 ms in float32 and 0.14 ms by 4, float32 weights
        0.25 ms (ONNX Runtime 1.32, one thread, AVX2).
    min_weights
        Smaller matrices stay float32. One row by 64 × 64 measured 0.0126 ms with 4 bits against 0.0106 ms, by 256 × 256 0.014 ms against
        0.015 ms; below 128 × 128 there are less than 56 kB to save and some time to lose.
    """

    kind: ClassVar[str] = "weight_only"
    bits: Bits = 4
    block_size: Annotated[Literal[16, 32, 64, 128, 256], BeforeValidator(int)] = 32
    accuracy_level: Annotated[Literal[0, 1, 4], BeforeValidator(int)] = 4
    min_weights: PositiveInt = 128 * 128

    @property
    def changes(self) -> str:
        """What it changes."""
        return f"weights of matrix products as int{self.bits} in blocks of {self.block_size}, activations stay float32"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the quantized model.

        Raises
        ------
        PassNotApplicable
            The model has no matrix product with constant float32 weights that are enough.
        """
        edit = Edit(model)
        made: dict[tuple[ir.Value | None, int, float], list[ir.Value | None]] = {}
        for layer in linears(edit):
            if self._is_worth_it(layer):
                node = layer.node
                key = (node.inputs[1], integer(node, "transB", 0), number(node, "alpha", 1.0))
                if key not in made:
                    made[key] = self._constants(edit, layer)
                self._replace(edit, layer, made[key])
        if not edit.changes:
            raise PassNotApplicable(
                f"the model has no matrix product with finite constant float32 weights, {self.min_weights} of them or more "
                f"and from {self.block_size} inputs at least"
            )
        return edit.done()

    def _is_worth_it(self, layer: Linear) -> bool:
        # Fewer inputs than a block would be filled up with zeros.
        is_large = layer.weight.size >= self.min_weights and layer.weight.shape[0] >= self.block_size
        return is_large and bool(np.isfinite(layer.weight).all())

    def _constants(self, edit: Edit, layer: Linear) -> list[ir.Value | None]:
        blocks = quantize_blocks(layer.weight, self.bits, self.block_size)
        name = layer.output.name
        return [
            edit.constant(blocks.codes, f"{name}/codes"),
            edit.constant(blocks.scales, f"{name}/scales"),
            edit.constant(blocks.zeros, f"{name}/zeros"),
        ]

    def _replace(self, edit: Edit, layer: Linear, constants: list[ir.Value | None]) -> None:
        K, M = layer.weight.shape
        settings = {"K": K, "N": M, "bits": self.bits, "block_size": self.block_size, "accuracy_level": self.accuracy_level}
        inputs = [layer.source, *constants]
        if layer.bias is not None:
            inputs += [None, edit.constant(layer.bias.astype(np.float32), f"{layer.output.name}/bias")]
        edit.replace(layer.output, edit.add(layer.node, "MatMulNBits", inputs, settings, domain=MICROSOFT))
