"""Sub-graphs that passes look for, written out as exporters write them, and put into a graph that has none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

Nodes = list[onnx.NodeProto]


def node(op: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=f"grafted/{output}", **attributes)


def with_nodes(model: onnx.ModelProto, at: str, nodes: Nodes, **constants: object) -> onnx.ModelProto:
    """A copy in which readers of the value `at` read the output of the last of `nodes` instead; ``"IN"`` there stands for `at`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    place = next(i for i, made in enumerate(copy.graph.node) if at in made.output) + 1
    before, after = list(copy.graph.node)[:place], list(copy.graph.node)[place:]
    for reader in after:
        reader.input[:] = [nodes[-1].output[0] if name == at else name for name in reader.input]
    for grafted in nodes:
        grafted.input[:] = [at if name == "IN" else name for name in grafted.input]
    del copy.graph.node[:]
    copy.graph.node.extend([*before, *nodes, *after])
    copy.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    return copy


def scalars(**values: float) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in values.items()}


def calibration() -> Nodes:
    """``0.7 * z - 1.3``, with constants ``scale`` and ``offset``."""
    return [node("Mul", ["IN", "scale"], "scaled"), node("Add", ["scaled", "offset"], "calibrated")]


def erf_gelu() -> Nodes:
    """Needs the scalars ``root2``, ``one`` and ``half``."""
    return [
        node("Div", ["IN", "root2"], "divided"),
        node("Erf", ["divided"], "erf"),
        node("Add", ["erf", "one"], "plus_one"),
        node("Mul", ["IN", "plus_one"], "twice"),
        node("Mul", ["twice", "half"], "gelu"),
    ]


def layer_norm() -> Nodes:
    """Needs the vectors ``weight`` and ``shift``, the axes ``last`` and the scalars ``two`` and ``epsilon``."""
    return [
        node("ReduceMean", ["IN", "last"], "mean"),
        node("Sub", ["IN", "mean"], "deviation"),
        node("Pow", ["deviation", "two"], "squared"),
        node("ReduceMean", ["squared", "last"], "variance"),
        node("Add", ["variance", "epsilon"], "safe_variance"),
        node("Sqrt", ["safe_variance"], "root"),
        node("Div", ["deviation", "root"], "normal"),
        node("Mul", ["normal", "weight"], "weighted"),
        node("Add", ["weighted", "shift"], "layer_norm"),
    ]


def attention(source: str = "IN") -> Nodes:
    """Over ``(B, S, H)``. Needs matrices and vectors ``w_q``, ``b_q`` and so on, ``heads`` ``[0, 0, N, D]``, ``joined`` ``[0, 0, H]``, ``temper``."""
    nodes: Nodes = []
    for each in "qkv":
        perm = [0, 2, 3, 1] if each == "k" else [0, 2, 1, 3]
        nodes += [
            node("MatMul", [source, f"w_{each}"], f"product_{each}"),
            node("Add", [f"product_{each}", f"b_{each}"], f"projected_{each}"),
            node("Reshape", [f"projected_{each}", "heads"], f"parted_{each}"),
            node("Transpose", [f"parted_{each}"], f"heads_{each}", perm=perm),
        ]
    return [
        *nodes,
        node("MatMul", ["heads_q", "heads_k"], "scores"),
        node("Mul", ["scores", "temper"], "tempered"),
        node("Softmax", ["tempered"], "weights", axis=-1),
        node("MatMul", ["weights", "heads_v"], "attended"),
        node("Transpose", ["attended"], "turned", perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "joined"], "attention"),
    ]


def attention_constants(width: int, heads: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = {f"w_{each}": rng.normal(size=(width, width)).astype(np.float32) / width**0.5 for each in "qkv"}
    drawn |= {f"b_{each}": rng.normal(size=width).astype(np.float32) for each in "qkv"}
    sizes = {"heads": np.array([0, 0, heads, width // heads]), "joined": np.array([0, 0, width])}
    return drawn | sizes | scalars(temper=(width / heads) ** -0.5)
