"""The tiny ranker, with what a pass looks for where it has none: every pass is held to the same rules on the same inputs and outputs."""

from __future__ import annotations

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
    rng = np.random.default_rng(0)
    if kind == "fold_calibration":
        return with_nodes(ranker, LOGIT, calibration(), **scalars(scale=0.7, offset=-1.3))
    if kind == "fuse_gelu":
        return with_nodes(ranker, HIDDEN, erf_gelu(), **scalars(root2=2**0.5, one=1.0, half=0.5))
    if kind == "fuse_layer_norm":
        vectors = {name: rng.normal(size=WIDTH).astype(np.float32) for name in ("weight", "shift")}
        return with_nodes(ranker, HIDDEN, layer_norm(), **vectors, last=np.array([-1]), **scalars(two=2.0, epsilon=1e-5))
    if kind == "fuse_attention":
        nodes: Nodes = [
            node("Unsqueeze", ["IN", "front"], "batched"),
            *attention("batched"),
            node("Squeeze", ["attention", "front"], "listed"),
        ]
        return with_nodes(ranker, HIDDEN, nodes, **attention_constants(WIDTH, 2), front=np.array([0]))
    if kind == "split_request":
        return _unsplit(ranker)
    return ranker


def _unsplit(ranker: onnx.ModelProto) -> onnx.ModelProto:
    """First layers as most people write them: over the request's values repeated to candidates, and the candidates' own."""
    weights = {tensor.name.removeprefix("model/"): numpy_helper.to_array(tensor) for tensor in ranker.graph.initializer}
    for layer, at in (("first_cross", "model/add_142"), ("first_deep", HIDDEN)):
        halves = [weights[f"{layer}.{side}.weight"] for side in ("request", "candidate")]
        whole = {f"{layer}_weight": np.concatenate(halves, axis=1), f"{layer}_bias": weights[f"{layer}.request.bias"]}
        ranker = with_nodes(ranker, at, [node("Gemm", ["model/cat_2", *whole], layer, transB=1)], **whole)
    return ranker
