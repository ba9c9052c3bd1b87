"""Convolutions over patches that do not overlap as matrix products.

Letters: ``B`` batch, ``C`` channels in, ``M`` channels out; ``n`` patches and ``k`` positions of a patch along an axis of space.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from optimize.passes.base import NOTHING, Context, Pass, PassNotApplicable
from optimize.passes.editing import Edit, array, integer, integers, only_reader, rank

SLICE_OPSET = 10
"""Since then the bounds of a ``Slice`` are inputs."""


@dataclass(frozen=True)
class ConvToMatMul(Pass):
    """Cut the picture into patches and multiply each by the kernel: the patch embedding of a vision transformer.

    The same products are summed, in another order. What quantizes, prunes or merges linear layers then takes this one too. A kernel of
    one position is left alone: ONNX Runtime multiplies by it where the values lie, while a product needs two transpositions.

    References
    ----------
    Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, equation 1.
    """

    kind: ClassVar[str] = "conv_to_matmul"

    @property
    def changes(self) -> str:
        """What it changes."""
        return "each convolution over patches that do not overlap as a matrix product"

    def apply(self, model: onnx.ModelProto, context: Context = NOTHING) -> onnx.ModelProto:
        """Return the rewritten model.

        Raises
        ------
        PassNotApplicable
            No convolution has a constant kernel as large as its steps, over a picture of known size.
        """
        edit = Edit(model)
        for node in edit.nodes("Conv"):
            patches = _patches_of(node, edit.opset)
            if patches is not None:
                _rewrite(edit, patches)
        if not edit.changes:
            raise PassNotApplicable(
                "the model has no convolution over patches that do not overlap: a constant kernel of more than one position, as large as "
                "its steps, without padding, dilation and groups, over a picture of known height and width"
            )
        return edit.done()


@dataclass(frozen=True)
class _Patches:
    """A convolution: ``source (B, C, n·k + rest, …)``, ``weight (M, C, k, …)``, ``counts`` the ``n`` and ``kernel`` the ``k``."""

    node: ir.Node
    source: ir.Value
    weight: npt.NDArray[np.floating]
    bias: npt.NDArray[np.floating] | None
    counts: tuple[int, ...]
    kernel: tuple[int, ...]
    has_rest: bool


def _patches_of(node: ir.Node, opset: int) -> _Patches | None:
    source, weight = node.inputs[0], array(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    held = array(bias)
    if node.domain or source is None or source.shape is None or weight is None or (bias is not None and held is None):
        return None
    kernel = weight.shape[2:]
    ones = (1,) * len(kernel)
    auto_pad = node.attributes.get("auto_pad")
    covers = (
        (integers(node, "strides") or ones) == kernel
        and prod(kernel) > 1
        and not any(integers(node, "pads") or ())
        and (auto_pad is None or auto_pad.as_string() in ("NOTSET", "VALID"))
        and (integers(node, "dilations") or ones) == ones
        and integer(node, "group", 1) == 1
    )
    space = tuple(source.shape[2:])
    sizes = tuple(size for size in space if isinstance(size, int))
    if not covers or len(sizes) != len(kernel):
        return None
    counts = tuple(size // k for size, k in zip(sizes, kernel, strict=True))
    has_rest = any(size % k for size, k in zip(sizes, kernel, strict=True))
    if not all(counts) or (has_rest and opset < SLICE_OPSET):
        return None
    return _Patches(node, source, weight, held, counts, kernel, has_rest)


def _rewrite(edit: Edit, patches: _Patches) -> None:
    node, kernel, counts = patches.node, patches.kernel, patches.counts
    name = node.outputs[0].name
    channels_out, channels_in = patches.weight.shape[:2]
    axes = len(kernel)

    def shape(numbers: list[int], called: str) -> ir.Value:
        return edit.constant(np.array(numbers, np.int64), f"{name}/{called}")

    picture = patches.source
    if patches.has_rest:  # positions that no whole patch covers are not read
        ends = [n * k for n, k in zip(counts, kernel, strict=True)]
        bounds = [shape(given, called) for given, called in (([0] * axes, "from"), (ends, "to"), (list(range(2, 2 + axes)), "axes"))]
        picture = edit.add(node, "Slice", [picture, *bounds])
    cut = edit.add(node, "Reshape", [picture, shape([0, channels_in, *chain(*zip(counts, kernel, strict=True))], "cut")])
    order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
    turned = edit.add(node, "Transpose", [cut], {"perm": order})
    rows = edit.add(node, "Reshape", [turned, shape([0, prod(counts), channels_in * prod(kernel)], "patches")])
    weight = edit.constant(np.ascontiguousarray(patches.weight.reshape(channels_out, -1).T), f"{name}/weight")
    product = edit.add(node, "MatMul", [rows, weight])
    if patches.bias is not None:
        product = edit.add(node, "Add", [product, edit.constant(patches.bias, f"{name}/bias")])
    listed = _read_as_rows(node.outputs[0], channels_out, prod(counts))
    if listed is not None:
        edit.replace(listed, product)
        return
    back = edit.add(node, "Transpose", [product], {"perm": [0, 2, 1]})
    edit.replace(node.outputs[0], edit.add(node, "Reshape", [back, shape([0, channels_out, *counts], "picture")]))


def _read_as_rows(picture: ir.Value, channels: int, count: int) -> ir.Value | None:
    """The value ``(B, patches, M)``, where a transformer turns the picture ``(B, M, n, …)`` into rows and nothing else reads it."""
    flat = only_reader(picture, "Reshape", "Flatten")
    turned = only_reader(flat.outputs[0], "Transpose") if flat is not None else None
    if flat is None or turned is None or integers(turned, "perm") != (0, 2, 1) or rank(flat.outputs[0]) != 3:
        return None
    shape = flat.outputs[0].shape
    return turned.outputs[0] if shape is not None and tuple(shape[1:]) == (channels, count) else None
