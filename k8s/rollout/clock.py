"""Time as the machine has it."""

from __future__ import annotations

import time


class SystemClock:
    """Wall-clock time: a rollout that goes on after a restart counts from when it began, not from when the process did."""

    def now_s(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
