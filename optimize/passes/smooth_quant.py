"""SmoothQuant: large input channels of linear layers made smaller and their weights larger, before int8.

Letters: ``K`` width of what a layer reads, ``M`` of what it gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.activations import observe, require_runs
from optimize.passes.base import NOTHING, Context, Need, Pass, PassNotApplicable, require_share
from optimize.passes.editing import Edit, array, integer, is_feature, made_by, only_reader
from optimize.passes.int8_layers import layers_to_quantize
from optimize.passes.linear import Linear, linears

NORMALIZATIONS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
"""Which inputs, weights and bias, scale the output."""

LARGEST_POWER = 15
"""A channel moves by at most 2**15: beyond, its share of what a layer reads is below one step of 8 bits many times over."""


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Divide each input channel by a power of two and multiply its weights by the same; no answer changes until a later pass quantizes.

    One scale for all channels of an activation is as coarse as its largest channel asks for, while weights have room: moving part of
    the size over makes both easy. The division goes into the normalization or the linear layer in front, where nothing else reads that, and
    is a product of its own elsewhere.

    Attributes
    ----------
    alpha
        Share of the size that moves to the weights. 0.5 was best on rankers, docs/passes.md.

    References
    ----------
    Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023, equation 4.
    """

    kind: ClassVar[str] = "smooth_quant"
    needs: ClassVar[tuple[Need, ...]] = ("calibration",)

    alpha: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        require_share(self.kind, "alpha", self.alpha)

    @property
    def changes(self) -> str:
        """What it changes."""
        return "scales of input channels moved into the weights of linear layers"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the model with its channels moved.

        Raises
        ------
        PassNotApplicable
            The model has no matrix product with constant weights, or none whose input channels differ.
        CalibrationError
            There are too few runs in `context`, one does not fit the model's inputs, or gives values that are not finite.
        """
        edit = Edit(model)
        readers: dict[ir.Value, list[Linear]] = {}
        for layer in layers_to_quantize(edit):
            readers.setdefault(layer.source, []).append(layer)
        names = [str(source.name) for source in readers]
        largest: dict[str, npt.NDArray[np.float32]] = {}
        for values in observe(model, names, require_runs(self, model, context)):
            for name, value in values.items():
                if value.size:
                    seen = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
                    largest[name] = np.maximum(largest.get(name, seen), seen)
        producers = {layer.output: layer for layer in linears(edit)}
        for source, layers in readers.items():
            if str(source.name) in largest:
                divisor = divisors(largest[str(source.name)], [layer.weight for layer in layers], self.alpha)
                if (divisor != 1).any():
                    _move(edit, source, layers, divisor, producers)
        if not edit.changes:
            raise PassNotApplicable("the model has no linear layer whose input channels differ in size")
        return edit.done()


def divisors(largest: npt.NDArray[np.float32], weights: Sequence[npt.NDArray[np.float32]], alpha: float) -> npt.NDArray[np.float32]:
    """What to divide the channels of an activation by, ``(K,) float32``: powers of two, so that float answers do not change.

    Parameters
    ----------
    largest
        Largest magnitude of each channel, ``(K,)``; a channel that was always 0, or that all weights are 0 for, stays.
    weights
        Of all layers that read the activation, ``(K, M)`` each.
    """
    heaviest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    moves = (largest > 0) & (heaviest > 0)
    power = np.zeros(len(largest))
    power[moves] = alpha * np.log2(largest[moves], dtype=np.float64) - (1 - alpha) * np.log2(heaviest[moves], dtype=np.float64)
    if moves.any():
        power[moves] -= power[moves].mean()
    exact: npt.NDArray[np.float32] = np.exp2(np.clip(np.rint(power), -LARGEST_POWER, LARGEST_POWER)).astype(np.float32)
    return exact


def _move(
    edit: Edit, source: ir.Value, layers: Sequence[Linear], divisor: npt.NDArray[np.float32], producers: Mapping[ir.Value, Linear]
) -> None:
    read_by_others = len(source.uses()) > len(layers) or source.is_graph_output()
    if read_by_others or not _divide_where_made(edit, source, divisor, producers):
        smoothed = edit.add(layers[0].node, "Mul", [source, edit.constant(np.float32(1) / divisor, f"{source.name}/smoothing")])
        for layer in layers:
            layer.node.replace_input_with(0, smoothed)
    for layer in layers:
        _multiply(edit, layer.node, 1, divisor if integer(layer.node, "transB", 0) else divisor[:, None])
    edit.changes += 1


def _divide_where_made(edit: Edit, source: ir.Value, divisor: npt.NDArray[np.float32], producers: Mapping[ir.Value, Linear]) -> bool:
    """Divide the channels of `source` by changing the layer that makes them; False where that cannot be."""
    node = made_by(source, "Relu")
    if node is not None and node.inputs[0] is not None and only_reader(node.inputs[0], "Relu") is not None:
        source = node.inputs[0]  # a positive divisor passes through
    if source in producers:
        _divide_outputs(edit, producers[source], divisor)
        return True
    node = source.producer()
    if node is None or node.op_type not in NORMALIZATIONS or is_feature(node) or node.outputs[0] is not source:
        return False
    places = [i for i in NORMALIZATIONS[node.op_type] if i < len(node.inputs) and node.inputs[i] is not None]
    constants = [array(node.inputs[i]) for i in places]
    if any(held is None or held.dtype != np.float32 or held.shape != divisor.shape for held in constants):
        return False
    for place in places:
        _multiply(edit, node, place, np.float32(1) / divisor)
    return True


def _divide_outputs(edit: Edit, layer: Linear, divisor: npt.NDArray[np.float32]) -> None:
    factor = np.float32(1) / divisor
    _multiply(edit, layer.node, 1, factor[:, None] if integer(layer.node, "transB", 0) else factor)
    last = layer.output.producer()
    assert last is not None
    if last.op_type == "Add":
        _multiply(edit, last, next(i for i, value in enumerate(last.inputs) if array(value) is not None), factor)
    elif layer.bias is not None:
        _multiply(edit, last, 2, factor)


def _multiply(edit: Edit, node: ir.Node, place: int, factor: npt.NDArray[np.float32]) -> None:
    """Let `node` read its constant input times `factor`; other readers keep what they read."""
    value = node.inputs[place]
    held = array(value)
    assert value is not None
    assert held is not None
    node.replace_input_with(place, edit.constant(held * factor, f"{value.name}/smoothed"))
