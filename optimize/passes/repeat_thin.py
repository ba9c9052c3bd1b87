"""Repeat what a thin layer gives for a request, and not what the wide layer behind it does.

Letters: ``N`` candidates, ``B`` requests, ``K`` and ``M`` inputs and outputs of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import Edit, integer, only_reader, other_input, rank
from optimize.passes.linear import Linear, linears, rebuilt

MOST_INPUTS = 32
"""Of the request's layer. Each costs a product for every candidate and output, which was not there before; what is saved is two sweeps
over ``(N, M)``, the repetition and the sum: on an AVX2 machine the time of some forty products an element."""


@dataclass(frozen=True)
class RepeatThin(Pass):
    """Compute ``a @ W + repeated(b @ V)`` as ``[a, repeated(b)] @ [W; V]`` where ``b`` is thin: a layer that `LowRank` has factored.

    What is repeated to the candidates is ``(N, K)`` then instead of ``(N, M)``, and the sum is a part of the product.
    """

    kind: ClassVar[str] = "repeat_thin"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "thin values of the request repeated to candidates, instead of the wide ones computed from them"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the model with such layers joined.

        Raises
        ------
        PassNotApplicable
            It has none.
        """
        edit = Edit(model)
        layers = {layer.output: layer for layer in linears(edit)}
        for gather in edit.nodes("Gather"):
            _join(edit, gather, layers)
        if not edit.changes:
            raise PassNotApplicable(
                f"the model has no layer of at most {MOST_INPUTS} inputs, and of half as many inputs as outputs, whose result is repeated "
                "by Gather and added to another layer's; low_rank makes such layers"
            )
        return edit.done()


def _join(edit: Edit, gather: ir.Node, layers: dict[ir.Value, Linear]) -> None:
    wide, index = gather.inputs
    request = layers.get(wide) if wide is not None else None
    added = only_reader(gather.outputs[0], "Add")
    if request is None or wide is None or added is None or only_reader(wide, "Gather") is not gather:
        return
    own = other_input(added, gather.outputs[0])
    candidate = layers.get(own) if own is not None else None
    if candidate is None or only_reader(candidate.output, "Add") is not added or index is None or integer(gather, "axis", 0) != 0:
        return
    inputs, outputs = request.weight.shape
    if candidate.weight.shape[1] != outputs or inputs > MOST_INPUTS or 2 * inputs > outputs:
        return
    if [rank(value) for value in (request.source, candidate.source, index)] != [2, 2, 1]:
        return
    thin = edit.add(gather, "Gather", [request.node.inputs[0], index], {"axis": 0})
    both = edit.add(added, "Concat", [candidate.node.inputs[0], thin], {"axis": 1})
    biases = [layer.bias for layer in (candidate, request) if layer.bias is not None]
    bias = np.asarray(np.sum(biases, axis=0), np.float32) if biases else None
    edit.replace(added.outputs[0], rebuilt(edit, candidate, np.concatenate([candidate.weight, request.weight]), bias, both))
