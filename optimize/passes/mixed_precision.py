"""Mixed precision: int8 where it changes the answers little, float32 where it changes them most, found by trying each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx

from optimize.passes.activations import require_runs
from optimize.passes.base import NOTHING, Context, Feeds, Need, OptionError, Pass, PassNotApplicable
from optimize.passes.editing import Edit, require_opset
from optimize.passes.int8_layers import layers_to_quantize, name_of, quantize
from optimize.passes.int8_static import STATIC_OPSET, source_ranges
from optimize.passes.ranges import Range
from optimize.passes.trials import Base, builder, float_outputs, trial


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one layer alone does to the answers.

    Attributes
    ----------
    node
        Name of the layer's product.
    error
        As `MixedPrecision.max_error`.
    """

    node: str
    error: float


@dataclass(frozen=True)
class MixedPrecision(Pass):
    """Quantize as many layers as the answers on calibration data allow; the most sensitive ones stay float32.

    Attributes
    ----------
    base
        How to quantize, with that pass's defaults.
    max_error
        Most that the answers may change: the norm of the change over the norm of the answers, of all runs together, of the worst output.
        0.01 cost a trained ranker +0.006 % NE, docs/passes.md.
    """

    kind: ClassVar[str] = "mixed_precision"
    needs: ClassVar[tuple[Need, ...]] = ("calibration",)

    base: Base = "int8_dynamic"
    max_error: float = 0.01

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.max_error > 0:
            raise OptionError(f"pass {self.kind!r}: max_error={self.max_error} must be above 0")

    @property
    def changes(self) -> str:
        """What it changes."""
        return "linear layers as 8-bit integers, without those that this would change the answers most by"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the quantized model.

        Raises
        ------
        PassNotApplicable
            The model has no layer that can be quantized within `max_error`, or none at all, no float32 output, or an old opset.
        CalibrationError
            There are too few runs in `context`, one does not fit the model's inputs, or gives values that are not finite.
        """
        names, runs, kept = _prepared(self, model, context, self.base)
        with trial(model, self.base, runs, kept) as trying:
            alone = trying.each_alone()
            least_first = sorted(range(len(names)), key=lambda i: (alone[i], i))
            count = _most(len(names), lambda count: trying.error(least_first[:count]) <= self.max_error)
        if not count:
            least = least_first[0]
            raise PassNotApplicable(
                f"the model has no layer that could be quantized within max_error={self.max_error}: {names[least]!r} alone changes the "
                f"answers by {alone[least]:.2g} of their norm"
            )
        edit = Edit(model)
        layers = layers_to_quantize(edit)
        quantize(edit, [layers[i] for i in sorted(least_first[:count])], builder(edit, layers, self.base, kept))
        return edit.done()


def sensitivities(model: onnx.ModelProto, context: Context, base: Base = "int8_dynamic") -> list[Sensitivity]:
    """What quantizing each linear layer alone does to the answers on the first calibration runs, in the graph's order.

    Raises
    ------
    PassNotApplicable
        The model has no matrix product with constant weights, no float32 output, or an old opset.
    CalibrationError
        There are too few runs in `context`, one does not fit the model's inputs, or gives values that are not finite.
    """
    names, runs, kept = _prepared(MixedPrecision(base=base), model, context, base)
    with trial(model, base, runs, kept) as trying:
        return [Sensitivity(name, error) for name, error in zip(names, trying.each_alone(), strict=True)]


def _prepared(step: Pass, model: onnx.ModelProto, context: Context, base: Base) -> tuple[list[str], Sequence[Feeds], Mapping[str, Range]]:
    """Names of the layers, checked runs, and ranges of what the layers read where the base needs them."""
    edit = Edit(model)
    layers = layers_to_quantize(edit)
    require_opset(edit, STATIC_OPSET, "8-bit operators by channel")
    if not float_outputs(model):
        raise PassNotApplicable("the model has no float32 output to compare")
    runs = require_runs(step, model, context)
    return [name_of(layer) for layer in layers], runs, source_ranges(model, layers, runs, "minmax") if base == "int8_static" else {}


def _most(count: int, is_within: Callable[[int], bool]) -> int:
    """The largest number up to `count` that is within, found by halving; 0 is, and what is returned was tried."""
    low, high = 0, count
    if is_within(count):
        return count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_within(middle) else (low, middle)
    return low
