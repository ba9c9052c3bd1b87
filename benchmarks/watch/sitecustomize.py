"""Imported by every Python process whose ``PYTHONPATH`` has this folder: what a garbage collector does, told from inside.

On SIGUSR1 a process writes ``PID.json`` into the folder that ``WATCH_FOLDER`` names: its tracked objects after a full collection, and
how many collections there were of each generation since the last time with the longest pause, in milliseconds. So a benchmark looks into
services that know nothing of it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

_began = 0.0
_count = [0, 0, 0]
_longest_ms = [0.0, 0.0, 0.0]


def _collected(phase: str, info: dict[str, Any]) -> None:
    global _began  # noqa: PLW0603 - a collector's callback has nowhere else to keep it
    now = time.perf_counter()
    if phase == "start":
        _began = now
        return
    generation = info["generation"]
    _count[generation] += 1
    _longest_ms[generation] = max(_longest_ms[generation], (now - _began) * 1e3)


def _tell(number: int, frame: FrameType | None) -> None:
    seen = {"collections": list(_count), "longest_ms": list(_longest_ms)}
    gc.collect()
    seen["objects"] = len(gc.get_objects())
    _count[:], _longest_ms[:] = [0, 0, 0], [0.0, 0.0, 0.0]
    target = Path(os.environ["WATCH_FOLDER"]) / f"{os.getpid()}.json"
    staging = target.with_suffix(".tmp")
    staging.write_text(json.dumps(seen))
    staging.replace(target)


if "WATCH_FOLDER" in os.environ:
    gc.callbacks.append(_collected)
    signal.signal(signal.SIGUSR1, _tell)
