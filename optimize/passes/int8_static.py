"""Static int8: weights and activations quantized in ranges that calibration found, as ``QuantizeLinear`` and ``DequantizeLinear``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.activations import require_runs
from optimize.passes.base import NOTHING, Context, Feeds, Need, Pass
from optimize.passes.editing import Edit, rank, require_opset
from optimize.passes.int8_layers import Weights, WeightType, layers_to_quantize, quantize
from optimize.passes.linear import Linear
from optimize.passes.ranges import Method, Range, ranges

STATIC_OPSET = 13
"""Since then ``DequantizeLinear`` takes a scale per channel."""


@dataclass(frozen=True)
class Int8Static(Pass):
    """Quantize the matrix products; embedding tables, convolutions and what lies between products stay float32.

    An answer does not depend on the other rows of a run, as it does where the range is found at run time.

    Attributes
    ----------
    method
        How a range is chosen: all that was seen, the least divergence, or a percentile.
    per_channel
        A scale for each output channel of the weights, or one for all of them.
    symmetric
        Activations as int8 around 0, which other runtimes need, instead of uint8 from the least to the largest value.
    keep
        Name patterns of products that stay float32, as of `fnmatch`.
    weight_type
        See `optimize.passes.int8_layers.WeightType`.
    """

    kind: ClassVar[str] = "int8_static"
    needs: ClassVar[tuple[Need, ...]] = ("calibration",)

    method: Method = "minmax"
    per_channel: bool = True
    symmetric: bool = False
    keep: tuple[str, ...] = ()
    weight_type: WeightType = "uint8"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "weights of matrix products and what they read as 8-bit integers, in ranges found by calibration"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the quantized model.

        Raises
        ------
        PassNotApplicable
            The model has no matrix product with constant weights, none that `keep` leaves, or an opset older than 13.
        CalibrationError
            There are too few runs in `context`, one does not fit the model's inputs, or gives values that are not finite.
        """
        edit = Edit(model)
        layers = layers_to_quantize(edit, self.keep)
        require_opset(edit, STATIC_OPSET, "DequantizeLinear by channel")
        runs = require_runs(self, model, context)
        kept = source_ranges(model, layers, runs, self.method)
        found = {layer.source: kept[str(layer.source.name)] for layer in layers}
        weights = Weights(edit, self.weight_type, self.per_channel, zeros_by_channel=True)
        quantize(edit, layers, StaticLayers(edit, weights, found, self.symmetric).build)
        return edit.done()


@dataclass(frozen=True)
class StaticLayers:
    """Builds int8 layers beside those of a graph: float operators between ``DequantizeLinear``, which runtimes make integer kernels of.

    ONNX Runtime does so with ``Gemm``, its bias in 32 bits, and with ``MatMul`` over more than two axes. A ``MatMul`` of two axes and its
    ``Add`` it makes a float ``Gemm`` first, and then dequantizes all weights in each run: 4.2 ms instead of 2.4 where float32 took 3.0.

    Parameters
    ----------
    found
        Ranges of what the layers read, as the graph was before any was built.
    """

    edit: Edit
    weights: Weights
    found: Mapping[ir.Value, Range]
    symmetric: bool = False
    _sources: dict[ir.Value, tuple[ir.Value, np.float32]] = field(default_factory=dict)

    def build(self, layer: Linear) -> ir.Value:
        """Return the output of a layer, bias added; what several layers read is quantized once."""
        edit, before = self.edit, layer.output.producer()
        assert before is not None
        source, step = self._source(layer)
        weight = self.weights.of(layer)
        constants = [weight.values, weight.scale] + ([] if weight.zero is None else [weight.zero])
        operands = [source, edit.add(before, "DequantizeLinear", constants, {"axis": 1} if weight.steps.ndim else None)]
        bias = None if layer.bias is None else _in_32_bits(layer.bias, step * weight.steps)
        if rank(layer.source) == 2 and bias is not None:
            return edit.add(before, "Gemm", [*operands, self._bias(layer, bias, step * weight.steps)])
        product = edit.add(before, "Gemm" if rank(layer.source) == 2 else "MatMul", operands)
        return product if layer.bias is None else edit.add(before, "Add", [product, edit.constant(layer.bias, f"{layer.output.name}/bias")])

    def _source(self, layer: Linear) -> tuple[ir.Value, np.float32]:
        """What a layer reads, rounded, and its step."""
        source = layer.node.inputs[0]  # by now: the layer in front may have been built anew
        assert source is not None
        if source not in self._sources:
            step, zero = steps(self.found[layer.source], self.symmetric)
            constants = [
                self.edit.constant(np.asarray(value), f"{source.name}_{name}") for name, value in (("scale", step), ("zero_point", zero))
            ]
            integers = self.edit.add(layer.node, "QuantizeLinear", [source, *constants])
            self._sources[source] = self.edit.add(layer.node, "DequantizeLinear", [integers, *constants]), step
        return self._sources[source]

    def _bias(self, layer: Linear, bias: npt.NDArray[np.int32], scale: npt.NDArray[np.float32]) -> ir.Value:
        before = layer.output.producer()
        assert before is not None
        values = self.edit.constant(bias, f"{layer.output.name}/bias_quantized")
        return self.edit.add(
            before,
            "DequantizeLinear",
            [values, self.edit.constant(scale, f"{layer.output.name}/bias_scale")],
            {"axis": 0} if scale.ndim else None,
        )


def source_ranges(model: onnx.ModelProto, layers: Sequence[Linear], runs: Sequence[Feeds], method: Method) -> dict[str, Range]:
    """Name of each value that `layers` read → its range on calibration data.

    Raises
    ------
    CalibrationError
        The model does not run on it, or a value is not finite.
    """
    return ranges(model, list(dict.fromkeys(str(layer.source.name) for layer in layers)), runs, method)


def steps(kept: Range, symmetric: bool) -> tuple[np.float32, np.int8 | np.uint8]:
    """Scale and zero point of a range; a range of nothing but 0 has the scale 1."""
    if symmetric:
        largest = max(-kept.low, kept.high)
        return np.float32(largest / 127 if largest else 1), np.int8(0)
    width = kept.high - kept.low
    step = np.float32(width / 255 if width else 1)
    return step, np.uint8(np.clip(np.rint(-kept.low / step), 0, 255))


def _in_32_bits(bias: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.int32] | None:
    """Bias in units of the products' steps; None where it does not fit."""
    integers = np.rint(bias.astype(np.float64) / scale)
    return integers.astype(np.int32) if np.abs(integers).max() <= np.iinfo(np.int32).max // 2 else None
