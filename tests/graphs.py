"""Small graphs from text, run and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from optimize.passes.base import Pass


def graph(text: str, opset: int = 20, **constants: object) -> onnx.ModelProto:
    """A model from ``(inputs) => (outputs) { nodes }`` in ONNX's text form, and initializers by name."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> tested {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    return model


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def same_answers(step: Pass, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], atol: float = 2e-6) -> Counter[str]:
    """Hold the changed model to the answers of the one before, optimizations of the runtime off; return its operators."""
    after = step.apply(model)
    assert [v.name for v in after.graph.output] == [v.name for v in model.graph.output]
    for expected, found in zip(run(model, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)
    return kinds(after)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
