"""The tiny ranker, with what a pass looks for where it has none: every pass is held to the same rules on the same inputs and outputs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import numpy_helper

from tests.grafts import (
    Nodes,
    attention,
    attention_constants,
    calibration,
    erf_gelu,
    layer_norm,
    node,
    scalars,
    with_nodes,
)

LOGIT = "model/squeeze"
HIDDEN = "model/add_172"
"""First layer of the deep network of ``tiny_graph``, ``(N, 8)``, before its activation."""

WIDTH = 8


def example(kind: str, ranker: onnx.ModelProto) -> onnx.ModelProto:
    """The ranker in a form that the pass of this kind applies to."""
    return EXAMPLES[kind](ranker) if kind in EXAMPLES else ranker


def _drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _calibrated(ranker: onnx.ModelProto) -> onnx.ModelProto:
    return with_nodes(ranker, LOGIT, calibration(), **scalars(scale=0.7, offset=-1.3))


def _with_gelu(ranker: onnx.ModelProto) -> onnx.ModelProto:
    return with_nodes(ranker, HIDDEN, erf_gelu(), **scalars(root2=2**0.5, one=1.0, half=0.5))


def _with_layer_norm(ranker: onnx.ModelProto) -> onnx.ModelProto:
    vectors = dict(zip(("weight", "shift"), _drawn(2, WIDTH), strict=True))
    return with_nodes(ranker, HIDDEN, layer_norm(), **vectors, last=np.array([-1]), **scalars(two=2.0, epsilon=1e-5))


def _with_attention(ranker: onnx.ModelProto) -> onnx.ModelProto:
    nodes: Nodes = [
        node("Unsqueeze", ["IN", "front"], "batched"),
        *attention("batched"),
        node("Squeeze", ["attention", "front"], "listed"),
    ]
    return with_nodes(ranker, HIDDEN, nodes, **attention_constants(WIDTH, 2), front=np.array([0]))


def _with_projected_attention(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """Attention of eight heads, with a projection of its output."""
    nodes: Nodes = [
        node("Unsqueeze", ["IN", "front"], "batched"),
        *attention("batched"),
        node("MatMul", ["attention", "w_o"], "mixed"),
        node("Squeeze", ["mixed", "front"], "listed"),
    ]
    constants = attention_constants(WIDTH, WIDTH) | {"w_o": _drawn(WIDTH, WIDTH) / np.float32(WIDTH**0.5)}
    return with_nodes(ranker, HIDDEN, nodes, **constants, front=np.array([0]))


def _with_flat_layer(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """A layer of 128 whose outputs lie in eight dimensions, between one that widens and one that narrows."""
    up, down = _drawn(WIDTH, 128) / np.float32(WIDTH**0.5), _drawn(128, WIDTH) / np.float32(128**0.5)
    nodes = [
        node("MatMul", [given, name], f"through_{name}") for given, name in (("IN", "up"), ("through_up", "flat"), ("through_flat", "down"))
    ]
    return with_nodes(ranker, HIDDEN, nodes, up=up, flat=down @ up, down=down)


def _with_patches(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """Each row as a picture of one patch."""
    nodes = [
        node("Reshape", ["IN", "picture"], "seen"),
        node("Conv", ["seen", "kernel"], "patches", strides=[2, 2]),
        node("Reshape", ["patches", "row"], "embedded"),
    ]
    kernel = _drawn(WIDTH, 2, 2, 2) / np.float32(WIDTH**0.5)
    return with_nodes(ranker, HIDDEN, nodes, kernel=kernel, picture=np.array([0, 2, 2, 2]), row=np.array([0, WIDTH]))


def _with_sequence(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """Each row as a sequence of three positions, of which the first is read."""
    nodes = [
        node("Unsqueeze", ["IN", "second"], "listed"),
        node("Add", ["listed", "positions"], "sequence"),
        node("MatMul", ["sequence", "mixing"], "mixed"),
        node("Gather", ["mixed", "first"], "used", axis=1),
    ]
    matrices = {"positions": _drawn(3, WIDTH), "mixing": _drawn(WIDTH, WIDTH) / np.float32(WIDTH**0.5)}
    return with_nodes(ranker, HIDDEN, nodes, **matrices, second=np.array([1]), first=np.array(0))


def _widened(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """Two layers more, the second large enough to be worth packing."""
    sizes = (WIDTH, 128, 128, WIDTH)
    weights = {f"wide{i}": _drawn(rows, columns) / np.float32(rows**0.5) for i, (rows, columns) in enumerate(pairwise(sizes))}
    nodes = [node("MatMul", [source, f"wide{i}"], f"widened{i}") for i, source in enumerate(("IN", "widened0", "widened1"))]
    return with_nodes(ranker, HIDDEN, nodes, **weights)


def _with_residual(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """A stream of 16 channels with one block, normalized behind it."""
    sizes = {"into": (WIDTH, 16), "block": (16, 32), "back": (32, 16), "out": (16, WIDTH)}
    weights = {name: _drawn(*size) / np.float32(size[0] ** 0.5) for name, size in sizes.items()}
    nodes = [
        node("MatMul", ["IN", "into"], "stream"),
        node("MatMul", ["stream", "block"], "wide"),
        node("Relu", ["wide"], "active"),
        node("MatMul", ["active", "back"], "branch"),
        node("Add", ["stream", "branch"], "sum"),
        node("LayerNormalization", ["sum", "weight", "shift"], "normal"),
        node("MatMul", ["normal", "out"], "left"),
    ]
    return with_nodes(ranker, HIDDEN, nodes, **weights, weight=np.ones(16, np.float32), shift=np.zeros(16, np.float32))


def _unsplit(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """First layers as most people write them: over the request's values repeated to candidates, and the candidates' own."""
    weights = {tensor.name.removeprefix("model/"): numpy_helper.to_array(tensor) for tensor in ranker.graph.initializer}
    for layer, at in (("first_cross", "model/add_142"), ("first_deep", HIDDEN)):
        halves = [weights[f"{layer}.{side}.weight"] for side in ("request", "candidate")]
        whole = {f"{layer}_weight": np.concatenate(halves, axis=1), f"{layer}_bias": weights[f"{layer}.request.bias"]}
        ranker = with_nodes(ranker, at, [node("Gemm", ["model/cat_2", *whole], layer, transB=1)], **whole)
    return ranker


def _with_thin_request(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """Two products more in the request's half of the first cross layer, over two values between them."""
    wide = 28
    nodes = [node("MatMul", ["IN", "down"], "thin"), node("MatMul", ["thin", "up"], "wide")]
    return with_nodes(ranker, "model/linear_1", nodes, down=_drawn(wide, 2) / np.float32(wide**0.5), up=_drawn(2, wide))


EXAMPLES = {
    "bf16": _widened,
    "low_rank": _with_flat_layer,
    "prune_heads": _with_projected_attention,
    "prune_width": _with_residual,
    "conv_to_matmul": _with_patches,
    "fold_calibration": _calibrated,
    "fuse_attention": _with_attention,
    "fuse_gelu": _with_gelu,
    "fuse_layer_norm": _with_layer_norm,
    "repeat_thin": _with_thin_request,
    "split_request": _unsplit,
    "used_position": _with_sequence,
    "weight_only": _widened,
}
"""For passes that the ranker as it is has nothing for."""
