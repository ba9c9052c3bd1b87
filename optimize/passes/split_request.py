"""The request's half of a ranker's first layers, computed once a request.

Letters: ``R`` requests, ``N`` candidates, ``M`` width of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import Edit, array, integer, made_by, rank, width
from optimize.passes.linear import Linear, linear_at
from optimize.passes.shapes import elements


@dataclass(frozen=True)
class SplitRequest(Pass):
    """Multiply values of the request before they are repeated to its candidates, not after.

    ``[repeat(r) ; c] W = repeat(r W_r) + c W_c``: the first product has a row a request instead of a row a candidate. It applies to layers
    that read a concatenation of which parts are repeated by ``Gather`` (an index a candidate), ``Expand`` or ``Tile`` (one request).
    """

    kind: ClassVar[str] = "split_request"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "the request's part of first layers computed once a request, then repeated to its candidates"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the split model.

        Raises
        ------
        PassNotApplicable
            No layer reads a concatenation of repeated and other values.
        """
        edit = Edit(model)
        halves: dict[ir.Value, _Halves | None] = {}
        for node in edit.nodes("MatMul", "Gemm"):
            layer = linear_at(node)
            if layer is None:
                continue
            if layer.source not in halves:
                halves[layer.source] = _halves(edit, layer.source)
            found = halves[layer.source]
            if found is not None and found.total == len(layer.weight):
                _split(edit, layer, found)
        if not edit.changes:
            raise PassNotApplicable("the model has no layer over a concatenation of values repeated to candidates and others")
        return edit.done()


@dataclass(frozen=True)
class _Part:
    """One value of a concatenation: rows of the weights that it meets, its source, and what repeats it (None: nothing)."""

    value: ir.Value
    start: int
    size: int
    index: ir.Value | None = None
    repeated: bool = False


@dataclass(frozen=True)
class _Side:
    """Values of one number of rows, side by side."""

    value: ir.Value
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    index: ir.Value | None


@dataclass(frozen=True)
class _Halves:
    candidate: _Side
    requests: Sequence[_Side]
    total: int


def _halves(edit: Edit, whole: ir.Value) -> _Halves | None:
    """Sort the parts of a concatenation by what repeats them, and concatenate each sort."""
    parts = _parts(whole, 0)
    before = whole.producer()
    if parts is None or before is None or rank(whole) != 2:
        return None
    plain = [part for part in parts if not part.repeated]
    sorts: dict[ir.Value | None, list[_Part]] = {}
    for part in parts:
        if part.repeated:
            sorts.setdefault(part.index, []).append(part)
    if not plain or not sorts:
        return None
    requests = [_side(edit, before, members, index) for index, members in sorts.items()]
    return _Halves(_side(edit, before, plain, None), requests, parts[-1].start + parts[-1].size)


def _parts(whole: ir.Value, start: int) -> list[_Part] | None:
    """Values that `whole` puts side by side, nested concatenations unfolded; None where a width is unknown."""
    node = made_by(whole, "Concat")
    if node is None or integer(node, "axis", 0) not in (1, -1) or rank(whole) != 2:
        return None
    parts: list[_Part] = []
    for value in node.inputs:
        size = (width(value) or _tiled_width(value)) if value is not None else None
        if value is None or size is None:
            return None
        parts += _parts(value, start) or [_repeated(value, start, size) or _Part(value, start, size)]
        start += size
    return parts


def _tiled_width(value: ir.Value) -> int | None:
    """Width of what is tiled along rows alone; shape inference knows it only where all repetitions are constant."""
    node = made_by(value, "Tile")
    repeats = elements(node.inputs[1]) if node is not None else None
    source = node.inputs[0] if node is not None else None
    return width(source) if source is not None and repeats is not None and repeats[1:] == [1] else None


def _repeated(value: ir.Value, start: int, size: int) -> _Part | None:
    """What `value` repeats, row by row."""
    node = made_by(value, "Gather", "Expand", "Tile")
    source = node.inputs[0] if node is not None else None
    if node is None or source is None or array(source) is not None or source.shape is None or rank(source) != 2 or width(source) != size:
        return None
    if node.op_type == "Gather":
        index = node.inputs[1]
        by_row = index is not None and array(index) is None and rank(index) == 1 and integer(node, "axis", 0) == 0
        return _Part(source, start, size, index, True) if by_row else None
    # One row broadcasts to all candidates by itself when it is added.
    return _Part(source, start, size, None, True) if source.shape[0] == 1 else None


def _side(edit: Edit, before: ir.Node, parts: Sequence[_Part], index: ir.Value | None) -> _Side:
    values = [part.value for part in parts]
    joined = values[0] if len(values) == 1 else edit.add(before, "Concat", values, {"axis": 1})
    return _Side(joined, np.concatenate([np.arange(part.start, part.start + part.size) for part in parts]), index)


def _split(edit: Edit, layer: Linear, halves: _Halves) -> None:
    before, name = layer.node, str(layer.output.name)
    candidate = edit.constant(np.ascontiguousarray(layer.weight[halves.candidate.rows]), f"{name}/candidate_weight")
    total = edit.add(before, "MatMul", [halves.candidate.value, candidate])
    bias = layer.bias
    for side in halves.requests:
        inputs = [side.value, edit.constant(np.ascontiguousarray(layer.weight[side.rows]), f"{name}/request_weight")]
        if bias is not None:
            inputs.append(edit.constant(bias, f"{name}/request_bias"))
            bias = None
        product = edit.add(before, "Gemm", inputs)
        if side.index is not None:
            product = edit.add(before, "Gather", [product, side.index], {"axis": 0})
        total = edit.add(before, "Add", [total, product])
    edit.replace(layer.output, total)
