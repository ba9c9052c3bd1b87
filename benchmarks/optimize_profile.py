"""Where the time of a run goes, operator by operator, as ONNX Runtime's profiler has it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from optimize.passes.base import Feeds

RUNS = 20
WARM_UP_RUNS = 3


def operator_shares(path: Path, feeds: Feeds, *, threads: int) -> dict[str, float]:
    """Operator → its share of the time that all operators of the graph at `path` take, in percent, largest first."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(".profile"))
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(WARM_UP_RUNS + RUNS):
        session.run(None, dict(feeds))
    profile = Path(session.end_profiling())
    try:
        return shares(json.loads(profile.read_text(encoding="utf-8")), skip=WARM_UP_RUNS)
    finally:
        profile.unlink()


def shares(events: Iterable[Mapping[str, Any]], *, skip: int) -> dict[str, float]:
    """Add up the events of kernels by operator, without the first `skip` runs of each node."""
    seen: dict[str, int] = defaultdict(int)
    times: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        seen[event["name"]] += 1
        if seen[event["name"]] > skip:
            times[event["args"]["op_name"]] += event["dur"]
    total = sum(times.values())
    return {kind: 100 * time / total for kind, time in sorted(times.items(), key=lambda item: -item[1])} if total else {}
