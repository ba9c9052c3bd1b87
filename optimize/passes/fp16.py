"""Half-precision weights and arithmetic, with inputs and outputs kept as they are."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import Edit
from optimize.passes.half_precision import Halving

KEPT_OPERATORS = (
    "CumSum",
    "DequantizeLinear",
    "Exp",
    "Log",
    "Pow",
    "QuantizeLinear",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "TopK",
)
"""Sums over many elements, powers and exponentials leave half precision's range of 65,504 soonest (the square of 256 does), ties in an
order show its 11 bits, and what is quantized already is small."""


@dataclass(frozen=True)
class Fp16(Pass):
    """Convert float32 weights and what is computed with them to float16.

    ONNX Runtime's CPU provider has hardly any arithmetic in half precision: it casts the weights back when it loads them. The file is half
    as large, memory and time are those of float32.

    Attributes
    ----------
    keep_operators
        Types of operators that stay float32; a list replaces the one that is the default.
    keep_nodes
        Patterns of node names that stay float32, as for a shell: ``*``, ``?`` and ``[…]``. Feature preprocessing always does.
    """

    kind: ClassVar[str] = "fp16"
    keep_operators: tuple[str, ...] = KEPT_OPERATORS
    keep_nodes: tuple[str, ...] = ()

    @property
    def changes(self) -> str:
        """What it changes."""
        return "weights and activations as float16; inputs, outputs and feature preprocessing stay float32"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the converted model.

        Raises
        ------
        PassNotApplicable
            The model has no float32 weights that may be converted.
        """
        edit = Edit(model)
        halving = Halving(edit, self._is_kept)
        halving.convert(edit.graph, ChainMap())
        if not halving.weights:
            raise PassNotApplicable("the model has no float32 weights that half precision can hold and no option keeps")
        return edit.done()

    def _is_kept(self, node: ir.Node) -> bool:
        return node.op_type in self.keep_operators or any(fnmatchcase(node.name or "", pattern) for pattern in self.keep_nodes)
