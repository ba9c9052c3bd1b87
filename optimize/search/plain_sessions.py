"""ONNX Runtime sessions with the serving settings, but for what a study turns: the level of graph optimization, or the profile."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime as ort

from optimize.passes.base import Feeds
from serving.runtime.session import serving_options

PROFILED_RUNS, WARM_UP_RUNS = 20, 5


class PlainSession:
    """Runs a graph.

    Parameters
    ----------
    optimized
        Whether ONNX Runtime may fuse and fold, as it does by default.
    """

    def __init__(self, graph: Path | bytes, *, threads: int, optimized: bool = True, profile: Path | None = None) -> None:
        options = serving_options(threads)
        if not optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        self._session = ort.InferenceSession(graph if isinstance(graph, bytes) else str(graph), options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run once."""
        outputs: list[npt.NDArray[Any]] = self._session.run(None, dict(feeds))
        return outputs

    def profile(self) -> list[dict[str, Any]]:
        """End profiling and return its events."""
        events: list[dict[str, Any]] = json.loads(Path(self._session.end_profiling()).read_text())
        return events


def operator_times(graph: Path, feeds: Feeds, threads: int) -> dict[str, float]:
    """Milliseconds of each kind of operator in one run, the mean of `PROFILED_RUNS`."""
    with tempfile.TemporaryDirectory() as folder:
        session = PlainSession(graph, threads=threads, profile=Path(folder) / "profile")
        for _ in range(WARM_UP_RUNS + PROFILED_RUNS):
            session.run(feeds)
        return {kind: us / 1e3 / PROFILED_RUNS for kind, us in kernel_times(session.profile(), skip=WARM_UP_RUNS).items()}


def kernel_times(events: Iterable[Mapping[str, Any]], *, skip: int) -> dict[str, float]:
    """Microseconds of each kind of operator in a profile's events, without the first `skip` runs of each node."""
    seen: dict[str, int] = defaultdict(int)
    total: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        seen[event["name"]] += 1
        if seen[event["name"]] > skip:
            total[event["args"]["op_name"]] += event["dur"]
    return dict(total)
