"""Time as the machine has it."""

from __future__ import annotations

import time

CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while a laptop sleeps, where the system has such a clock."""


class SystemClock:
    """The wall clock as it was when this began, carried on by one that nobody sets.

    A rollout that goes on after a restart counts from when it began, not from when the process did. But a clock that is set while an
    engine works must end no step, and must not let a lease run out.
    """

    def __init__(self) -> None:
        self._began_s = time.time() - time.clock_gettime(CLOCK)

    def now_s(self) -> float:
        """Return seconds since 1970."""
        return self._began_s + time.clock_gettime(CLOCK)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
