"""Constants folded, duplicates merged, and what does nothing or is read by nobody removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import has_tensors_alone, is_feature, quiet, read

ASIDE = "pilotage.aside"

MOST_ELEMENTS = 2**31 - 1
"""No tensor of a serialized model has more: protocol buffers end at 2 GiB."""

RULES_OPSET = 13
"""onnxscript writes operators as this opset has them, whatever the model's: axes and splits as inputs, products without a third one."""

SEQUENCES = frozenset(["ConcatFromSequence", "SplitToSequence"])
"""Operators that folding replaces by ``Unsqueeze``, ``Squeeze`` and ``Split``."""


@dataclass(frozen=True)
class CleanUp(Pass):
    """Tidy the graph with onnxscript's optimizer, feature preprocessing excepted.

    Attributes
    ----------
    max_folded_elements
        Largest constant that folding may make: an ``Expand`` or ``ConstantOfShape`` beyond it stays an operator, not megabytes of
        file. A constant that replaces one as large (a transposed weight) is always allowed.
    """

    kind: ClassVar[str] = "clean_up"

    max_folded_elements: int = 65536

    @property
    def changes(self) -> str:
        """What it changes."""
        return "constants folded, common subexpressions and equal constants merged, dead and idle operators removed"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the tidy model.

        Raises
        ------
        PassNotApplicable
            There is nothing to tidy, or something that cannot be edited: values that are maps, for one.
        """
        from onnxscript import optimizer, rewriter

        with quiet():
            edited = read(model)
            before = _size(edited)
            common.InlinePass()(edited)
            can_infer = has_tensors_alone(edited)
            if can_infer:
                common.ShapeInferencePass(check_type=False, strict_mode=False)(edited)
            with _aside(edited):
                for _ in range(2):  # a rewrite can make a constant, and a constant a rewrite
                    optimizer.fold_constants_ir(
                        edited,
                        onnx_shape_inference=can_infer,
                        input_size_limit=MOST_ELEMENTS,
                        output_size_limit=self.max_folded_elements,
                        should_fold=self._allows,
                    )
                    if edited.graph.opset_imports.get("", 1) >= RULES_OPSET:
                        rewriter.rewrite(edited)
                _tidy(edited)
            if _size(edited) == before:
                raise PassNotApplicable("the model has no constant to fold, no duplicate, and no operator that does nothing")
            return ir.to_proto(edited)

    def _allows(self, node: ir.Node) -> bool | None:
        """False for a cast of a large constant, which may be stored small on purpose; None leaves the choice to the library."""
        held = node.inputs[0].const_value if node.op_type == "Cast" and node.inputs and node.inputs[0] is not None else None
        return False if held is not None and held.size > self.max_folded_elements else None


def _tidy(model: ir.Model) -> None:
    steps = (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=MOST_ELEMENTS),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    )
    for step in steps:
        step(model)


def _size(model: ir.Model) -> tuple[int, int]:
    return model.graph.num_nodes(), len(model.graph.initializers)


@contextmanager
def _aside(model: ir.Model) -> Iterator[None]:
    """Make nodes that must stay as they are unknown and unlike each other for a while, so that no rule matches them."""
    is_old = model.graph.opset_imports.get("", 1) < RULES_OPSET
    kept = {
        f"{number}": (node, node.domain)
        for number, node in enumerate(model.graph)
        if is_feature(node) or (is_old and node.op_type in SEQUENCES)
    }
    if kept:
        model.graph.opset_imports[ASIDE] = 1
    try:
        for number, (node, _) in kept.items():
            node.domain, node.overload = ASIDE, number
        yield
    finally:
        for node, domain in kept.values():
            node.domain, node.overload = domain, ""
            if domain and domain not in model.graph.opset_imports:
                model.graph.opset_imports[domain] = 1
        model.graph.opset_imports.pop(ASIDE, None)
