"""What passes did to a model: its operators, and its answers on the runtime that serves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from optimize.passes.base import Feeds
from serving.contract.errors import PilotageError
from serving.runtime.session import open_session


class RunFailed(PilotageError):
    """ONNX Runtime loads the graph, but cannot run it on these inputs."""


@dataclass(frozen=True)
class Difference:
    """How far one output moved.

    Attributes
    ----------
    largest
        Largest difference of an element; of an output that is not a float, the share of elements that differ.
    magnitude
        Largest magnitude of the output before.
    cosine
        Of all elements before to all after; None where one of them is zero or not finite, or the output is not a float.
    """

    output: str
    largest: float
    magnitude: float
    cosine: float | None


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs in the main graph."""
    return Counter(node.op_type for node in model.graph.node)


def differences(before: Path, after: Path, runs: Sequence[Feeds], *, threads: int = 1) -> list[Difference]:
    """Run both graphs on the same inputs and compare output by output.

    Raises
    ------
    BundleError
        ONNX Runtime cannot load one of them.
    RunFailed
        One of them does not run.
    """
    first, names = _answers(before, runs, threads)
    second, _ = _answers(after, runs, threads)
    found = []
    for i, name in enumerate(names):
        pairs = [(old[i], new[i]) for old, new in zip(first, second, strict=True)]
        if any(old.shape != new.shape for old, new in pairs):
            raise RunFailed(f"output {name!r} had shape {pairs[0][0].shape} before the passes and has {pairs[0][1].shape} after them")
        old, new = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
        found.append(_difference(name, old, new))
    return found


def _difference(name: str, old: np.ndarray, new: np.ndarray) -> Difference:
    if old.dtype.kind != "f":
        return Difference(name, float(np.mean(old != new)) if old.size else 0.0, 1.0, None)
    x, y = old.astype(np.float64), new.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(x - y))
        norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    largest = float(np.where(np.isnan(gap), np.inf, gap).max(initial=0.0))
    return Difference(name, largest, float(np.abs(x).max(initial=0.0)), float(x @ y) / norms if norms and np.isfinite(norms) else None)


def _answers(path: Path, runs: Sequence[Feeds], threads: int) -> tuple[list[list[np.ndarray]], list[str]]:
    session = open_session(path, threads=threads)
    names = [output.name for output in session.get_outputs()]
    try:
        return [session.run(None, dict(feeds)) for feeds in runs], names
    except Exception as error:  # ONNX Runtime raises several unrelated types
        raise RunFailed(f"{path.name} does not run: {str(error).strip().splitlines()[0]}") from error
