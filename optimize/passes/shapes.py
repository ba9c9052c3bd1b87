"""What the elements of a shape vector are, traced through the operators that exporters compute shapes with."""

from __future__ import annotations

from typing import cast

import onnx_ir as ir

from optimize.passes.editing import array, integer

Element = int | tuple[str, int]
"""A number, or an axis of a value: its name and the number of the axis."""


def axis_of(value: ir.Value, axis: int) -> Element:
    """Size of an axis: a number where it is known, else the axis itself."""
    size = value.shape[axis] if value.shape is not None else None
    return size if isinstance(size, int) else (str(value.name), axis)


def elements(vector: ir.Value | None) -> list[Element] | None:
    """Elements of a vector of integers (a scalar is a vector of one); None where they cannot be traced.

    Follows constants, ``Shape``, ``Slice``, ``Gather``, ``Concat``, ``Squeeze``, ``Unsqueeze``, ``Cast`` and ``Identity``.
    """
    held = array(vector)
    if held is not None:
        return [int(number) for number in held.ravel()] if held.dtype.kind in "iu" else None
    node = vector.producer() if vector is not None else None
    if node is None or node.domain:
        return None
    if node.op_type == "Shape":
        return _shape_of(node)
    if node.op_type == "Concat":
        parts = [elements(part) for part in node.inputs]
        return None if any(part is None for part in parts) else [element for part in parts for element in part or []]
    inner = elements(node.inputs[0]) if node.inputs and node.op_type in _PICKS else None
    if inner is None or node.op_type in ("Squeeze", "Unsqueeze", "Cast", "Identity"):
        return inner
    return _picked(node, inner)


def _shape_of(node: ir.Node) -> list[Element] | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    axes = range(len(source.shape))[integer(node, "start", 0) : integer(node, "end", len(source.shape))]
    return [axis_of(source, axis) for axis in axes]


_PICKS = ("Slice", "Gather", "Squeeze", "Unsqueeze", "Cast", "Identity")


def _picked(node: ir.Node, inner: list[Element]) -> list[Element] | None:
    """Elements that a ``Slice`` or a ``Gather`` takes."""
    constants = [elements(given) if given is not None else None for given in node.inputs[1:]]
    if any(given is None or not all(isinstance(number, int) for number in given) for given in constants):
        return None
    numbers = cast("list[list[int]]", constants)
    if node.op_type == "Gather":
        return [inner[i] for i in numbers[0]] if all(-len(inner) <= i < len(inner) for i in numbers[0]) else None
    if len(numbers) < 2 or len(numbers[0]) != 1:
        return None
    step = numbers[3][0] if len(numbers) > 3 else 1
    return inner[numbers[0][0] : numbers[1][0] : step] if step > 0 else None
