"""Which inputs and outputs of an operator have one type, and whether that may be half precision, from ONNX's own schemas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir as ir

from optimize.passes.editing import MICROSOFT

FLOAT = "tensor(float)"
HALF = "tensor(float16)"

ONE_TYPE = frozenset(
    {
        "BiasGelu",
        "FastGelu",
        "FusedMatMul",
        "Gelu",
        "MultiHeadAttention",
        "QuickGelu",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
"""Operators of ONNX Runtime, which ONNX has no schema of, whose floating-point inputs have one type that may be half precision."""

STATISTICS = (1, 2)
"""Mean and deviation, among the outputs of the two skip normalizations, are always float32."""


@dataclass(frozen=True)
class OperatorTypes:
    """Type of each input and output of a node: a variable's name as in the schema, or a type.

    Attributes
    ----------
    may_be_half
        Variables that half precision is allowed for.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    may_be_half: frozenset[str]


def types_of(node: ir.Node, opset: int) -> OperatorTypes | None:
    """Types of a node's inputs and outputs; None where they are not known, or decided by the bodies of a loop or branch."""
    inputs, outputs = len(node.inputs), len(node.outputs)
    if node.domain == MICROSOFT and node.op_type in ONE_TYPE:
        fixed = STATISTICS if node.op_type.startswith("Skip") else ()
        return OperatorTypes(("T",) * inputs, tuple(FLOAT if i in fixed else "T" for i in range(outputs)), frozenset("T"))
    if node.domain or any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()):
        return None
    schema = _schema(node.op_type, opset)
    if schema is None or len(schema.inputs) == 0 or len(schema.outputs) == 0:
        return None
    last_in, last_out = schema.inputs[-1], schema.outputs[-1]
    if not all(given.is_homogeneous for given in (last_in, last_out)):
        return None
    return OperatorTypes(
        tuple((schema.inputs[i] if i < len(schema.inputs) else last_in).type_str for i in range(inputs)),
        tuple((schema.outputs[i] if i < len(schema.outputs) else last_out).type_str for i in range(outputs)),
        frozenset(variable.type_param_str for variable in schema.type_constraints if HALF in variable.allowed_type_strs),
    )


@cache
def _schema(operator: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(operator, opset)
    except onnx.defs.SchemaError:
        return None
