"""How much memory a graph takes, seen from outside: a fresh process loads and runs it, and tells by how much it grew at most.

``python -m optimize.search.memory GRAPH FEEDS.npz THREADS`` prints bytes. That is the high-water mark of the resident set less what was
resident before, so it counts weights, also those that are mapped from their file, what loading needed for a moment, and the arena of
the runs. What several workers of a machine share is counted in full.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from optimize.passes.base import Feeds
from optimize.search.cache import told
from serving.runtime.session import GraphSession

RUNS = 5
LIMIT_S = 300
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Sets the high-water mark to what is resident now, ``man 5 proc``."""


def peak_memory(graph: Path, feeds: Feeds, threads: int) -> int | None:
    """Bytes that a process with this graph grows by; None where the system does not tell, or the process failed."""
    if not STATUS.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "feeds.npz"
        plain = {name: values.astype(str) if values.dtype == object else values for name, values in feeds.items()}
        with told(file):
            np.savez(file, **plain)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "optimize.search.memory", str(graph), str(file), str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
            return int(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None


def _resident(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"{STATUS} has no {field}")


def _main(graph: str, file: str, threads: str) -> None:
    with np.load(file, allow_pickle=False) as held:
        feeds = {name: values.astype(object) if values.dtype.kind == "U" else values for name, values in held.items()}
    RESET.write_text(RESET_PEAK)
    before = _resident("VmRSS")
    session = GraphSession(Path(graph), threads=int(threads))
    for _ in range(RUNS):
        session.run(feeds)
    sys.stdout.write(str(max(0, _resident("VmHWM") - before)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
