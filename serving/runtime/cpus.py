"""How many cores this process may use: the container's quota, not the host's count."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole cores that this process may use, at least 1.

    The smallest of the affinity mask and the CPU quota of cgroup v2 (``cpu.max``) or v1 (``cpu.cfs_quota_us``); a
    quota of 1.5 cores counts as 2 threads, since a thread that waits costs less than a core that idles.
    """
    cores = len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup_root / "cpu.max") or _quota_v1(cgroup_root / "cpu")
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def _quota_v2(file: Path) -> float | None:
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError):
        return None
