"""One graph with both forms of every linear layer, float32 and int8, and a switch for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from optimize.passes.activations import MIN_RUNS, answers, session
from optimize.passes.base import CalibrationError, Feeds
from optimize.passes.editing import Edit
from optimize.passes.int8_dynamic import DynamicLayers
from optimize.passes.int8_layers import Weights, layers_to_quantize
from optimize.passes.int8_static import StaticLayers
from optimize.passes.linear import Linear
from optimize.passes.ranges import Range

Base = Literal["int8_dynamic", "int8_static"]

SWITCH = "quantize/"
"""Inputs of the trial graph are called so and by a layer's number: whether it is quantized in this run."""


@dataclass(frozen=True)
class Trial:
    """One session of a graph with both forms of every layer and a switch for each, instead of a session a trial.

    Attributes
    ----------
    expected
        Answers of each run in float32.
    """

    running: ort.InferenceSession
    outputs: Sequence[str]
    runs: Sequence[Feeds]
    layers: int
    expected: list[list[npt.NDArray[Any]]]

    def answers(self, run: int, quantized: Collection[int]) -> list[npt.NDArray[Any]]:
        """Outputs of a run with the layers of these numbers in int8."""
        switches = {f"{SWITCH}{i}": np.array(i in quantized) for i in range(self.layers)}
        return answers(self.running, self.outputs, {**self.runs[run], **switches}, run)

    def error(self, quantized: Collection[int], runs: int | None = None) -> float:
        """Norm of the change over the norm of the answers, of the worst output, on the first `runs`."""
        change, size = np.zeros(len(self.outputs)), np.zeros(len(self.outputs))
        for run, expected in enumerate(self.expected[:runs]):
            for i, (before, after) in enumerate(zip(expected, self.answers(run, quantized), strict=True)):
                change[i] += np.square(after.astype(np.float64) - before).sum()
                size[i] += np.square(before.astype(np.float64)).sum()
        shares = np.divide(change, size, out=np.where(change > 0, np.inf, 0.0), where=size > 0)
        return float(np.sqrt(shares.max()))

    def each_alone(self) -> list[float]:
        """Errors of each layer quantized alone, on the fewest runs that calibration may have."""
        return [self.error({i}, MIN_RUNS) for i in range(self.layers)]


@contextmanager
def trial(model: onnx.ModelProto, base: Base, runs: Sequence[Feeds], kept: Mapping[str, Range]) -> Iterator[Trial]:
    """Build the graph, run it in float32 and give what tries layers on it.

    Parameters
    ----------
    kept
        Ranges of what layers read, by name; static int8 needs them.

    Raises
    ------
    PassNotApplicable
        The model has no layer that can be quantized.
    CalibrationError
        It does not run on `runs`, or its answers are not finite.
    """
    edit = Edit(model)
    layers = layers_to_quantize(edit)
    build = builder(edit, layers, base, kept)
    for i, layer in enumerate(layers):
        switch = ir.val(f"{SWITCH}{i}", ir.DataType.BOOL, ())
        edit.graph.inputs.append(switch)
        quantized, last = build(layer), layer.output.producer()
        assert last is not None
        chosen = edit.add(last, "Where", [switch, quantized, quantized])
        edit.replace(layer.output, chosen)
        where = chosen.producer()
        assert where is not None
        where.replace_input_with(2, layer.output)
    outputs = float_outputs(model)
    with session(edit.done()) as running:
        trying = Trial(running, outputs, runs, len(layers), [])
        for run in range(len(runs)):
            trying.expected.append(trying.answers(run, ()))
            if not all(np.isfinite(value).all() for value in trying.expected[-1]):
                raise CalibrationError(f"calibration run {run}: the model's answers are not finite; look at its feeds")
        yield trying


def float_outputs(model: onnx.ModelProto) -> list[str]:
    """Names of the outputs that can be compared."""
    return [value.name for value in model.graph.output if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]


def builder(edit: Edit, layers: Sequence[Linear], base: Base, kept: Mapping[str, Range]) -> Callable[[Linear], ir.Value]:
    """What builds the int8 form of a layer."""
    if base == "int8_dynamic":
        return DynamicLayers(edit, Weights(edit)).build
    found = {layer.source: kept[str(layer.source.name)] for layer in layers}
    return StaticLayers(edit, Weights(edit, zeros_by_channel=True), found).build
