"""Cross layers with fewer sweeps over memory: the same polynomials, multiplied out otherwise.

Letters: ``N`` rows, ``D`` width of a row, ``r`` inputs of a factored layer.

A cross layer is ``x' = x0 · g(x) + x`` with a linear ``g`` (Wang et al., "DCN V2", WWW 2021, equation 1), the first one with ``x = x0``.
So ``x' = x0 · s`` with ``s = 1 + g(x0)`` for the first layer and ``s' = s + g(x)`` for all others: the sum becomes a part of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import Edit, array, integer, made_by, only_reader, other_input, rank, require_opset, width
from optimize.passes.linear import Linear, linears, rebuilt

REDUCE_OPSET = 13
"""Since then ``ReduceSum`` takes its axes as an input."""

Layers = dict[ir.Value, Linear]


@dataclass(frozen=True)
class FoldCrosses(Pass):
    """Rewrite chains of cross layers.

    * The first one keeps its product and one multiplication; the sum is one more in its bias.
    * A further one does so where `LowRank` has factored its layer: the sum is what ``Gemm`` adds to, the bias one more input.
    * The last one is not computed, where it is factored and all that reads it is an output of one column, with weights ``w``:
      ``x' @ w = x @ w + h · (x0 @ Uw) + x0 @ (b · w)``, where ``h`` are the r thin values and ``Uw`` is ``(D, r)``.
    """

    kind: ClassVar[str] = "fold_crosses"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "sums of cross layers as a part of their products; the last one, where it is factored, folded into the output"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the rewritten model.

        Raises
        ------
        PassNotApplicable
            It has no cross layer, or its opset is older than 13.
        """
        edit = Edit(model)
        require_opset(edit, REDUCE_OPSET, "ReduceSum over given axes")
        layers = {layer.output: layer for layer in linears(edit)}
        for chain in _chains(edit, layers):
            _fold(edit, chain, layers)
        if not edit.changes:
            raise PassNotApplicable("the model has no cross layer, x0 · (a linear layer of x) + x, that begins with x = x0")
        return edit.done()


@dataclass(frozen=True)
class _Cross:
    """``added = start · (layer's output, maybe plus something) + before``; `gate` is what ``start`` is multiplied by."""

    start: ir.Value
    product: ir.Value
    gate: ir.Value
    layer: Linear
    added: ir.Node

    @property
    def before(self) -> ir.Value:
        """``x``, as it is by now."""
        found = other_input(self.added, self.product)
        assert found is not None
        return found


def _chains(edit: Edit, layers: Layers) -> list[list[_Cross]]:
    ends: dict[ir.Value, list[_Cross]] = {}
    chains = []
    for added in edit.nodes("Add"):
        for product, before in (added.inputs, reversed(added.inputs)):
            chain = ends.get(before) if before is not None else None
            found = _cross(added, product, chain[0].start if chain else before, layers)
            if found is None:
                continue
            if chain is None:
                chain = []
                chains.append(chain)
            chain.append(found)
            ends[added.outputs[0]] = chain
            break
    return chains


def _cross(added: ir.Node, product: ir.Value | None, start: ir.Value | None, layers: Layers) -> _Cross | None:
    multiplied = made_by(product, "Mul")
    if product is None or start is None or multiplied is None or only_reader(product, "Add") is not added or array(start) is not None:
        return None
    if start not in multiplied.inputs:
        return None
    gate = other_input(multiplied, start)
    if gate is None or only_reader(gate, "Mul") is not multiplied or rank(gate) != 2 or rank(start) != 2:
        return None
    summed = made_by(gate, "Add")
    for value in (gate, *(summed.inputs if summed is not None else ())):
        layer = layers.get(value) if value is not None else None
        if layer is not None and (layer.output is gate or only_reader(layer.output, "Add") is summed):
            return _Cross(start, product, gate, layer, added)
    return None


