"""How often calibration data looks up each row of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.activations import answers, session
from optimize.passes.base import CalibrationError, Context
from optimize.passes.editing import Edit
from optimize.passes.table_sites import Table

Counts = npt.NDArray[np.int64]


def id_counts(model: onnx.ModelProto, found: Sequence[Table], context: Context) -> list[Counts]:
    """Run the part of a graph that computes ids on the calibration data; for each table the look-ups of each row, ``(R,)``.

    Raises
    ------
    CalibrationError
        There is no such data, the model does not run on it, or it looks nothing up.
    """
    if not context.calibration:
        raise CalibrationError("which ids are frequent shows only on calibration data, and there is none; give runs as they will be served")
    ids = {_name(lookup): None for table in found for lookup in table.lookups}
    totals = [np.zeros(len(table.rows), np.int64) for table in found]
    with session(_id_graph(model, ids)) as running:
        wanted = {given.name for given in running.get_inputs()}
        for run, feeds in enumerate(context.calibration):
            given = {name: feed for name, feed in feeds.items() if name in wanted}
            values = dict(zip(ids, answers(running, list(ids), given, run), strict=True))
            for i, table in enumerate(found):
                for lookup in table.lookups:
                    totals[i] += np.bincount(values[_name(lookup)].ravel() % len(table.rows), minlength=len(table.rows))
    if not any(total.any() for total in totals):
        raise CalibrationError("the calibration data looks nothing up; its runs are empty")
    return totals


def _name(lookup: ir.Node) -> str:
    ids = lookup.inputs[1]
    return f"ids of {ids.name if ids is not None else ''}"


def _id_graph(model: onnx.ModelProto, ids: dict[str, None]) -> onnx.ModelProto:
    """The same inputs; outputs are the ids."""
    edit = Edit(model)
    outputs = []
    for node in edit.nodes("Gather"):
        if _name(node) in ids and node.inputs[1] is not None:
            made = edit.add(node, "Identity", [node.inputs[1]])
            made.name, made.type, made.shape = _name(node), node.inputs[1].type or ir.TensorType(ir.DataType.INT64), node.inputs[1].shape
            outputs.append(made)
    edit.graph.outputs[:] = list({made.name: made for made in outputs}.values())
    return edit.done()
