"""Half-precision weights and arithmetic, with inputs and outputs kept as they are."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import onnx

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable, copy_of

KEPT_OPERATORS = ("MurmurHash3", "Mod", "IsNaN", "Where", "Max", "Min", "Log", "Asinh")
"""Feature preprocessing stays in float32: ids and raw numbers may exceed half precision's 65,504."""


@dataclass(frozen=True)
class Fp16(Pass):
    """Convert float32 weights and operators to float16.

    On ONNX Runtime's CPU provider this halves the file and wins no time, since it casts back and forth.
    """

    kind: ClassVar[str] = "fp16"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "weights and activations as float16; inputs, outputs and feature preprocessing stay float32"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the converted model.

        Raises
        ------
        PassNotApplicable
            The model has no float32 weights.
        """
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        if not any(tensor.data_type == onnx.TensorProto.FLOAT for tensor in model.graph.initializer):
            raise PassNotApplicable("the model has no float32 weights")
        kept_nodes = [node.name for node in model.graph.node if node.name.startswith("features/")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning for each weight that rounds to a subnormal
            converted = convert_float_to_float16(
                copy_of(model),
                keep_io_types=True,
                op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT_OPERATORS],
                node_block_list=kept_nodes,
            )
        result: onnx.ModelProto = converted
        _cancel_round_trips(result, {node.name for node in model.graph.node})
        return result


def _cancel_round_trips(model: onnx.ModelProto, original: set[str]) -> None:
    """Remove float32 → float16 → float32 between nodes that stay float32.

    The converter casts every graph input and every value between two kept nodes there and back, so a raw number over 65,504
    would become infinite before its bounds and its logarithm are applied.

    Parameters
    ----------
    original
        Names of the nodes that were there before: only the converter's own casts are removed.
    """
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.name not in original]
    halved = {node.output[0]: node.input[0] for node in casts if node.attribute[0].i == onnx.TensorProto.FLOAT16}
    outputs = {output.name for output in model.graph.output}
    restored = {node.output[0]: halved[node.input[0]] for node in casts if node.input[0] in halved and node.output[0] not in outputs}
    for node in model.graph.node:
        node.input[:] = [restored.get(name, name) for name in node.input]
    read = {name for node in model.graph.node if not restored.keys() & set(node.output) for name in node.input} | outputs
    gone = restored.keys() | (halved.keys() - read)
    kept_nodes = [node for node in model.graph.node if not gone & set(node.output)]
    kept_values = [value for value in model.graph.value_info if value.name not in gone]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(kept_nodes)
    model.graph.value_info.extend(kept_values)
