"""Linear layers of a graph, however they are written: ``MatMul``, ``MatMul`` and ``Add``, or ``Gemm``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from optimize.passes.editing import Edit, array, integer, number, only_reader, vector_added


@dataclass(frozen=True)
class Linear:
    """``output = source @ weight + bias``, with constant weights.

    Attributes
    ----------
    node
        The product.
    weight
        ``(K, M) float32``.
    bias
        ``(M,) float32``, or None.
    output
        After the bias is added.
    """

    node: ir.Node
    source: ir.Value
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None
    output: ir.Value

    @property
    def stored(self) -> npt.NDArray[np.float32]:
        """The weights as the graph holds them: what ``Gemm`` transposes and multiplies by alpha."""
        held = array(self.node.inputs[1])
        assert held is not None
        return held


def linears(edit: Edit) -> list[Linear]:
    """All linear layers of a graph, in order."""
    found = [linear_at(node) for node in edit.nodes("MatMul", "Gemm") if not node.domain]
    return [layer for layer in found if layer is not None]


def rebuilt(
    edit: Edit, layer: Linear, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None, source: ir.Value | None = None
) -> ir.Value:
    """Put the same layer with other weights, ``(K, M)``, beside it and return its output, which `Edit.replace` may put in its place.

    Parameters
    ----------
    source
        What the new layer reads; None for what `layer` reads by now.
    """
    source = layer.node.inputs[0] if source is None else source
    before = layer.output.producer()
    assert before is not None
    held = edit.constant(np.ascontiguousarray(weight), f"{layer.output.name}/weight")
    added = None if bias is None else edit.constant(bias, f"{layer.output.name}/bias")
    if layer.node.op_type == "Gemm":
        return edit.add(before, "Gemm", [source, held] if added is None else [source, held, added])
    product = edit.add(before, "MatMul", [source, held])
    return product if added is None else edit.add(before, "Add", [product, added])


def linear_at(node: ir.Node) -> Linear | None:
    """The layer whose product `node` is, if its weights and bias are constant and float32."""
    source, weight = node.inputs[0], array(node.inputs[1])
    if source is None or array(source) is not None or weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        return None
    if node.op_type == "Gemm":
        return _gemm(node, source, weight)
    product = node.outputs[0]
    added = only_reader(product, "Add")
    found = vector_added(added.outputs[0]) if added is not None else None
    if added is None or found is None or len(found[1]) != weight.shape[1]:
        return Linear(node, source, weight, None, product)
    return Linear(node, source, weight, found[1], added.outputs[0])


def _gemm(node: ir.Node, source: ir.Value, weight: npt.NDArray[np.float32]) -> Linear | None:
    if integer(node, "transA", 0):
        return None
    weight = (weight.T if integer(node, "transB", 0) else weight) * np.float32(number(node, "alpha", 1.0))
    bias: npt.NDArray[np.float32] | None = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        held = array(node.inputs[2])
        if held is None or held.size not in (1, weight.shape[1]) or (held.ndim == 2 and held.shape[0] != 1):
            return None
        bias = np.broadcast_to(held.ravel(), weight.shape[1:]) * np.float32(number(node, "beta", 1.0))
    return Linear(node, source, weight, bias, node.outputs[0])
