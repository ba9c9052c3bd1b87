"""What vector units and tiled loops bring to a matrix product on this CPU.

ONNX Runtime's kernels cannot be run without either, so they are compared with a loop that has neither: NumPy's product of integers,
compiled C that multiplies and adds one pair of 32-bit numbers a step and walks down the columns. Two sizes of weights tell the two
apart: some that stay in the first cache, where tiling makes no difference, and some that do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from optimize.search.plain_sessions import PlainSession

SMALL, LARGE = 64, 1024
"""Square weights of 16 kB and of 4 MB: first caches have 32 to 64 kB, second ones 0.5 to 2 MB."""

RUNTIME_ROWS = {SMALL: 8192, LARGE: 512}
PLAIN_ROWS = {SMALL: 2048, LARGE: 32}
"""So that a run takes some milliseconds, and a plain one at most some tenths of a second."""

ROUNDS = 7


@dataclass(frozen=True)
class Rates:
    """Billions of multiplications and additions a second, one thread."""

    plain_small: float
    plain_large: float
    runtime_small: float
    runtime_large: float

    @property
    def vectors(self) -> float:
        """How much faster the runtime is where tiling does not matter."""
        return self.runtime_small / self.plain_small

    @property
    def tiles(self) -> float:
        """How much better the runtime keeps its rate on large weights than the plain loop does."""
        return (self.runtime_large / self.runtime_small) / (self.plain_large / self.plain_small)


def measure_rates() -> Rates:
    """Time four products in turn."""
    arms: dict[str, tuple[float, Callable[[], object]]] = {}
    for name, size in (("small", SMALL), ("large", LARGE)):
        arms[f"plain_{name}"] = 2.0 * PLAIN_ROWS[size] * size**2, _plain(size)
        arms[f"runtime_{name}"] = 2.0 * RUNTIME_ROWS[size] * size**2, _runtime(size)
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, (_, run) in arms.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    return Rates(**{name: arms[name][0] / median(values) / 1e9 for name, values in taken.items()})


def _plain(size: int) -> Callable[[], object]:
    rng = np.random.default_rng(size)
    rows, weight = (rng.integers(-9, 9, shape, np.int32) for shape in ((PLAIN_ROWS[size], size), (size, size)))
    return lambda: rows @ weight


def _runtime(size: int) -> Callable[[], object]:
    rng = np.random.default_rng(size)
    session = PlainSession(_product(rng.random((size, size), np.float32)), threads=1)
    rows = rng.random((RUNTIME_ROWS[size], size), np.float32)
    return lambda: session.run({"x": rows})


def _product(weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["M", weight.shape[1]]) for name in "xy")
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weight, "w")])
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    return content