def _fold(edit: Edit, chain: Sequence[_Cross], layers: Layers) -> None:
    first = chain[0]
    ones = np.ones(first.layer.weight.shape[1], np.float32)
    shifted = rebuilt(edit, first.layer, first.layer.weight, ones if first.layer.bias is None else first.layer.bias + ones)
    if first.layer.output is first.gate:
        scale = shifted
    else:
        edit.replace(first.layer.output, shifted)
        scale = first.gate
    edit.replace(first.added.outputs[0], edit.add(first.added, "Mul", [first.start, scale]))
    for number, cross in enumerate(chain[1:], 2):
        thin = _thin(cross, layers)
        if thin is None or cross.layer.weight.shape[1] != len(ones):
            return
        if number == len(chain) and _fold_into_output(edit, cross, thin, layers):
            return
        inner = _rebuilt(edit, cross.added, thin.node.inputs[0], [thin.weight, 0], [thin.bias, 1])
        weight = edit.constant(np.concatenate([cross.layer.weight, _bias(cross.layer)[None]]), f"{cross.gate.name}/weight")
        scale = edit.add(cross.added, "Gemm", [inner, weight, scale])
        edit.replace(cross.added.outputs[0], edit.add(cross.added, "Mul", [cross.start, scale]))


def _thin(cross: _Cross, layers: Layers) -> Linear | None:
    """The layer that gives what a factored layer reads, and nobody else does."""
    source = cross.layer.node.inputs[0]
    thin = layers.get(source) if source is not None else None
    if thin is None or len(thin.output.uses()) != 1 or thin.output.is_graph_output() or cross.layer.output is not cross.gate:
        return None
    return thin if rank(thin.source) == 2 and 2 * thin.weight.shape[1] <= thin.weight.shape[0] else None


def _fold_into_output(edit: Edit, cross: _Cross, thin: Linear, layers: Layers) -> bool:
    """Give the output what the cross layer would have brought it; False where somebody else reads the layer too."""
    out = cross.added.outputs[0]
    joined = only_reader(out, "Concat")
    parts = [out] if joined is None else [part for part in joined.inputs if part is not None]
    read = out if joined is None else joined.outputs[0]
    reader = only_reader(read, "MatMul", "Gemm")
    last = next((layer for layer in layers.values() if layer.node is reader), None)
    widths = [width(part) for part in parts]
    if (
        last is None
        or last.weight.shape[1] != 1
        or rank(read) != 2
        or None in widths
        or (joined and integer(joined, "axis", 0) not in (1, -1))
    ):
        return False
    at = sum(size or 0 for size in widths[: parts.index(out)])
    of_cross = np.arange(at, at + cross.layer.weight.shape[1])
    column, before = last.weight[of_cross, 0], last.output.producer()
    assert before is not None
    # of each row: r thin values, a one, and x @ w; times what x0 gives for each of them
    own = _rebuilt(edit, before, cross.before, [thin.weight, 0, column], [thin.bias, 1, 0])
    weight = cross.layer.weight.T * column[:, None]
    of_start = _rebuilt(edit, before, cross.start, [weight, _bias(cross.layer) * column, 0], [None, 0, 1])
    one_axis = edit.constant(np.array([1]), "columns")
    brought = edit.add(before, "ReduceSum", [edit.add(before, "Mul", [own, of_start]), one_axis], {"keepdims": 1})
    others = [part for part in parts if part is not out]
    if others:
        source = others[0] if len(others) == 1 else edit.add(before, "Concat", others, {"axis": 1})
        rest = rebuilt(edit, last, np.delete(last.weight, of_cross, axis=0), last.bias, source)
    else:
        rest = edit.constant(_bias(last), f"{last.output.name}/bias")
    edit.replace(last.output, edit.add(before, "Add", [brought, rest]))
    return True


def _bias(layer: Linear) -> npt.NDArray[np.float32]:
    return np.zeros(layer.weight.shape[1], np.float32) if layer.bias is None else layer.bias


def _rebuilt(
    edit: Edit,
    before: ir.Node,
    source: ir.Value | None,
    columns: Sequence[npt.NDArray[np.float32] | int],
    biases: Sequence[npt.NDArray[np.float32] | int | None],
) -> ir.Value:
    """Put a ``Gemm`` whose weights are these columns, 0 for one of zeros, with these biases, None for zeros."""
    matrix = columns[0]
    assert not isinstance(matrix, int)
    rows, count = matrix.shape
    held = np.concatenate([matrix, *(np.broadcast_to(np.float32(each), rows)[:, None] for each in columns[1:])], axis=1)
    head = np.zeros(count, np.float32) if biases[0] is None else np.asarray(biases[0])
    bias = np.concatenate([head, np.asarray(biases[1:], np.float32)])
    constants = [edit.constant(np.ascontiguousarray(value, np.float32), name) for value, name in ((held, "weight"), (bias, "bias"))]
    return edit.add(before, "Gemm", [source, *constants])
