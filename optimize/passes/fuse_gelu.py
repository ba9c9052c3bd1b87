"""GELU, its tanh approximation and its sigmoid approximation as one operator each."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, pi, sqrt
from typing import ClassVar

import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import MICROSOFT, Edit, made_by, may_be_float32, only_reader, other_input, scalar, without_factors

CUBIC = 0.044715
RELATIVE = 1e-5
"""Exporters write the constants of the formulas with six digits at least."""


@dataclass(frozen=True)
class FuseGelu(Pass):
    """Compute each activation in one sweep over memory, instead of up to eight.

    References
    ----------
    Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016: ``x Φ(x)``, and both approximations.
    """

    kind: ClassVar[str] = "fuse_gelu"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "each GELU, exact or approximated by tanh or sigmoid, as one operator"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the fused model.

        Raises
        ------
        PassNotApplicable
            It has no GELU that is spelled out.
        """
        edit = Edit(model)
        for node in edit.nodes("Erf"):
            _fuse_halved(edit, node, _scaled_by_root_half(node), "Gelu")
        for node in edit.nodes("Tanh"):
            _fuse_halved(edit, node, _cubic_of(node), "FastGelu")
        for node in edit.nodes("Sigmoid"):
            _fuse_quick(edit, node)
        if not edit.changes:
            raise PassNotApplicable("the model has no GELU that is spelled out in elementary operators")
        return edit.done()


def _scaled_by_root_half(erf: ir.Node) -> ir.Value | None:
    """``x`` of ``erf(x / sqrt(2))``."""
    x, factor = without_factors(erf.inputs[0])
    return x if isclose(factor, sqrt(0.5), rel_tol=RELATIVE) else None


def _cubic_of(tanh: ir.Node) -> ir.Value | None:
    """``x`` of ``tanh(sqrt(2 / π) * (x + 0.044715 * x³))``."""
    total, factor = without_factors(tanh.inputs[0])
    added = made_by(total, "Add")
    if added is None or not isclose(factor, sqrt(2 / pi), rel_tol=RELATIVE):
        return None
    for x, cubic in (added.inputs, reversed(added.inputs)):
        cube, share = without_factors(cubic)
        if x is not None and isclose(share, CUBIC, rel_tol=RELATIVE) and _is_cube(cube, x):
            return x
    return None


def _is_cube(value: ir.Value | None, x: ir.Value) -> bool:
    power = made_by(value, "Pow")
    if power is not None:
        return power.inputs[0] is x and scalar(power.inputs[1]) == 3.0
    outer = made_by(value, "Mul")
    inner = made_by(other_input(outer, x), "Mul") if outer is not None and x in outer.inputs else None
    return inner is not None and all(given is x for given in inner.inputs)


def _fuse_halved(edit: Edit, inner: ir.Node, x: ir.Value | None, kind: str) -> None:
    """Replace ``0.5 * x * (1 + inner)``, in whatever order it is multiplied."""
    added = only_reader(inner.outputs[0], "Add")
    if x is None or not may_be_float32(x) or added is None or scalar(other_input(added, inner.outputs[0])) != 1.0:
        return
    product, factor, has_x = added.outputs[0], 1.0, False
    while (node := only_reader(product, "Mul")) is not None and not (has_x and factor == 0.5):
        other = other_input(node, product)
        constant = scalar(other)
        if constant is None:
            source, constant = (other, 1.0) if other is x else without_factors(other)
            if has_x or source is not x:
                return
            has_x = True
        product, factor = node.outputs[0], factor * constant
    last = product.producer()
    if has_x and factor == 0.5 and last is not None:
        edit.replace(product, edit.add(last, kind, [x], domain=MICROSOFT))


def _fuse_quick(edit: Edit, sigmoid: ir.Node) -> None:
    """Replace ``x * sigmoid(alpha * x)``; alpha is 1.702 in GELU's approximation and 1 in SiLU."""
    product = only_reader(sigmoid.outputs[0], "Mul")
    if product is None:
        return
    x = other_input(product, sigmoid.outputs[0])
    inner, alpha = (sigmoid.inputs[0], 1.0) if x is sigmoid.inputs[0] else without_factors(sigmoid.inputs[0])
    if x is not None and inner is x and may_be_float32(x):
        edit.replace(product.outputs[0], edit.add(product, "QuickGelu", [x], {"alpha": alpha}, domain=MICROSOFT))
