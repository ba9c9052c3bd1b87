"""Linear layers in 8 bits: which there are, and their weights by output channel.

Letters: ``K`` width of what a layer reads, ``M`` of what it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from optimize.passes.base import PassNotApplicable
from optimize.passes.editing import Edit, integer, number
from optimize.passes.linear import Linear, linears

WeightType = Literal["uint8", "int8", "int7"]
"""``uint8`` with zero at 128 answers alike on every processor. x86 without VNNI adds two products of uint8 and ``int8`` in 16 bits, which
overflow; ``int7`` does not, and both are 1.3 times as fast there, docs/passes.md."""

LIMITS = {"uint8": 127, "int8": 127, "int7": 63}
"""Largest quantized weight, and as far below zero."""

MIDDLE = 128

MAX_WIDTH = (2**31 - 1) // (255 * 127)
"""Products that a 32-bit sum has room for, at worst: 66,311."""


@dataclass(frozen=True)
class Weight:
    """Constants of a layer, ``values`` ``(K, M)``.

    Attributes
    ----------
    zero
        None where it is 0.
    steps
        What ``scale`` holds: ``(M,) float32``, or ``()`` for one scale of all channels.
    """

    values: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    steps: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """Quantizes weights; layers that share theirs share them afterwards.

    Parameters
    ----------
    zeros_by_channel
        Whether the zero points have the shape of the scales, as ``DequantizeLinear`` wants it, instead of ``()``.
    """

    edit: Edit
    weight_type: WeightType = "uint8"
    per_channel: bool = True
    zeros_by_channel: bool = False
    _made: dict[object, Weight] = field(default_factory=dict)

    def of(self, layer: Linear) -> Weight:
        """The constants of a layer, made when first asked for."""
        held = layer.node.inputs[1]
        assert held is not None
        key = (held, integer(layer.node, "transB", 0), number(layer.node, "alpha", 1.0))
        if key not in self._made:
            values, steps = quantized(layer.weight, LIMITS[self.weight_type], self.per_channel)
            zero = None
            if self.weight_type == "uint8":
                values = (values.astype(np.int16) + MIDDLE).astype(np.uint8)
                shape = steps.shape if self.zeros_by_channel else ()
                zero = self.edit.constant(np.full(shape, MIDDLE, np.uint8), f"{held.name}_zero_point")
            self._made[key] = Weight(
                self.edit.constant(values, f"{held.name}_quantized"), self.edit.constant(steps, f"{held.name}_scale"), zero, steps
            )
        return self._made[key]


def quantized(
    weight: npt.NDArray[np.float32], limit: int, per_channel: bool
) -> tuple[npt.NDArray[np.int8] | npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Values within ``limit`` and steps by output channel, or one step for all: ``weight ≈ values * steps``."""
    largest = np.abs(weight).max(axis=0) if per_channel else np.abs(weight).max()
    steps = np.where(largest > 0, largest / np.float32(limit), 1).astype(np.float32)
    # The quotient by a subnormal step may leave the limits.
    return np.clip(np.rint(weight / steps), -limit, limit).astype(np.int8), steps


def layers_to_quantize(edit: Edit, keep: Iterable[str] = ()) -> list[Linear]:
    """Linear layers with finite constant weights that 32 bits can sum, in order, without those whose names match a pattern of `keep`.

    Raises
    ------
    PassNotApplicable
        There are none, or a pattern matches no layer.
    """
    layers = [layer for layer in linears(edit) if _is_fit(layer.weight)]
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
    """Put what `build` makes of each layer, its bias added, in the place of its output."""
    for layer in layers:
        edit.replace(layer.output, build(layer))
