"""What this machine's matrix products allow: ONNX Runtime's own kernels on large matrices and at the shapes of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.optimize_subjects import Product

LARGE: Product = (1024, 1024, 1024)
"""Three matrices that fit a second-level cache of a few MiB; larger ones measured no faster."""

Kernel = Literal["fp32", "int7", "int8", "uint8"]
KERNELS: tuple[Kernel, ...] = ("fp32", "int7", "int8", "uint8")
"""Of weights: see `optimize.passes.int8_layers.WeightType`; ``int7`` runs the kernel of ``int8``, with values that overflow nowhere."""

INTEGERS: tuple[Kernel, ...] = ("int7", "int8", "uint8")

OPSET, IR_VERSION = 20, 10


def product_arm(kernel: Kernel, product: Product) -> Callable[[int], object]:
    """One product of a matrix that changes with each request and constant weights, on one thread."""
    rows, inner, outer = product
    rng = np.random.default_rng(0)
    if kernel == "fp32":
        left, weight = rng.normal(size=(rows, inner)).astype(np.float32), rng.normal(size=(inner, outer)).astype(np.float32)
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        kinds, constants = (TensorProto.FLOAT, TensorProto.FLOAT), {"w": weight}
    else:
        bits, zero = (6, 0) if kernel == "int7" else (7, 0)
        left = rng.integers(0, 256, (rows, inner)).astype(np.uint8)
        signed = rng.integers(-(2**bits) + 1, 2**bits, (inner, outer))
        weight = signed.astype(np.int8)
        if kernel == "uint8":
            weight, zero = (signed + 128).astype(np.uint8), 128
        node = helper.make_node("MatMulInteger", ["x", "w", "x_zero", "w_zero"], ["y"])
        kinds = TensorProto.UINT8, TensorProto.INT32
        constants = {"w": weight, "x_zero": np.array(128, np.uint8), "w_zero": np.array(zero, weight.dtype)}
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", kinds[0], ["N", inner])],
        [helper.make_tensor_value_info("y", kinds[1], ["N", outer])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    run = partial(session.run, None, {"x": left})
    return lambda _: run()


def limit_ms(operations: float, times_ms: Mapping[Kernel, float]) -> float:
    """Time of all products at the best rate that an integer kernel reached on large matrices."""
    rate = max(rate_gops(LARGE, times_ms[kernel]) for kernel in INTEGERS)
    return operations / rate / 1e6


def shapes_ms(products: Mapping[Product, int], times_ms: Mapping[tuple[Kernel, Product], float]) -> float:
    """Time of all products, each by the fastest integer kernel at its own shape, with nothing between them."""
    return sum(count * min(times_ms[kernel, product] for kernel in INTEGERS) for product, count in products.items())


def rate_gops(product: Product, time_ms: float) -> float:
    """Thousand millions of multiplications and additions a second."""
    rows, inner, outer = product
    return 2 * rows * inner * outer / time_ms / 1e6
