"""Mixed precision: int8 where it changes the answers little, float32 where it changes them most, found by trying each layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from optimize.passes.activations import MIN_RUNS, answers, require_runs, session
from optimize.passes.base import NOTHING, CalibrationError, Context, Feeds, Need, OptionError, Pass, PassNotApplicable
from optimize.passes.editing import Edit, require_opset
from optimize.passes.int8_dynamic import DynamicLayers
from optimize.passes.int8_layers import Weights, layers_to_quantize, name_of, quantize
from optimize.passes.int8_static import STATIC_OPSET, StaticLayers, source_ranges
from optimize.passes.linear import Linear
from optimize.passes.ranges import Range

Base = Literal["int8_dynamic", "int8_static"]

SWITCH = "quantize/"
"""Inputs of the trial graph are called so and by a layer's number: whether it is quantized in this run."""


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
        with _trial(model, self.base, runs, kept) as trial:
            alone = trial.each_alone()
            least_first = sorted(range(len(names)), key=lambda i: (alone[i], i))
            count = _most(len(names), lambda count: trial.error(least_first[:count]) <= self.max_error)
        if not count:
            least = least_first[0]
            raise PassNotApplicable(
                f"the model has no layer that could be quantized within max_error={self.max_error}: {names[least]!r} alone changes the "
                f"answers by {alone[least]:.2g} of their norm"
            )
        edit = Edit(model)
        layers = layers_to_quantize(edit)
        quantize(edit, [layers[i] for i in sorted(least_first[:count])], _builder(edit, layers, self.base, kept))
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
    with _trial(model, base, runs, kept) as trial:
        return [Sensitivity(name, error) for name, error in zip(names, trial.each_alone(), strict=True)]


def _prepared(step: Pass, model: onnx.ModelProto, context: Context, base: Base) -> tuple[list[str], Sequence[Feeds], Mapping[str, Range]]:
    """Names of the layers, checked runs, and ranges of what the layers read where the base needs them."""
    edit = Edit(model)
    layers = layers_to_quantize(edit)
    require_opset(edit, STATIC_OPSET, "8-bit operators by channel")
    if not _outputs(model):
        raise PassNotApplicable("the model has no float32 output to compare")
    runs = require_runs(step, model, context)
    return [name_of(layer) for layer in layers], runs, source_ranges(model, layers, runs, "minmax") if base == "int8_static" else {}


def _outputs(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]


def _builder(edit: Edit, layers: Sequence[Linear], base: Base, kept: Mapping[str, Range]) -> Callable[[Linear], ir.Value]:
    if base == "int8_dynamic":
        return DynamicLayers(edit, Weights(edit)).build
    found = {layer.source: kept[str(layer.source.name)] for layer in layers}
    return StaticLayers(edit, Weights(edit, zeros_by_channel=True), found).build


def _most(count: int, is_within: Callable[[int], bool]) -> int:
    """The largest number up to `count` that is within, found by halving; 0 is, and what is returned was tried."""
    low, high = 0, count
    if is_within(count):
        return count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_within(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class _Trial:
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
def _trial(model: onnx.ModelProto, base: Base, runs: Sequence[Feeds], kept: Mapping[str, Range]) -> Iterator[_Trial]:
    edit = Edit(model)
    layers = layers_to_quantize(edit)
    build = _builder(edit, layers, base, kept)
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
    outputs = _outputs(model)
    with session(edit.done()) as running:
        trial = _Trial(running, outputs, runs, len(layers), [])
        for run in range(len(runs)):
            trial.expected.append(trial.answers(run, ()))
            if not all(np.isfinite(value).all() for value in trial.expected[-1]):
                raise CalibrationError(f"calibration run {run}: the model's answers are not finite; look at its feeds")
        yield trial
