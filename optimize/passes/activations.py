"""What a graph computes on calibration data: its values, run by run, and the ranges to quantize them in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from optimize.passes.base import CalibrationError, Context, Feeds, Pass, copy_of
from optimize.passes.editing import in_memory
from optimize.passes.feeds import slots

MIN_RUNS = 8
"""From 8 requests on, more change NE by 0.1 % at most; a single one cost up to 2 %, docs/passes.md."""

SERIALIZED_BYTES = 2**30
"""Larger models go to the runtime through files; protobuf ends at two of these."""

Values = Mapping[str, npt.NDArray[Any]]
"""Name of a value in the graph → its array, of one run."""


def require_runs(step: Pass, model: onnx.ModelProto, context: Context) -> Sequence[Feeds]:
    """Return the calibration data of `context`, checked against the inputs of `model`.

    Raises
    ------
    CalibrationError
        There are too few runs, or one does not fit: names, dtypes, shapes.
    """
    runs = context.calibration
    if len(runs) < MIN_RUNS:
        raise CalibrationError(
            f"pass {step.kind!r} needs calibration data, at least {MIN_RUNS} runs, and got {len(runs)}; "
            "give feeds as the model will serve them, Context(calibration=[...])"
        )
    wanted = slots(model)
    for i, feeds in enumerate(runs):
        names = {slot.name for slot in wanted}
        if feeds.keys() != names:
            wrong = ", ".join(sorted(map(repr, feeds.keys() ^ names)))
            raise CalibrationError(
                f"calibration run {i} and the model's inputs differ in {wrong}; the model takes {', '.join(sorted(names))}"
            )
        for slot in wanted:
            if gap := slot.gap(np.asarray(feeds[slot.name])):
                raise CalibrationError(f"calibration run {i}: input {slot.name!r} {gap}")
    return runs


def observe(model: onnx.ModelProto, names: Sequence[str], runs: Sequence[Feeds]) -> Iterator[Values]:
    """Run `model` and give the values called `names`, one run at a time; the memory of one run's values is all that it holds.

    Raises
    ------
    CalibrationError
        The model does not run on a run's feeds, or a value is not finite.
    """
    with session(model, names) as running:
        for i, feeds in enumerate(runs):
            values = dict(zip(names, answers(running, names, feeds, i), strict=True))
            for name, value in values.items():
                if not np.isfinite(value).all():
                    raise CalibrationError(f"calibration run {i}: the value {name!r} has elements that are not finite; look at its feeds")
            yield values


def answers(running: ort.InferenceSession, names: Sequence[str], feeds: Feeds, run: int) -> list[npt.NDArray[Any]]:
    """Outputs of one run.

    Raises
    ------
    CalibrationError
        The model does not run on these feeds.
    """
    try:
        found: list[npt.NDArray[Any]] = running.run(list(names), dict(feeds))
    except Exception as error:  # the runtime's errors share no class
        raise CalibrationError(f"the model does not run on calibration run {run}: {error}") from error
    return found


@contextmanager
def session(model: onnx.ModelProto, names: Sequence[str] = ()) -> Iterator[ort.InferenceSession]:
    """A session of `model` with inner values as outputs too; runs on the CPU provider with all cores, and does not spin while it waits."""
    copy = copy_of(in_memory(model))
    present = {output.name for output in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names) if name not in present)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if sum(len(tensor.raw_data) for tensor in copy.graph.initializer) < SERIALIZED_BYTES:
        yield ort.InferenceSession(copy.SerializeToString(), options, providers=providers)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(copy, str(path), save_as_external_data=True, location="model.weights")
        yield ort.InferenceSession(str(path), options, providers=providers)
