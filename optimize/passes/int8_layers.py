"""Linear layers in int8: weights by output channel, and the two ways to quantize what they read.

Letters: ``K`` width of what a layer reads, ``M`` of what it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from optimize.passes.base import PassNotApplicable
from optimize.passes.editing import Edit, integer, number
from optimize.passes.linear import Linear, linear_at

WeightType = Literal["uint8", "int8", "int7"]
"""``uint8`` with zero at 128 answers alike on every processor. x86 without VNNI adds two products of uint8 and ``int8`` in 16 bits, which
overflow; ``int7`` does not, and both are 1.3 times as fast there, docs/passes.md."""

LIMITS = {"uint8": 127, "int8": 127, "int7": 63}
"""Largest quantized weight, and as far below zero."""

MIDDLE = 128

MAX_WIDTH = (2**31 - 1) // (255 * 127)
"""Products that a 32-bit sum has room for, at worst: 66,311."""


@dataclass(frozen=True)
class Range:
    """What values of a tensor are kept; all beyond is clipped."""

    low: float
    high: float


@dataclass(frozen=True)
class Int8Layers:
    """Builds int8 layers beside those of a graph; what several of them share is made once."""

    edit: Edit
    weight_type: WeightType = "uint8"
    _weights: dict[object, tuple[ir.Value, ...]] = field(default_factory=dict)
    _sources: dict[ir.Value, Sequence[ir.Value]] = field(default_factory=dict)

    def dynamic(self, layer: Linear) -> ir.Value:
        """The product with what it reads quantized to uint8 by each run's own range; returns the output, bias added.

        These are the operators of `onnxruntime.quantization.quantize_dynamic`, which ONNX Runtime makes one kernel of.
        """
        edit, before = self.edit, layer.node
        weight, scale, *weight_zero = self.weight(layer)
        if layer.source not in self._sources:
            self._sources[layer.source] = edit.add_many(before, "DynamicQuantizeLinear", [layer.source], outputs=3)
        quantized, source_scale, zero = self._sources[layer.source]
        sums = edit.add(before, "MatMulInteger", [quantized, weight, zero, *weight_zero])
        product = edit.add(before, "Cast", [sums], {"to": int(ir.DataType.FLOAT)})
        scales = edit.add(before, "Mul", [source_scale, scale])
        return self._with_bias(layer, edit.add(before, "Mul", [product, scales]))

    def weight(self, layer: Linear) -> tuple[ir.Value, ...]:
        """Weights ``(K, M)``, scales ``(M,) float32`` and, where it is not 0, the zero point ``() uint8``."""
        node = layer.node
        held = node.inputs[1]
        key = (held, integer(node, "transB", 0), number(node, "alpha", 1.0))
        if key not in self._weights:
            assert held is not None
            values, scale = quantized(layer.weight, LIMITS[self.weight_type])
            shifted = (values.view(np.uint8) ^ np.uint8(MIDDLE)) if self.weight_type == "uint8" else values
            made = (self.edit.constant(shifted, f"{held.name}_quantized"), self.edit.constant(scale, f"{held.name}_scale"))
            self._weights[key] = made if self.weight_type != "uint8" else (*made, self._middle())
        return self._weights[key]

    def _middle(self) -> ir.Value:
        if MIDDLE not in self._weights:
            self._weights[MIDDLE] = (self.edit.constant(np.array(MIDDLE, np.uint8), "weight_zero_point"),)
        return self._weights[MIDDLE][0]

    def _with_bias(self, layer: Linear, product: ir.Value) -> ir.Value:
        if layer.bias is None or layer.node.op_type != "Gemm":
            return product
        bias = self.edit.constant(layer.bias, f"{layer.node.outputs[0].name}/bias")
        return self.edit.add(layer.node, "Add", [product, bias])


def quantized(weight: npt.NDArray[np.float32], limit: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Values and scale by output channel: ``weight ≈ values * scale``."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / np.float32(limit), 1).astype(np.float32)
    # The quotient of a subnormal scale may leave the limits.
    return np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8), scale


def layers_to_quantize(edit: Edit, keep: Iterable[str] = ()) -> list[Linear]:
    """Linear layers with finite constant weights that 32 bits can sum, in order, without those whose names match a pattern of `keep`.

    Raises
    ------
    PassNotApplicable
        There are none, or a pattern matches no layer.
    """
    found = [linear_at(node) for node in edit.nodes("MatMul", "Gemm") if not node.domain]
    layers = [layer for layer in found if layer is not None and _is_fit(layer.weight)]
    if not layers:
        raise PassNotApplicable("the model has no matrix product with constant float32 weights")
    for pattern in keep:
        if not any(fnmatchcase(name_of(layer), pattern) for layer in layers):
            raise PassNotApplicable(
                f"the model has no matrix product called {pattern!r}, an option `keep` of this pass; "
                f"there are {', '.join(name_of(layer) for layer in layers)}"
            )
    left = [layer for layer in layers if not any(fnmatchcase(name_of(layer), pattern) for pattern in keep)]
    if not left:
        raise PassNotApplicable(f"the model has no matrix product but those to keep, {', '.join(keep)}")
    return left


def _is_fit(weight: npt.NDArray[np.float32]) -> bool:
    return bool(weight.size and len(weight) <= MAX_WIDTH and np.isfinite(weight).all())


def name_of(layer: Linear) -> str:
    """Name of a layer's product; of what it gives, where the node has none."""
    return layer.node.name or str(layer.node.outputs[0].name)


def quantize(edit: Edit, layers: Iterable[Linear], build: Callable[[Linear], ir.Value]) -> None:
    """Put what `build` makes of each layer in its place."""
    for layer in layers:
        edit.replace(layer.node.outputs[0], build(layer))
